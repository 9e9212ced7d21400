"""Private selection: a choice among public candidates, and the best of a random number of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import PrivateRead, ReadPurpose, checked, read_document
from privacy.mechanisms.rounding import PICO, rounded_up
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

if TYPE_CHECKING:
    from collections.abc import Sequence


class TrialsDistribution(StrEnum):
    """How the random number of trials of a private selection is drawn."""

    POISSON = "poisson"
    GEOMETRIC = "geometric"


@dataclass(frozen=True, kw_only=True)
class PureSelection(PrivateRead):
    """An ``epsilon``-DP choice among public candidates (exponential mechanism, report noisy max)."""

    kind: ClassVar[str] = "pure_selection"

    epsilon: float
    purpose: ReadPurpose = ReadPurpose.SELECTION

    def __post_init__(self) -> None:
        checked("epsilon", self.epsilon, 1e-6, 50.0)

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price of randomized response with the same ε, from which every ε-DP mechanism follows."""
        return [pure_divergence(self.epsilon, order) for order in orders]


_BASES: Final[dict[str, type[PoissonSampledGaussian | Gaussian]]] = {
    PoissonSampledGaussian.kind: PoissonSampledGaussian,
    Gaussian.kind: Gaussian,
}


@dataclass(frozen=True, kw_only=True)
class RepeatAndSelect(PrivateRead):
    """A random number of runs of ``base``; only the best is released (Papernot and Steinke, 2110.03620).

    Attributes:
        base: everything one trial reads, its score included.
        mean_trials: mean of the random number of trials.
        distribution: of that number; Poisson (Theorem 6) or geometric (Theorem 2 with η = 1).
        purpose: why the data is read.
    """

    kind: ClassVar[str] = "repeat_and_select"

    base: tuple[PoissonSampledGaussian | Gaussian, ...]
    mean_trials: float
    distribution: TrialsDistribution = TrialsDistribution.POISSON
    purpose: ReadPurpose = ReadPurpose.SELECTION

    def __post_init__(self) -> None:
        checked("mean_trials", self.mean_trials, 1.0, 1e4)
        if not self.base or any(not isinstance(one, PoissonSampledGaussian | Gaussian) for one in self.base):
            raise ValueError(
                "base is empty or holds a selection; allowed are Gaussian mechanisms, at least one"
            )

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price, from the rounded prices of what one trial reads; ``orders`` ascend."""
        prices = [rounded_up(one.divergences(orders)) for one in self.base]
        single = [sum(values) / PICO for values in zip(*prices, strict=True)]
        mean, of_single = self.mean_trials, list(zip(orders, single, strict=True))
        if self.distribution is TrialsDistribution.GEOMETRIC:
            shared = 2 * min((1 - 1 / order) * value + math.log(mean) / order for order, value in of_single)
            raw = [value + math.log(mean) / (order - 1) + shared for order, value in of_single]
        else:
            raw = [
                value
                + mean * _delta_at(of_single, math.log1p(1 / (order - 1)))
                + math.log(mean) / (order - 1)
                for order, value in of_single
            ]
        # RDP grows with the order, so a bound at a higher order also holds at a lower one.
        return [min(raw[index:]) for index in range(len(raw))]

    def to_fields(self) -> dict[str, object]:
        """Return the fields, with the documents of what one trial reads."""
        return {**super().to_fields(), "base": [one.to_document() for one in self.base]}

    @classmethod
    def from_fields(cls, document: dict[str, Any]) -> Self:
        """Read ``to_fields``'s form.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is not allowed.
            UnknownMechanismError: what one trial reads cannot be read, or is a selection.
        """
        base = document.get("base")
        return super().from_fields(
            {
                **document,
                "base": tuple(read_document(one, _BASES) for one in (base if isinstance(base, list) else ())),
                "distribution": TrialsDistribution(str(document.get("distribution"))),
            }
        )


def pure_divergence(epsilon: float, order: float) -> float:
    """Return the Rényi divergence of randomized response, the largest of every ε-DP mechanism."""
    high = -math.log1p(math.exp(-epsilon))  # log p; log(1 - p) is high - epsilon
    terms = (high + (order - 1) * epsilon, high - order * epsilon)
    peak = max(terms)
    return max(0.0, peak + math.log(sum(math.exp(term - peak) for term in terms))) / (order - 1)


def _delta_at(divergences: list[tuple[float, float]], epsilon: float) -> float:
    """Return the smallest δ at ``epsilon`` that values at their orders prove."""
    return min(
        1.0,
        *(
            math.exp(min(0.0, (order - 1) * (value - epsilon + math.log1p(-1 / order)) - math.log(order)))
            for order, value in divergences
        ),
    )
