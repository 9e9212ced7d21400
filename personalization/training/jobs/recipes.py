"""What a public job is asked to do, as plain values (no torch here): words and numbers that everyone may read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from personalization.training.errors import JobInvalidError

SHOWN_EXAMPLES = 3
MOST_EXAMPLES = 1_000


class TaskSampling(StrEnum):
    """Which public tasks an outer step of meta-learning looks at."""

    UNIFORM = "uniform"  # all alike
    LOSS = "loss"  # the worse the present start is on a task, the likelier
    DIVERSITY = "diversity"  # tasks whose gradients point away from each other
    EASY_FIRST = "easy_first"  # a curriculum: the easiest tasks, then more and more of the others


@dataclass(frozen=True, kw_only=True)
class MamlRecipe:
    """Public numbers of the two loops of first-order MAML.

    Attributes:
        outer_steps: passes over all tasks.
        outer_rate: length of one outer step, in the units of the adapter's vector.
        inner_steps: steps of adaptation to one task.
        inner_rate: their learning rate.
        sampling: which tasks an outer step looks at.
        tasks_per_step: how many; None takes all of them, or of the curriculum all that it has come to.
    """

    outer_steps: int = 10
    outer_rate: float = 0.1
    inner_steps: int = 4
    inner_rate: float = 0.03
    sampling: TaskSampling = TaskSampling.UNIFORM
    tasks_per_step: int | None = None

    def __post_init__(self) -> None:
        if self.tasks_per_step is not None and self.tasks_per_step < 1:
            raise JobInvalidError(f"tasks_per_step is {self.tasks_per_step}; allowed is 1 or more, or none")

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; what came later is left out where it has its default."""
        document = asdict(self)
        if self.tasks_per_step is None:
            del document["tasks_per_step"]
            if self.sampling is TaskSampling.UNIFORM:
                del document["sampling"]
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> MamlRecipe:
        """Read ``to_document``'s form back to an equal recipe."""
        sampling = TaskSampling(document.get("sampling", TaskSampling.UNIFORM))
        return cls(**{**document, "sampling": sampling})


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
                "a style guide needs at least one example of its own; write one public answer"
            )
        try:
            followed = re.compile(self.pattern)
        except re.error as error:
            raise JobInvalidError(f"the style guide's pattern is no regular expression: {error}") from None
        if not all(followed.match(answer) for _, answer in self.examples):
            raise JobInvalidError(
                "an example of the style guide does not follow its own pattern; correct one of them"
            )

    def question(self, prompt: str) -> str:
        """Return what the base is asked for one prompt: instruction, a few examples, the prompt."""
        shown = "\n\n".join(f"{asked}\n{answer}" for asked, answer in self.examples[:SHOWN_EXAMPLES])
        return f"{self.instruction}\n\n{shown}\n\n{prompt}\n"

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal guide."""
        return {
            **asdict(self),
            "examples": [{"prompt": prompt, "answer": answer} for prompt, answer in self.examples],
            "prompts": list(self.prompts),
        }

    @classmethod
    def from_document(cls, document: object) -> StyleGuide:
        """Read a guide as a tenant writes it: instruction, examples of prompt and answer, prompts, pattern.

        Raises:
            JobInvalidError: a field is missing, unknown or of another type, or the guide does not follow itself.
        """
        if not isinstance(document, Mapping):
            raise JobInvalidError("a style guide is a JSON object with instruction and examples")
        if unknown := set(document) - {"instruction", "examples", "prompts", "pattern"}:
            raise JobInvalidError(
                f"the style guide has an unknown field {min(map(str, unknown))!r}; allowed are instruction, "
                "examples, prompts and pattern"
            )
        examples, prompts = document.get("examples", ()), document.get("prompts", ())
        if not isinstance(examples, list | tuple) or not isinstance(prompts, list | tuple):
            raise JobInvalidError("the style guide's examples and prompts are lists")
        if len(examples) + len(prompts) > MOST_EXAMPLES:
            raise JobInvalidError(f"a style guide holds at most {MOST_EXAMPLES:,} examples and prompts")
        pairs = tuple((one.get("prompt"), one.get("answer")) for one in examples if isinstance(one, Mapping))
        texts = [document.get("instruction"), document.get("pattern", ""), *prompts]
        texts += [text for pair in pairs for text in pair]
        if len(pairs) < len(examples) or not all(isinstance(text, str) for text in texts):
            raise JobInvalidError(
                "the style guide's instruction, pattern and prompts are texts, and each example has the texts prompt "
                "and answer"
            )
        return cls(
            instruction=document["instruction"],
            examples=pairs,  # type: ignore[arg-type]  # every one was found to be a text
            prompts=tuple(prompts),
            pattern=document.get("pattern", ""),
        )
