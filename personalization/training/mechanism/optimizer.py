"""Opacus' DPOptimizer for one parameter ``(tenants, size)``: every tenant has its own mechanism in one step.

Opacus runs the step (clip → noise → scale → hook → inner optimizer), guards against reused gradients and handles
logical batches split over several passes (``signal_skip_step``). Its classes assume one clipping norm, one noise
level and one normalizer for all rows, so the three methods that apply those are restated here with one value per
tenant; for one tenant they compute what Opacus computes (tests/unit/personalization/training/mechanism/test_optimizer.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from opacus.accountants import RDPAccountant
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

from personalization.planning.plan import TrainingPlan
from personalization.training.errors import PlanViolatedError
from personalization.training.mechanism.noise import add_noise
from privacy.noise.keystream import PURPOSE_GRADIENT, SecretStream
from privacy.noise.normal import NoiseRow

# Opacus adds the same constant to a norm before dividing by it; it only ever makes a gradient shorter.
NORM_SLACK = 1e-6


@dataclass
class TenantMechanism:
    """One tenant's mechanism: what the plan fixes, and the accountant that records what was done."""

    plan: TrainingPlan
    stream: SecretStream
    accountant: RDPAccountant

    @classmethod
    def of_plan(cls, plan: TrainingPlan, key: bytes) -> TenantMechanism:
        """Start a mechanism with an empty history."""
        return cls(plan, SecretStream(key), RDPAccountant())

    def check_against_plan(self) -> None:
        """Compare the accountant's history with the plan.

        Raises:
            PlanViolatedError: noise multiplier, sample rate or number of steps differ.
        """
        plan = self.plan
        expected = [(plan.noise_multiplier, plan.sample_rate, plan.steps)]
        # The multiplier is recorded as applied standard deviation ÷ clipping norm, hence up to rounding.
        same = len(self.accountant.history) == 1 and all(
            math.isclose(seen, fixed, rel_tol=1e-12, abs_tol=1e-15)
            for seen, fixed in zip(self.accountant.history[0], expected[0], strict=True)
        )
        if not same:
            raise PlanViolatedError(
                f"the run applied (noise multiplier, sample rate, steps) {self.accountant.history}; the plan fixes "
                f"{expected}; the run is void and its budget stays spent"
            )


class FusedDPOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Clip, noise and scale per tenant over one parameter ``(tenants, size)``.

    The caller sets, before each ``step``: ``current_step``, ``parameter.grad_sample`` ``(users, size)`` with one row
    per drawn user, and ``row_tenants (users,)`` with each row's tenant number. Rows of a tenant whose schedule is
    over must not come.
    A row that is not finite, or whose norm is not, becomes exactly zero.

    Args:
        optimizer: the inner optimizer over the one parameter.
        mechanisms: one per tenant, in the order of the parameter's rows.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, mechanisms: list[TenantMechanism]) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=1.0,  # the true value is per tenant, see `add_noise`
            max_grad_norm=1.0,  # likewise, see `clip_and_accumulate`
            expected_batch_size=1,
            loss_reduction="mean",
        )
        (self.parameter,) = self.params
        self.mechanisms = mechanisms
        self.row_tenants = torch.empty(0, dtype=torch.long)
        self.current_step = 0
        self.observed_noise: dict[int, float] = {}
        column = {"device": self.parameter.device, "dtype": self.parameter.dtype}
        self._norms = torch.tensor([m.plan.clipping_norm for m in mechanisms], **column)
        self._normalizers = torch.tensor([m.plan.expected_cohort for m in mechanisms], **column)[:, None]
        self.attach_step_hook(_record)

    @property
    def active(self) -> list[int]:
        """Tenants whose schedule is not over at the current step."""
        return [number for number, m in enumerate(self.mechanisms) if self.current_step < m.plan.steps]

    @property
    def accumulated_iterations(self) -> int:
        """Return 1: micro-batches hold different users, so accumulation never changes the normalizer."""
        return 1

    def clip_and_accumulate(self) -> None:
        """Scale each user's row to at most its tenant's clipping norm and add it to the tenant's sum."""
        rows: torch.Tensor = self.parameter.grad_sample
        _check_processed_flag(rows)
        total = self.parameter.summed_grad
        if total is None:
            total = torch.zeros_like(self.parameter)
        if len(rows):
            norms = torch.linalg.vector_norm(rows, dim=1)
            broken = ~torch.isfinite(norms)
            if bool(broken.any()):
                rows = rows.masked_fill_(broken[:, None], 0)
                norms = norms.masked_fill(broken, 0)
            bounds = self._norms.index_select(0, self.row_tenants)
            factors = (bounds / (norms + NORM_SLACK)).clamp_(max=1.0)
            if len(self.mechanisms) == 1:
                total[0].addmv_(rows.t(), factors)
            else:
                total.index_add_(0, self.row_tenants, rows.mul_(factors[:, None]))
        self.parameter.summed_grad = total
        _mark_as_processed(rows)

    def add_noise(self) -> None:
        """Add Gaussian noise of standard deviation σ·C to each active tenant's sum, on the tenant's public lattice."""
        total: torch.Tensor = self.parameter.summed_grad
        _check_processed_flag(total)
        deviations = {number: self._deviation(number) for number in self.active}
        noisy = [
            NoiseRow(number, self.mechanisms[number].stream, deviation)
            for number, deviation in deviations.items()
            if deviation > 0
        ]
        self.parameter.grad = add_noise(total, noisy, PURPOSE_GRADIENT, self.current_step)
        self.observed_noise = {
            number: deviation / self.mechanisms[number].plan.clipping_norm
            for number, deviation in deviations.items()
        }
        _mark_as_processed(total)

    def _deviation(self, number: int) -> float:
        plan = self.mechanisms[number].plan
        return plan.noise_multiplier * plan.clipping_norm

    def scale_grad(self) -> None:
        """Divide by each tenant's public normalizer."""
        self.parameter.grad /= self._normalizers


