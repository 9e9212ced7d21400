"""Synthetic interactions under a tenant's public style guide: a warm start before any private data exist.

The tenant states its convention in public words: an instruction, a few examples it wrote itself and a pattern that
answers follow. The frozen base then answers public prompts with the guide before its eyes; answers that follow the
pattern are kept. Nothing private is read, so training on them needs no noise and costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from personalization.plan import TrainingPlan
from personalization.training.errors import JobInvalidError
from personalization.training.evaluation import generate
from personalization.training.job import Example, UserExamples
from personalization.training.quality.workbench import Workbench

Generator = Callable[[Path, Path | None, Sequence[str]], list[str]]
SHOWN_EXAMPLES = 3
WARM_START_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class StyleGuide:
    """What a tenant says in public about how its answers look.

    Attributes:
        instruction: one or two sentences.
        examples: (prompt, answer) pairs that the tenant wrote for the guide, at least one.
        prompts: public prompts that shall be answered in this style.
        pattern: regular expression that an answer follows from its start.
    """

    instruction: str
    examples: tuple[tuple[str, str], ...]
    prompts: tuple[str, ...] = ()
    pattern: str = ""

    def __post_init__(self) -> None:
        if not self.examples:
            raise JobInvalidError(
                "A style guide needs at least one example of its own; write one public answer."
            )
        try:
            followed = re.compile(self.pattern)
        except re.error as error:
            raise JobInvalidError(f"The style guide's pattern is no regular expression: {error}.") from None
        if not all(followed.match(answer) for _, answer in self.examples):
            raise JobInvalidError(
                "An example of the style guide does not follow its own pattern; correct one of them."
            )

    def question(self, prompt: str) -> str:
        """Return what the base is asked for one prompt: instruction, a few examples, the prompt."""
        shown = "\n\n".join(f"{asked}\n{answer}" for asked, answer in self.examples[:SHOWN_EXAMPLES])
        return f"{self.instruction}\n\n{shown}\n\n{prompt}\n"


def synthetic_users(
    base_model: Path, guide: StyleGuide, *, generator: Generator = generate
) -> tuple[UserExamples, ...]:
    """Return the guide's own examples and the base's answers that follow the pattern, one user each.

    Args:
        base_model: a local base model.
        guide: public words of the tenant.
        generator: answers prompts; greedy decoding of the plain base by default.
    """
    answers = (
        generator(base_model, None, [guide.question(prompt) for prompt in guide.prompts])
        if guide.prompts
        else []
    )
    first_lines = [answer.strip().split("\n")[0] for answer in answers]
    kept = [
        (prompt, line)
        for prompt, line in zip(guide.prompts, first_lines, strict=True)
        if line and re.match(guide.pattern, line)
    ]
    return tuple(
        UserExamples(examples=(Example(prompt=prompt, completion=answer),))
        for prompt, answer in (*guide.examples, *kept)
    )


def warm_start(bench: Workbench, users: Sequence[UserExamples], *, learning_rate: float) -> torch.Tensor:
    """Return the vector ``(size,)`` trained on synthetic users, without noise: they are public."""
    plan: TrainingPlan = replace(
        bench.plan,
        steps=WARM_START_STEPS,
        learning_rate=learning_rate,
        sample_rate=1.0,
        expected_cohort=float(len(users)),
        noise_multiplier=0.0,
        shrinkage=1.0,
    )
    return bench.train(bench.user_set(users), plan, noise_key=b"synthetic warm start, all public")
