"""Decide from released sums whether users take a candidate better or worse: free, because it reads nothing private.

The bound is a confidence sequence (a normal mixture: Robbins 1970; Howard et al., Annals of Statistics 49(2), 2021), so
looking again and again does not cheat: over all looks together a candidate that is taken alike is called better or
worse with probability at most ``ALPHA``. It holds for the sum of two things, how users differ and the noise of the
mechanism: the variance that the sequence is built with is the released sum of squares, moved up by a quantile of its
own noise (which costs ``SPENT`` of the probability), plus the variance of the noise in the effect.

Where one arm answers much more often than its share (``MOST_IMBALANCE`` standard deviations), what is compared are
different people, and nothing is decided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from personalization.rollouts.evidence import Verdict
from privacy.mechanisms.noisy_comparison import UNIT_BITS, Sums
from privacy.noise.discrete import discrete_gaussian
from privacy.noise.keystream import PURPOSE_COMPARISON

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from privacy.mechanisms.noisy_comparison import Arms, NoisyComparison
    from privacy.noise.keystream import SecretStream

ALPHA: Final = 0.05
SPENT: Final = 0.005  # of ALPHA: that the released sum of squares lies far below the true one, at any look
MIXTURE: Final = 0.02  # r over the expected users (at reach 1): where the sequence is tightest
MOST_IMBALANCE: Final = 3.3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What released sums say so far.

    Attributes:
        verdict: better, worse, none (look again) or undecided (that was the last look, or the arms differ).
        effect: estimated difference of acceptance between the arms, candidate minus version.
        users: estimated number of users, as released.
        looks: how many looks it rests on.
    """

    verdict: Verdict
    effect: float
    users: float
    looks: int


def release(mechanism: NoisyComparison, parts: Iterable[Sums], stream: SecretStream, look: int) -> Sums:
    """Return the noisy sums of one look; the only private step.

    Args:
        mechanism: as it is charged.
        parts: what each user of the look adds (``Arms.part``).
        stream: the secret stream of the comparison; the same look always gets the same noise.
        look: its number, from 0.

    Raises:
        ValueError: the look is not one that was charged.
    """
    if not 0 <= look < mechanism.looks:
        raise ValueError(f"look {look} is asked for; charged are the looks 0 to {mechanism.looks - 1}")
    totals = [0, 0, 0, 0]
    for part in parts:
        totals = [total + one for total, one in zip(totals, part, strict=True)]
    noisy = [
        total + discrete_gaussian(stream, PURPOSE_COMPARISON, 4 * look + place, mechanism.noise_units)
        for place, total in enumerate(totals)
    ]
    return Sums(*noisy)


def compare(
    mechanism: NoisyComparison,
    arms: Arms,
    looks: Sequence[Sums],
    *,
    expected_users: float,
    last: bool | None = None,
) -> Comparison:
    """Return what the looks so far say, each of whose sums were released with noise.

    Args:
        mechanism: as it was charged.
        arms: its public numbers.
        looks: released sums, first look first.
        expected_users: public guess of how many users react in all; it says where the bound is tightest, and however
            wrong it is, the bound holds.
        last: whether no further look comes; all of them were taken, if not said (looks may have been lost).

    Raises:
        ValueError: there is no look, or more than were charged.
    """
    taken = len(looks)
    if not 1 <= taken <= mechanism.looks:
        raise ValueError(f"{taken} looks are given; allowed are 1 to {mechanism.looks}")
    length, reach = arms.length, arms.reach
    effect, square, users, sign = (
        math.ldexp(sum(column), -UNIT_BITS) * length for column in zip(*looks, strict=True)
    )
    noise = mechanism.noise_multiplier * length  # standard deviation of the noise of one look's sum
    counted = 2 * users / reach
    quantile = NormalDist().inv_cdf(1 - SPENT / mechanism.looks)
    spread = 2 * reach * (square + noise * math.sqrt(taken) * quantile)
    variance = max(spread, 0.0) + taken * noise**2
    mixture = MIXTURE * expected_users * reach**2
    bound = (variance + mixture) * math.log((variance + mixture) / (mixture * (ALPHA - SPENT) ** 2))
    difference = 2 * effect / counted if counted >= 1 else 0.0
    over = taken == mechanism.looks if last is None else last
    verdict = Verdict.UNDECIDED if over else Verdict.NONE
    if _imbalanced(arms, sign, counted, noise, taken):
        verdict = Verdict.UNDECIDED
    elif effect * effect >= bound:
        verdict = Verdict.BETTER if effect > 0 else Verdict.WORSE
    return Comparison(verdict=verdict, effect=difference, users=counted, looks=taken)


def _imbalanced(arms: Arms, sign: float, counted: float, noise: float, taken: int) -> bool:
    """Say whether one arm has many more or fewer reacting users than its share."""
    signs = 2 * sign / arms.reach
    expected = counted * (2 * arms.share - 1)
    # Of a user's sign, and of the noise in both sums.
    variance = max(counted, 0.0) * 4 * arms.share * (1 - arms.share) + 8 * taken * noise**2 / arms.reach**2
    return abs(signs - expected) > MOST_IMBALANCE * math.sqrt(variance)