def _record(optimizer: FusedDPOptimizer) -> None:
    """Step hook: charge each active tenant's accountant for what was applied."""
    for number, multiplier in optimizer.observed_noise.items():
        mechanism = optimizer.mechanisms[number]
        mechanism.accountant.step(noise_multiplier=multiplier, sample_rate=mechanism.plan.sample_rate)


class TenantAdam(torch.optim.Optimizer):
    """Adam on one parameter ``(tenants, size)`` with a public step size per tenant.

    Args:
        parameter: the adapters.
        learning_rates: step size of each tenant.
        is_active: tells which tenants move at this step; the others keep their weights.
    """

    def __init__(
        self, parameter: torch.nn.Parameter, learning_rates: list[float], is_active: Callable[[], list[int]]
    ) -> None:
        super().__init__([parameter], {"betas": (0.9, 0.99), "eps": 1e-12})
        self._rates = torch.tensor(learning_rates, device=parameter.device, dtype=parameter.dtype)[:, None]
        self._is_active = is_active
        self._mean = torch.zeros_like(parameter)
        self._square = torch.zeros_like(parameter)
        self._steps = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002  no closure is ever used
        """Move the active tenants along their noisy gradients."""
        (parameter,) = self.param_groups[0]["params"]
        first, second = self.param_groups[0]["betas"]
        self._steps += 1
        gradient = parameter.grad
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        # Both bias corrections act on the rates, so that the large tensors are passed over as seldom as can be.
        correction = math.sqrt(1 - second**self._steps)
        scale = self._square.sqrt().add_(self.param_groups[0]["eps"] * correction)
        rates = self._rates * (correction / (1 - first**self._steps))
        active = self._is_active()
        if len(active) < len(rates):
            rates = rates * torch.zeros_like(rates).index_fill_(
                0, torch.tensor(active, device=rates.device), 1.0
            )
        parameter.addcdiv_(rates * self._mean, scale, value=-1)


class TenantDescent(torch.optim.Optimizer):
    """Plain descent on one parameter ``(tenants, size)`` with a public step size per tenant.

    Args:
        parameter: the adapters.
        learning_rates: step size of each tenant.
        is_active: tells which tenants move at this step; the others keep their weights.
        restore: turns the mechanism's noisy means ``(tenants, size)`` into directions of the adapters.
    """

    def __init__(
        self,
        parameter: torch.nn.Parameter,
        learning_rates: list[float],
        is_active: Callable[[], list[int]],
        restore: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__([parameter], {})
        self._rates = torch.tensor(learning_rates, device=parameter.device, dtype=parameter.dtype)[:, None]
        self._is_active = is_active
        self._restore = restore

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002  no closure is ever used
        """Move the active tenants against their noisy means."""
        (parameter,) = self.param_groups[0]["params"]
        moving = torch.zeros_like(self._rates)
        moving[self._is_active()] = 1.0
        parameter.addcmul_(self._rates * moving, self._restore(parameter.grad), value=-1)
