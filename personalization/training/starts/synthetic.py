"""Synthetic interactions under a tenant's public style guide: a warm start before any private data exist.

The tenant states its convention in public words: an instruction, a few examples it wrote itself and a pattern that
answers follow. The frozen base then answers public prompts with the guide before its eyes; answers that follow the
pattern are kept. Nothing private is read, so training on them needs no noise and costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from personalization.planning.plan import TrainingPlan
from personalization.training.jobs.job import Example, UserExamples
from personalization.training.jobs.recipes import StyleGuide
from personalization.training.run.bench import Workbench
from personalization.training.run.measure import generate

Generator = Callable[[Path, Path | None, Sequence[str]], list[str]]
WARM_START_STEPS = 10


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
        bench.plan.with_mechanism(steps=WARM_START_STEPS, sample_rate=1.0, noise_multiplier=0.0),
        learning_rate=learning_rate,
        expected_cohort=float(len(users)),
        shrinkage=1.0,
    )
    return bench.train(bench.user_set(users), plan, noise_key=b"synthetic warm start, all public")
