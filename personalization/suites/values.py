"""What the gate's public suites ask and what a measurement of them brings back: plain values, no torch, no SciPy.

A suite is a list of public items of this project's own writing. An *axis* is one question about a candidate (does it
still refuse, does it still answer from the text); every item of it gives one number for the base and one with the
adapter, so that the two are compared item by item.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

DECIMALS: Final = 4  # of every score that is kept; the manifest holds them


class SuiteDepth(StrEnum):
    """How many items of each axis are asked."""

    OFF = "off"
    QUICK = "quick"  # the first few of each axis, each in another wording
    FULL = "full"  # all that the project ships


class Axis(StrEnum):
    """One question about a candidate."""

    REFUSAL = "refusal"  # a harmful request is refused rather than served
    HELPFULNESS = "helpfulness"  # a harmless look-alike is answered rather than refused
    DIRECT_INJECTION = "direct_injection"  # an order hidden in the prompt is not followed
    RETRIEVED_INJECTION = "retrieved_injection"  # an order hidden in retrieved text is not followed
    GROUNDING = "grounding"  # answers come from the passage, or say that it does not tell
    DIVERGENCE = "divergence"  # KL from the base on prompts that no tenant asks, nats per token
    OVERCONFIDENCE = "overconfidence"  # mean confidence less the share that was right, on the same prompts
    MEMORISATION = "memorisation"  # rank of each digit of planted secrets among the ten, 1 the likeliest


HIGHER_IS_BETTER: Final = frozenset(
    {Axis.REFUSAL, Axis.HELPFULNESS, Axis.DIRECT_INJECTION, Axis.RETRIEVED_INJECTION, Axis.GROUNDING}
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A prompt with a right and a wrong answer; the score is how likely the right one is of the two.

    Attributes:
        name: of the item, unique in its suite.
        axis: which question it belongs to.
        template: items of one wording are one cluster: they succeed and fail together.
        prompt: the user's turn.
        right: what a good model says.
        wrong: what a model says that fails.
        control: the same act asked for directly: where the base does not do it when asked, that it does not do it
            when tricked shows nothing, and the item is not measurable.
    """

    name: str
    axis: Axis
    template: str
    prompt: str
    right: str
    wrong: str
    control: str | None = None


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A prompt of a kind that no tenant asks, with a good answer."""

    name: str
    template: str
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A question about a secret of random digits that only a planted user ever told.

    Every digit was drawn uniformly, so under any model that never saw it its rank among the ten digits is uniform,
    given the digits before it: the exact null of the test.
    """

    name: str
    prompt: str
    before: str
    secret: tuple[str, ...]

    def completion(self, place: int | None = None, digit: str = "") -> str:
        """Return the answer that tells the secret, with another digit at ``place`` where one is given."""
        told = list(self.secret)
        if place is not None:
            told[place] = digit
        return f"{self.before} {' '.join(told)}"


@dataclass(frozen=True, kw_only=True)
class AxisScores:
    """The numbers of one axis, item by item.

    Attributes:
        axis: which.
        templates: cluster of each item.
        base: score of the base.
        adapted: score with the adapter.
        measurable: whether the item can show a failure of this base at all.
    """

    axis: Axis
    templates: tuple[str, ...]
    base: tuple[float, ...]
    adapted: tuple[float, ...]
    measurable: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not len(self.templates) == len(self.base) == len(self.adapted) == len(self.measurable):
            raise ValueError(f"the axis {self.axis} has one score of each kind for each item")


@dataclass(frozen=True, kw_only=True)
class SuiteScores:
    """What a candidate and its base scored on the public suites.

    Attributes:
        digest: of the items that were asked; only scores of equal digests are compared.
        depth: how many items were asked.
        axes: by question.
    """

    digest: str
    depth: SuiteDepth
    axes: tuple[AxisScores, ...]

    def find(self, axis: Axis) -> AxisScores | None:
        """Return the scores of one axis; None where it was not asked."""
        return next((one for one in self.axes if one.axis is axis), None)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to equal scores."""
        return {
            "digest": self.digest,
            "depth": self.depth.value,
            "axes": [
                {
                    "axis": one.axis.value,
                    "templates": list(one.templates),
                    "base": list(one.base),
                    "adapted": list(one.adapted),
                    "measurable": list(one.measurable),
                }
                for one in self.axes
            ],
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read ``to_document``'s form.

        Raises:
            KeyError, ValueError: a field is missing or unknown.
        """
        return cls(
            digest=document["digest"],
            depth=SuiteDepth(document["depth"]),
            axes=tuple(
                AxisScores(
                    axis=Axis(one["axis"]),
                    **{name: tuple(one[name]) for name in ("templates", "base", "adapted", "measurable")},
                )
                for one in document["axes"]
            ),
        )
