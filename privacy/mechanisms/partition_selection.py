"""Weighted Gaussian partition selection: users vote for keys that nobody knows in advance.

**Guarantee.** Adding or removing one user changes the sum of votes by a vector of L2 norm at most 1. Every key that
somebody holds, and every key of a public alphabet, gets noise of standard deviation σ = ``noise_multiplier`` (in
votes); a key is released, with its noisy value, if that value is **above** its threshold. This is δ'-approximate
(α, α/2σ²)-Rényi private at every order α, δ' = ``delta`` (Rogers, arXiv 2309.09170, Theorem 7; the form with separate
bounds on weights and keys is OpenDP's). The proof in one paragraph: keys that both neighbors hold, and public ones, are
a Gaussian mechanism of sensitivity at most 1. A key that the user alone holds is released with probability at most
p = 1 − (1 − δ')^(1/T), T = ``unknown_keys``, since its noise would have to pass the threshold by itself; so with
probability at least (1 − p)^T = 1 − δ' none of the at most T such keys is, and then the output has the law that it has
without them. Weights need not be even: each key's threshold stands above the largest weight a user can give *it*.

**What the caller must have done**, for each user alone: a vote vector in whole units of ``1 / VOTE_UNIT`` whose sum of
squares is at most ``VOTE_UNIT²``; at most ``unknown_keys`` keys outside public alphabets, over all families together;
no number above the weight that the threshold of its key is asked for. Keys and weights depend on that user's own
texts, on public facts and on what was released, never on another user's. Every key of a public alphabet gets noise,
held or not, for leaving the unheld ones out would tell who holds the others. What is released stands in an order that
does not come from the data.

**The noise** is whole units: the discrete Gaussian (``privacy.noise.discrete``) of ``noise_units``, or a continuous one
rounded to whole units (``privacy.noise.normal``). Both are charged as the Gaussian, and of both
P[noise ≥ m] ≤ P[N(0, σ²) ≥ m − 1] at every whole m ≥ 1 (Canonne, Kamath and Steinke, arXiv 2004.00010,
Proposition 25; for the other, rounding adds at most half a unit). A threshold therefore lies one unit higher than the
tail of the normal distribution says, and one more, so that it holds for a value *at* the threshold too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar, Final

from privacy.mechanisms.private_read import (
    PrivateRead,
    ReadPurpose,
    checked,
    checked_count,
    gaussian_divergences,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

VOTE_BITS: Final = 20
VOTE_UNIT: Final = 1 << VOTE_BITS  # whole units in one vote: the L2 bound on a user's vector
# Of a vote that leads a release: a user gives one key for each of at most so many answers, of this weight together.
LEADING_KEYS: Final = 4
LEADING_WEIGHT: Final = 0.90
_QUANTILE_ERROR: Final = 1e-9  # far above the relative error of ``NormalDist.inv_cdf`` (10⁻¹⁵)


@dataclass(frozen=True, kw_only=True)
class PartitionSelection(PrivateRead):
    """One vote of all users; see the module for the guarantee and for what must hold of each user's vote.

    Attributes:
        noise_multiplier: standard deviation of each key's noise, in votes; the L2 sensitivity is 1 vote.
        delta: δ' of the selection: how probably a key that one user alone holds is released at all.
        unknown_keys: most keys of one user that are outside public alphabets.
        purpose: why the data is read.
    """

    kind: ClassVar[str] = "partition_selection"

    noise_multiplier: float
    delta: float
    unknown_keys: int
    purpose: ReadPurpose = ReadPurpose.STYLE

    def __post_init__(self) -> None:
        checked("noise_multiplier", self.noise_multiplier, 0.05, 1e4)
        checked("delta", self.delta, 1e-24, 1e-3)
        checked_count("unknown_keys", self.unknown_keys, 10_000)

    @property
    def leads(self) -> bool:
        """Whether it is a vote of few users about how answers open, which takes what training would have had."""
        return self.unknown_keys <= LEADING_KEYS

    @property
    def noise_units(self) -> float:
        """Parameter of the noise in units of ``1 / VOTE_UNIT``; exact."""
        return math.ldexp(self.noise_multiplier, VOTE_BITS)

    @property
    def selection_delta(self) -> float:
        """δ', which is charged beside the divergences."""
        return self.delta

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price: α/2σ², given that nobody's own key comes out, which fails with probability δ'."""
        return gaussian_divergences(self.noise_multiplier, orders)

    def threshold(self, weight: float) -> float:
        """Return above which noisy value (in votes, a whole number of units) a key of an unknown alphabet is released.

        Args:
            weight: the most that one user can give such a key, in votes.

        Raises:
            ValueError: the weight is not above 0 and at most 1.
        """
        if not 0 < weight <= 1:
            raise ValueError(f"the weight of a key is {weight!r}; allowed is a number above 0, at most 1")
        alone = -math.expm1(math.log1p(-self.delta) / self.unknown_keys)
        reach = self.noise_units * _upper_quantile(alone) * (1 + _QUANTILE_ERROR)
        return math.ldexp(math.ceil(math.ldexp(weight, VOTE_BITS)) + math.ceil(reach) + 1, -VOTE_BITS)

    def public_threshold(self, candidates: int, false_keys: float) -> float:
        """Return above which noisy value (in votes) a key of a public alphabet is kept; privacy does not rest on it.

        Args:
            candidates: keys of public alphabets, all of which get noise.
            false_keys: how many of them may be kept though nobody holds them, on average.

        Raises:
            ValueError: there is no candidate, or not fewer false keys than half of them.
        """
        if candidates < 1 or not 0 < false_keys < candidates / 2:
            raise ValueError(
                f"{false_keys!r} false keys of {candidates} candidates are asked for; allowed are more than 0 and "
                "fewer than half of them"
            )
        return self.noise_multiplier * _upper_quantile(false_keys / candidates)


def _upper_quantile(probability: float) -> float:
    """Return x with P[N(0, 1) ≥ x] = ``probability``; precise however small it is."""
    return -NormalDist().inv_cdf(probability)
