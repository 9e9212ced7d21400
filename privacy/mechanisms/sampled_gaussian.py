"""DP-SGD: sums of clipped gradients over Poisson draws of users, with Gaussian noise; and what it costs.

Poisson-subsampled Gaussian at a whole order α (Mironov, Talwar and Zhang, arXiv 1908.10530, §3.3), q =
sample rate:

    A_α = Σᵢ C(α,i) (1-q)^(α-i) qⁱ exp(i(i-1)/2σ²),   RDP(α) = log A_α / (α-1) per step.

The terms i = 0 and 1 of the exponential are 1, so A_α - 1 is a sum of positive terms over i ≥ 2 with expm1;
that form keeps its relative precision however small the loss is. Both directions of add-or-remove-one are
covered (ibid., §3.1). At fractional orders the same quantity is an integral with the positive integrand of
``_log_excess_fractional``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np

from privacy.guarantee import Sampler
from privacy.mechanisms.private_read import (
    PrivateRead,
    ReadPurpose,
    checked,
    checked_count,
    gaussian_divergences,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_WHOLE_ORDER: Final = 1024
_LOG_FACTORIAL: Final = np.cumsum(np.concatenate([[0.0], np.log(np.arange(1, LARGEST_WHOLE_ORDER + 1))]))


@dataclass(frozen=True, kw_only=True)
class PoissonSampledGaussian(PrivateRead):
    """DP-SGD: ``steps`` sums of clipped per-user gradients over Poisson draws, each with Gaussian noise.

    Attributes:
        noise_multiplier: noise standard deviation ÷ clipping norm (no unit).
        sample_rate: Poisson probability per user and step; 1 means every user takes part.
        steps: composed applications.
        purpose: why the data is read.
        clipping_norm: L2 bound on one user's gradient (recorded for the statement; the cost does not depend
            on it).
        contribution_bound: most records one user may have (recorded for the statement).
    """

    kind: ClassVar[str] = "poisson_sampled_gaussian"

    noise_multiplier: float
    sample_rate: float
    steps: int
    purpose: ReadPurpose = ReadPurpose.TRAINING
    clipping_norm: float | None = None
    contribution_bound: int | None = None

    def __post_init__(self) -> None:
        checked("noise_multiplier", self.noise_multiplier, 0.05, 1e4)
        checked("sample_rate", self.sample_rate, 1e-7, 1.0)
        checked_count("steps", self.steps, 1_000_000)
        if self.clipping_norm is not None:
            checked("clipping_norm", self.clipping_norm, 1e-9, 1e9)
        if self.contribution_bound is not None:
            checked_count("contribution_bound", self.contribution_bound, 1_000_000)

    @property
    def sampler(self) -> Sampler:
        """How users are drawn."""
        return Sampler.POISSON if self.sample_rate < 1 else Sampler.NONE

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price of all steps; whole orders up to ``LARGEST_WHOLE_ORDER``."""
        return [self.steps * value for value in self._of_one_step(orders)]

    def _of_one_step(self, orders: Sequence[float]) -> list[float]:
        q, sigma = self.sample_rate, self.noise_multiplier
        if q == 1:
            return gaussian_divergences(sigma, orders)
        divergences = []
        for order in orders:
            excess = _log_excess_whole if order.is_integer() else _log_excess_fractional
            log_excess = excess(q, sigma, order)
            log_moment = (
                math.log1p(math.exp(log_excess)) if log_excess < 40 else log_excess + math.exp(-log_excess)
            )
            divergences.append(log_moment / (order - 1))
        return divergences

    def to_fields(self) -> dict[str, object]:
        """Return the fields, and how users are drawn."""
        return {**super().to_fields(), "sampler": self.sampler.value}

    @classmethod
    def from_fields(cls, document: dict[str, Any]) -> Self:
        """Read ``to_fields``'s form.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is not allowed, or the sampler does not fit the rate.
        """
        fields = dict(document)
        sampler = fields.pop("sampler", None)
        mechanism = super().from_fields(fields)
        if sampler != mechanism.sampler:
            raise ValueError(f"sampler {sampler!r} does not fit the sample rate; only Poisson is accounted")
        return mechanism


def _log_excess_whole(q: float, sigma: float, order: float) -> float:
    """Return log(A_α - 1) at a whole order, a sum of α - 1 positive terms."""
    alpha = int(order)
    i = np.arange(2, alpha + 1)
    exponent = i * (i - 1) / (2 * sigma**2)
    # log expm1(x) = x + log(1 - e⁻ˣ), stable for every x > 0
    log_terms = (
        _LOG_FACTORIAL[alpha] - _LOG_FACTORIAL[i] - _LOG_FACTORIAL[alpha - i]
        + i * math.log(q) + (alpha - i) * math.log1p(-q)
        + exponent + np.log(-np.expm1(-exponent))
    )  # fmt: skip
    return _log_sum_exp(log_terms)


def _log_excess_fractional(q: float, sigma: float, order: float) -> float:
    """Return log(A_α - 1) at a fractional order by quadrature.

    A_α - 1 = E[(1+Y)^α - 1 - αY] with Y = q(e^U - 1), U = (2X - 1)/2σ², X ~ N(0, σ²), since E[Y] = 0; the
    integrand is not negative (Bernoulli). It is analytic in the strip |Im x| < πσ² (there 1 + Y = 0) and
    falls like a Gaussian, so the trapezoid rule with a step of at most σ²/2 and σ/8 errs by less than
    e^(-2π·πσ²/step) ≤ e⁻³⁹ of the peak.
    """
    step = min(sigma / 8, sigma**2 / 2)
    x = np.arange(-14 * sigma, order + 14 * sigma, step)
    u = (2 * x - 1) / (2 * sigma**2)
    # log(1 + Y) without overflow: 1 + Y = (1 - q) + q·e^U
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + u)
    y = q * np.expm1(np.minimum(u, 50.0))
    small = np.abs(y) < 1e-2
    coefficients = _binomial_tail(order, 12)
    with np.errstate(divide="ignore"):  # y = 0 contributes nothing: log 0 = -∞ is meant
        log_small = np.log(y[small] ** 2 * np.polynomial.polynomial.polyval(y[small], coefficients))
    log_value = np.empty_like(x)
    log_value[small] = log_small
    large = log_ratio[~small] * order
    # (1 + αY)/(1 + Y)^α; past e^50 the ones inside are below the last digit and only logarithms stay finite
    high = u[~small] >= 50.0
    log_line = np.where(high, math.log(order * q) + u[~small], 0.0)
    line = np.where(high, 1.0, 1 + order * y[~small])
    rest = line * np.exp(log_line - large)
    log_value[~small] = large + np.log1p(-rest)
    log_density = -(x**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    return _log_sum_exp(log_value + log_density) + math.log(step)


def _binomial_tail(order: float, terms: int) -> list[float]:
    """Return C(α,2), C(α,3), …: the series of ((1+y)^α - 1 - αy)/y²."""
    coefficients = [order * (order - 1) / 2]
    for k in range(3, terms + 2):
        coefficients.append(coefficients[-1] * (order - k + 1) / k)
    return coefficients


def _log_sum_exp(log_terms: np.ndarray) -> float:
    peak = float(log_terms.max())
    return peak + math.log(float(np.exp(log_terms - peak).sum()))
