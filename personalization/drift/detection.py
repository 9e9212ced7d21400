"""Whether what users ask has changed: a test over released histograms, so it costs nothing.

At a reading, every way to cut the line's readings into earlier and later ones is tried, for every family of bins. A cut
is judged by the distance of the two parts' shares against what chance explains::

    d = share(later) − share(earlier)          Q = dᵀ C⁻¹ d  ~  χ² with (bins − 1) degrees of freedom
    C = Σ over both parts of  (diag p − ppᵀ)/n  +  τ²/n² · (I − p1ᵀ)(I − 1pᵀ)

The second term is the noise, whose variance is public. The first is the most that users' own variety can add: of parts
that are shares over bins, the covariance is at most that of users with one bin each. In it ``n`` counts users as if the
same ones came to every reading of a part (then more readings do not make them more), so it holds whether users stay or
change. ``p`` are the shares of both parts together, ``τ`` the noise in users. There are families times cuts such
tests at a reading; each is held to ``level`` divided by their number, so the probability of a false alarm at a reading
is at most ``level`` whatever depends on what (Bonferroni), as far as sums of many users and Gaussian noise are normal.

Cutting everywhere finds a sudden change as soon as it shows and a small one once enough readings lie behind it, and
says since when. What was before an alarm is dropped from later comparisons: they begin at the change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import chdtrc, chdtri

from personalization.drift.features import FAMILIES
from personalization.drift.values import Judgement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from personalization.drift.values import Histogram

    Numbers = npt.NDArray[np.float64]

MOST_READINGS: Final = 26  # the newest ones, that are looked at
SEEN: Final = 4.0  # standard deviations that the number of users must lie above 0 for shares to mean anything
SMALLEST_SHARE: Final = 1e-3  # of a bin in the covariance, so that it has an inverse
LARGEST_NOTICED: Final = (
    0.75  # of the users; where more must change at once, readings are not worth their price
)
POWER: Final = 1.2816  # nine times out of ten


@dataclass(frozen=True)
class Parts:
    """The readings on one side of each cut, of one family.

    Attributes:
        users: noisy numbers of users in each bin, added up, (cuts, bins).
        variance: of the noise of each of them, (cuts,).
        roots: sum of the square roots of the readings' numbers of users, (cuts,).
    """

    users: Numbers
    variance: Numbers
    roots: Numbers

    @property
    def total(self) -> Numbers:
        """Noisy number of users, over all readings."""
        return np.asarray(self.users.sum(axis=1), dtype=np.float64)

    @property
    def persons(self) -> Numbers:
        """Users as if the same ones came to every reading."""
        return np.asarray((np.maximum(self.total, 0.0) / np.maximum(self.roots, 1e-9)) ** 2, dtype=np.float64)

    def seen(self, least: float) -> npt.NDArray[np.bool_]:
        """Whether users can be told from noise, and are as many as must be."""
        noise = np.sqrt(self.variance * self.users.shape[1])
        return np.asarray((self.total > SEEN * noise) & (self.persons >= least), dtype=np.bool_)

    def of(self, cuts: npt.NDArray[np.bool_]) -> Parts:
        """Return these cuts alone."""
        return Parts(self.users[cuts], self.variance[cuts], self.roots[cuts])

    def covariance(self, p: Numbers) -> Numbers:
        """Return the covariances of its shares of all bins but the last, where they are ``p``."""
        bins = p.shape[1]
        unit, ones = np.eye(bins), np.ones(bins)
        users = p[:, :, None] * unit - p[:, :, None] * p[:, None, :]
        centre = unit - p[:, :, None] * ones
        noise = centre @ np.swapaxes(centre, 1, 2)
        both = users / self.persons[:, None, None] + noise * (self.variance / self.total**2)[:, None, None]
        return np.asarray(both[:, :-1, :-1], dtype=np.float64)


def judge(readings: Sequence[Histogram], *, level: float, minimum_cohort: int = 0) -> Judgement:
    """Return what the newest reading says, seen with those before it.

    Args:
        readings: of one line since the last change, oldest first.
        level: probability of a false alarm.
        minimum_cohort: fewest users, as estimated, that anything is said of.
    """
    readings = readings[-MOST_READINGS:]
    nothing = Judgement(users=max(0, round(_users(readings[-1]))) if readings else 0, compared=len(readings))
    tests = len(FAMILIES) * (len(readings) - 1)
    if tests <= 0:
        return nothing
    found: list[Judgement] = []
    for number, family in enumerate(FAMILIES):
        counts = np.array([one.users_of(number) for one in readings])
        variances = np.array([(one.noise_multiplier / family.weight) ** 2 for one in readings])
        earlier, later = _cut(counts, variances)
        told = earlier.seen(minimum_cohort) & later.seen(minimum_cohort)
        if not told.any():
            continue
        statistics, before, after = _compared(earlier.of(told), later.of(told))
        best = int(np.argmax(statistics))
        degrees = len(family.bins) - 1
        chance = min(1.0, float(chdtrc(degrees, statistics[best])) * tests)
        found.append(
            replace(
                nothing,
                enough=True,
                family=family.name,
                since=readings[int(np.flatnonzero(told)[best]) + 1].since,
                statistic=round(float(statistics[best]), 3),
                threshold=round(float(chdtri(degrees, level / tests)), 3),
                degrees=degrees,
                chance=chance,
                drifted=chance <= level,
                before=_told(before[best]),
                after=_told(after[best]),
            )
        )
    return min(found, key=lambda one: (one.chance, -one.statistic / one.threshold), default=nothing)


def shares_of(histogram: Histogram, number: int) -> tuple[float, ...]:
    """Return the shares of a family's bins in one reading, as far as noise lets them be told; for pictures."""
    return _told(np.array(histogram.users_of(number)))


