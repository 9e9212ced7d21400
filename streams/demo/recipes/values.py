"""What a recipe is, what bounds a run of it, and what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from personalization.training.base.directory import BUNDLED

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from personalization.quality.intervals import Interval
    from streams.demo.installation import Installation
    from streams.demo.recipes.people import Question

BASE = "base"
ONE_DRAW = "A run is one draw of the noise: intervals tell how users differ, not how another draw would."


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What bounds the work.

    Attributes:
        quick: fewer users and lines, for a first look.
        data: folder of recorded interactions in place of the recipe's own people, for recipes that can take them.
        keep: new folder for database, logs, adapters and the picture; ``None`` removes them at the end.
        base_model: the bundled model, or the directory of another one.
        engine: folder of llama.cpp, for the recipe that needs it.
    """

    quick: bool = False
    data: Path | None = None
    keep: Path | None = None
    base_model: str = next(iter(BUNDLED))
    engine: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a recipe: the processes it may use and the numbers it is bounded by."""

    here: Installation
    options: RecipeOptions
    now: datetime

    def size(self, whole: int, quick: int) -> int:
        """Return the number for this run."""
        return quick if self.options.quick else whole


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What an answer is judged by; it reads the answer and the question, never how answers were made.

    Attributes:
        name: a few words.
        holds: says whether an answer does as the rule says.
        kept: the rule already holds for the base and must not be lost, so no gain is looked for.
    """

    name: str
    holds: Callable[[str, Question], bool]
    kept: bool = False


def both(one: Rule, other: Rule) -> Rule:
    """Return the rule that two hold at once."""
    return Rule(
        name=f"{one.name}, {other.name}",
        holds=lambda answer, asked: one.holds(answer, asked) and other.holds(answer, asked),
    )


class Verdict(StrEnum):
    """What the interval of the difference to the base says."""

    BETTER = "better"
    WORSE = "worse"
    NO_EFFECT = "no effect shown"
    KEPT = "kept"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number, per arm, over held-out users.

    Attributes:
        line: what it is of.
        name: what it says.
        arms: mean over users with its interval; the base comes first.
        gain: the last arm less the base, paired by user; better is above zero.
        users: held-out users.
        prompts: their prompts.
        verdict: what the gain's interval says.
        share: whether it is a share of answers; else nats per token.
    """

    line: str
    name: str
    arms: dict[str, Interval]
    gain: Interval
    users: int
    prompts: int
    verdict: Verdict
    share: bool = True


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """One held-out prompt and what each arm answered."""

    line: str
    prompt: str
    written: str
    answers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a tenant's users may have lost over all releases of the run, of what its policy allows."""

    tenant: str
    epsilon: float
    allowed: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class Table:
    """A small table of a recipe's own."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class RecipeReport:
    """All that one run found.

    Attributes:
        findings: sentences, also what did not work.
        tables: of the recipe's own.
        seconds: by stage.
    """

    name: str
    title: str
    quick: bool
    spent: tuple[Spent, ...]
    measures: tuple[Measure, ...]
    examples: tuple[SideBySide, ...] = ()
    findings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def epsilon(self) -> float:
        """The largest that a user of any of its tenants may have lost."""
        return max((one.epsilon for one in self.spent), default=0.0)

    @property
    def whole_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **{name: getattr(self, name) for name in ("name", "title", "quick")},
            "epsilon": self.epsilon,
            "spent": [asdict(one) for one in self.spent],
            "measures": [asdict(one) for one in self.measures],
            "intervals": ONE_DRAW,
            "examples": [asdict(one) for one in self.examples],
            "findings": list(self.findings),
            "tables": [asdict(one) for one in self.tables],
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "whole_seconds": round(self.whole_seconds, 1),
        }
