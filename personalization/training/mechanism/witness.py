"""The witness of one tenant's run: it sees what reached the sums and the noise that was added, and writes the receipt.

It takes nothing from the code it watches but raw quantities: which user's row came to a sum, whether the row's whole
numbers were too long, and the two moments of (sum with noise) − (sum without), measured where the inner optimizer takes
over. The coins it works out anew, with a cipher of its own.

Limits of the noise's moments are Chernoff's for a χ² and a normal variable, so they hold at every size; with ``_RARE``
a run without fault is refused with a probability below 10⁻¹². That refusal depends on the noise alone, and adds less
than e^ε·10⁻¹² to δ. No moment leaves the child (see ``training.jobs.receipt``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from personalization.planning.plan import TrainingPlan
from personalization.training.errors import PlanViolatedError
from personalization.training.jobs.receipt import Receipt, departures
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

# Every test fails by chance with a probability of at most e^-_RARE.
_RARE = 31.0


class Witness:
    """Watches one tenant's mechanism.

    Args:
        plan: what was charged.
        key: the tenant's 32 secret bytes.
        usable: for each of the tenant's users, in order, whether any example of theirs teaches something; the others
            add exactly zero, and no row of theirs is made.
    """

    def __init__(self, plan: TrainingPlan, key: bytes, usable: Sequence[bool]) -> None:
        self._plan = plan
        self._key = key
        self._usable = np.array(usable, dtype=bool)
        # The noise that was charged, in units of the lattice whose 2²⁰ are the clipping norm. Spelled out here: a
        # wrong number in the code that is watched must not become the measure.
        self.deviation = plan.noise_multiplier * 2.0**20
        self._seen: list[int] = []
        self._steps: list[int] = []
        self._moments: list[tuple[float, float]] = []
        self._count = 0  # numbers of noise a step
        self._sums = (0.0, 0.0)
        self._noise_ok = self._coins_ok = self._norms_ok = True

    def row(self, user: int, *, too_long: bool) -> None:
        """A row of this user, by number, came to the sum of the current step."""
        self._seen.append(user)
        self._norms_ok = self._norms_ok and not too_long

    def step(self, number: int, count: int, total: float, squares: float) -> None:
        """A step ended.

        Args:
            number: the step's.
            count: how many numbers its noise has.
            total: sum of the noise ÷ the asked deviation.
            squares: sum of the squares of the same.
        """
        drawn = np.flatnonzero(self._coins(number) & self._usable)
        self._coins_ok = self._coins_ok and sorted(self._seen) == drawn.tolist()
        self._seen = []
        self._steps.append(number)
        self._noise_ok = self._noise_ok and self._count in (0, count)
        self._count = count
        rare = _RARE + math.ceil(math.log(self._plan.steps))
        self._noise_ok = self._noise_ok and _fits(count, squares, rare)
        self._sums = (self._sums[0] + total, self._sums[1] + squares)
        self._moments.append((abs(total), squares))

    def receipt(self, squares_of_the_sum: float) -> Receipt | None:
        """Return what was measured; None for a plan that no charge exists for, such as one without noise.

        Args:
            squares_of_the_sum: sum of squares of all steps' noise added up, ÷ the asked variance.

        Raises:
            PlanViolatedError: it differs from the plan.
        """
        plan, steps = self._plan, len(self._steps)
        numbers = steps * self._count
        noiseless = plan.noise_multiplier == 0
        fits = (
            _fits(numbers, self._sums[1], _RARE)
            and abs(self._sums[0]) <= math.sqrt(2 * _RARE * numbers)
            # Steps that resemble each other, wholly or in part, add up to more (or less) than independent ones.
            and _fits(self._count, squares_of_the_sum / max(1, steps), _RARE)
        )
        checks = {
            "noise_ok": noiseless or (self._noise_ok and fits),
            # Equal vectors have equal moments, and independent ones differ in them.
            "distinct_steps_ok": noiseless or len(set(self._moments)) == steps,
            "coins_ok": self._coins_ok,
            "largest_norm_ok": self._norms_ok,
        }
        wrong = departures(steps_ok=self._steps == list(range(plan.steps)), **checks)
        if wrong:
            raise PlanViolatedError(
                f"the run differs from its plan: {'; '.join(wrong)}; it is void and its budget stays spent"
            )
        if not isinstance(plan.mechanism, PoissonSampledGaussian):
            return None
        return Receipt(
            mechanism=plan.mechanism,
            plan_digest=plan.digest(),
            steps=steps,
            noise_count=numbers,
            noise_tolerance=noise_tolerance(numbers),
            **checks,
        )

    def _coins(self, step: int) -> np.ndarray:
        """Return for each user whether the coin of this step fell."""
        count, rate = len(self._usable), self._plan.sample_rate
        if rate >= 1:
            return np.ones(count, dtype=bool)
        nonce = bytes(4) + b"draw" + step.to_bytes(8, "little")
        octets = Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor().update(bytes(8 * count))
        # A number w of 52 bits stands for w/2⁵² < rate; both are exact.
        return np.frombuffer(octets, dtype="<u8") % (1 << 52) < math.ceil(rate * (1 << 52))


def noise_tolerance(numbers: int) -> float:
    """Return the largest relative difference of a deviation of so many numbers that is taken for chance."""
    lower, upper = _limits(numbers, _RARE)
    return max(1 - math.sqrt(lower), math.sqrt(upper) - 1)


def _fits(count: int, squares: float, rare: float) -> bool:
    """Say whether this may be the sum of squares of so many standard normal numbers."""
    lower, upper = _limits(count, rare)
    return lower * count <= squares <= upper * count


@lru_cache(maxsize=256)
def _limits(count: int, rare: float) -> tuple[float, float]:
    """Return the two r ≠ 1 with (ln r + 1 − r)·count/2 = −rare: χ² ÷ count passes either with at most e^-rare."""

    def exponent(log_ratio: float) -> float:
        return (math.expm1(log_ratio) - log_ratio) * count / 2

    limits = []
    for outer in (-2 * rare / max(1, count) - 2, math.log(4 * rare / max(1, count) + 4)):
        inside, outside = 0.0, outer
        for _ in range(100):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if exponent(middle) < rare else (inside, middle)
        limits.append(math.exp(outside))
    return limits[0], limits[1]
