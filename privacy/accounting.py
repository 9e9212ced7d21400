"""The accountant: mechanism event → RDP curve → (ε, δ).

Poisson-subsampled Gaussian at a whole order α (Mironov, Talwar and Zhang, arXiv 1908.10530, §3.3), q =
sample rate:

    A_α = Σᵢ C(α,i) (1-q)^(α-i) qⁱ exp(i(i-1)/2σ²),   RDP(α) = log A_α / (α-1) per step.

The terms i = 0 and 1 of the exponential are 1, so A_α - 1 is a sum of positive terms over i ≥ 2 with expm1;
that form keeps its relative precision however small the loss is. Both directions of add-or-remove-one are
covered (ibid., §3.1). At fractional orders the same quantity is an integral with the positive integrand of
``_log_excess_fractional``.

Conversion (Canonne, Kamath and Steinke, arXiv 2004.00010, Proposition 12):

    ε(α) = RDP(α) + log(1 - 1/α) - log(δα)/(α-1).

Which order may be used when is the matter of ``privacy.filters``. Rounding is always upwards.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np

from privacy.curve import ORDERS, PICO, RdpCurve
from privacy.mechanisms import (
    Gaussian,
    Mechanism,
    PoissonSampledGaussian,
    PureSelection,
    RepeatAndSelect,
    TenantGaussian,
    TrialsDistribution,
)

ACCOUNTANT: Final = "discreet-rdp"
ACCOUNTANT_VERSION: Final = "1"
# Rounding errors of the float evaluation stay below 10⁻¹⁰ of the value (log-factorials are exact to 10⁻¹³
# absolute); every curve is raised by ten times that.
RELATIVE_ERROR: Final = 1e-9

_LOG_FACTORIAL: Final = np.cumsum(np.concatenate([[0.0], np.log(np.arange(1, max(ORDERS) + 1))]))


@lru_cache(maxsize=4096)
def curve_of(mechanism: Mechanism) -> RdpCurve:
    """Return the RDP curve of a mechanism, rounded up.

    Raises:
        ValueError: an order did not converge (such an order is refused, not left out).
    """
    return RdpCurve.from_upper_bounds(_divergences(mechanism), relative_error=RELATIVE_ERROR)


def total_curve(mechanisms: tuple[Mechanism, ...]) -> RdpCurve:
    """Return the composed curve of several mechanisms: the exact sum of their rounded curves."""
    total = RdpCurve.zero()
    for mechanism in mechanisms:
        total += curve_of(mechanism)
    return total


def conversion_term(order: float, delta: float) -> float:
    """Return log(1 - 1/α) - log(δα)/(α-1), what conversion adds to RDP(α).

    Raises:
        ValueError: δ is not inside (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta!r}; allowed is a number above 0 and below 1")
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def epsilon_at_order(curve: RdpCurve, delta: float, order: float) -> float:
    """Return the ε of a curve at one order; 0 for the empty curve."""
    if curve.is_zero:
        return 0.0
    return max(0.0, curve.at(order) / PICO * (1 + 1e-15) + conversion_term(order, delta) + 1e-12)


def best_epsilon(curve: RdpCurve, delta: float) -> tuple[float, float]:
    """Return the smallest ε over the grid and its order.

    This is a proved bound when the composed parameters were fixed in advance. Under parameters that react
    to earlier releases only the filter's own order is proved: label this figure *non-adaptive* wherever it
    is shown.
    """
    if curve.is_zero:
        return 0.0, ORDERS[0]
    return min((epsilon_at_order(curve, delta, order), order) for order in ORDERS)


def _divergences(mechanism: Mechanism) -> list[float]:
    if isinstance(mechanism, PoissonSampledGaussian):
        return [mechanism.steps * value for value in _sampled_gaussian(mechanism)]
    if isinstance(mechanism, Gaussian):
        return [mechanism.count * order / (2 * mechanism.noise_multiplier**2) for order in ORDERS]
    if isinstance(mechanism, TenantGaussian):
        return [order / (2 * mechanism.noise_multiplier**2) for order in ORDERS]
    if isinstance(mechanism, PureSelection):
        return [_pure(mechanism.epsilon, order) for order in ORDERS]
    return _repeat_and_select(mechanism)


def _sampled_gaussian(mechanism: PoissonSampledGaussian) -> list[float]:
    q, sigma = mechanism.sample_rate, mechanism.noise_multiplier
    if q == 1:
        return [order / (2 * sigma**2) for order in ORDERS]
    divergences = []
    for order in ORDERS:
        excess = _log_excess_whole if order.is_integer() else _log_excess_fractional
        log_excess = excess(q, sigma, order)
        log_moment = (
            math.log1p(math.exp(log_excess)) if log_excess < 40 else log_excess + math.exp(-log_excess)
        )
        divergences.append(log_moment / (order - 1))
    return divergences


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


def _pure(epsilon: float, order: float) -> float:
    """Rényi divergence of randomized response with the same ε, from which every ε-DP mechanism follows."""
    high = -math.log1p(math.exp(-epsilon))  # log p; log(1 - p) is high - epsilon
    terms = (high + (order - 1) * epsilon, high - order * epsilon)
    peak = max(terms)
    return max(0.0, peak + math.log(sum(math.exp(term - peak) for term in terms))) / (order - 1)


def _repeat_and_select(mechanism: RepeatAndSelect) -> list[float]:
    single = [value / PICO for value in total_curve(mechanism.base).values]
    mean = mechanism.mean_trials
    if mechanism.distribution is TrialsDistribution.GEOMETRIC:
        shared = 2 * min(
            (1 - 1 / order) * value + math.log(mean) / order
            for order, value in zip(ORDERS, single, strict=True)
        )
        raw = [
            value + math.log(mean) / (order - 1) + shared for order, value in zip(ORDERS, single, strict=True)
        ]
    else:
        raw = [
            value + mean * _delta_at(single, math.log1p(1 / (order - 1))) + math.log(mean) / (order - 1)
            for order, value in zip(ORDERS, single, strict=True)
        ]
    # RDP grows with the order, so a bound at a higher order also holds at a lower one.
    return [min(raw[index:]) for index in range(len(raw))]


def _delta_at(divergences: list[float], epsilon: float) -> float:
    return min(
        1.0,
        *(
            math.exp(min(0.0, (order - 1) * (value - epsilon + math.log1p(-1 / order)) - math.log(order)))
            for order, value in zip(ORDERS, divergences, strict=True)
        ),
    )