def noticed_share(noise_multiplier: float, users: int, level: float) -> float:
    """Return which share of users must move from one bin to another for two readings to tell, nine times out of ten.

    Of the family of fewest bins; for public numbers alone. 1 or more: nothing is ever told.
    """
    family = max(FAMILIES, key=lambda one: one.weight / math.sqrt(len(one.bins)))
    degrees = len(family.bins) - 1
    noise = (
        2 * (noise_multiplier / family.weight / users) ** 2 + 1 / users
    )  # variance of a difference of shares
    threshold = float(chdtri(degrees, level / len(FAMILIES)))
    # a distance of s·√2 between shares; a non-central chi-square is about normal, of mean k + λ and variance 2k + 4λ
    distance = math.sqrt(max(0.0, threshold - degrees)) + POWER
    return float(distance * math.sqrt(noise / 2))


def _cut(counts: Numbers, variances: Numbers) -> tuple[Parts, Parts]:
    """Return both sides of every cut of a family's readings, (readings, bins)."""
    roots = np.sqrt(np.maximum(counts.sum(axis=1), 0.0))
    sums = [np.cumsum(values, axis=0) for values in (counts, variances, roots)]
    return Parts(*(values[:-1] for values in sums)), Parts(*(values[-1] - values[:-1] for values in sums))


def _compared(earlier: Parts, later: Parts) -> tuple[Numbers, Numbers, Numbers]:
    """Return the statistic of each cut, and the shares on either side of it."""
    before, after = (part.users / part.total[:, None] for part in (earlier, later))
    weights = earlier.persons[:, None], later.persons[:, None]
    p = _simplex((weights[0] * before + weights[1] * after) / (weights[0] + weights[1]))
    difference = (after - before)[:, :-1]
    solved = np.linalg.solve(earlier.covariance(p) + later.covariance(p), difference[:, :, None])[:, :, 0]
    return np.asarray((difference * solved).sum(axis=1), dtype=np.float64), before, after


def _simplex(values: Numbers) -> Numbers:
    """Return shares that are not negative and add up to 1, of each row."""
    total = np.maximum(values.sum(axis=-1, keepdims=True), 1e-9)
    held = np.maximum(values / total, SMALLEST_SHARE)
    return np.asarray(held / held.sum(axis=-1, keepdims=True), dtype=np.float64)


def _told(values: Numbers) -> tuple[float, ...]:
    return tuple(round(float(one), 4) for one in _simplex(values))


def _users(reading: Histogram) -> float:
    """Return the number of users that a reading's families tell of, the surer ones counting for more."""
    weights = [family.weight**2 / len(family.bins) for family in FAMILIES]
    totals = [sum(reading.users_of(number)) for number in range(len(FAMILIES))]
    return sum(w * total for w, total in zip(weights, totals, strict=True)) / sum(weights)
