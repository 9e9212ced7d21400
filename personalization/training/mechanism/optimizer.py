"""Opacus' DPOptimizer for one parameter ``(tenants, size)``: every tenant has its own mechanism in one step.

Opacus runs the step (clip → noise → scale → hook → inner optimizer), guards against reused gradients and handles
logical batches split over several passes (``signal_skip_step``). Its classes assume one clipping norm, one noise
level and one normalizer for all rows, and sum in floats; the three methods that apply those are restated here with one
value per tenant and whole numbers on a public lattice (``privacy.noise.lattice``). For one tenant they compute what
Opacus computes, to within the lattice, which ``test_optimizer.py`` of this folder holds.

A step's sum is an int64 tensor until its noise is in it; the first float is the noisy mean that the inner optimizer
gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

from personalization.planning.plan import TrainingPlan
from personalization.training.jobs.receipt import Receipt
from personalization.training.mechanism import clipping
from personalization.training.mechanism.noise import add_noise
from personalization.training.mechanism.witness import Witness
from privacy.noise import lattice
from privacy.noise.keystream import PURPOSE_GRADIENT, SecretStream
from privacy.noise.normal import NoiseRow


@dataclass
class TenantMechanism:
    """One tenant's mechanism: what the plan fixes, its secret numbers, and who watches it run."""

    plan: TrainingPlan
    stream: SecretStream
    witness: Witness

    @classmethod
    def of_plan(cls, plan: TrainingPlan, key: bytes, usable: Sequence[bool] = ()) -> TenantMechanism:
        """Start a mechanism with an empty history.

        Args:
            plan: what was charged.
            key: the tenant's 32 secret bytes.
            usable: for each of the tenant's users, in order, whether any example of theirs teaches something.

        Raises:
            ValueError: there are more users than an exact sum can hold.
        """
        lattice.check_rows(len(usable))
        return cls(plan, SecretStream(key), Witness(plan, key, usable))

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise, in units of the lattice."""
        return self.plan.noise_multiplier * lattice.REACH


class FusedDPOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Clip, noise and scale per tenant over one parameter ``(tenants, size)``.

    The caller sets, before each ``step``: ``current_step``, ``parameter.grad_sample`` ``(users, size)`` with one row
    per drawn user, ``row_tenants (users,)`` with each row's tenant number and ``row_users`` with the user's number in
    that tenant. Rows of a tenant whose schedule is over must not come. A row that is not finite, or whose norm is
    not, becomes exactly zero.

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
        self.row_users: Sequence[int] = ()
        self.current_step = 0
        self.noisy: torch.Tensor | None = None  # this step's sums with their noise, in units
        self._noise_so_far: torch.Tensor | None = None
        device = self.parameter.device
        units = [lattice.unit(m.plan.clipping_norm) for m in mechanisms]
        self._units = torch.tensor(units, device=device, dtype=torch.float64)
        self._coarse_bits = torch.tensor(
            [lattice.coarse_bits(m.deviation) for m in mechanisms], device=device
        )
        # Where there is no noise there is nothing to compare; dividing by one keeps the numbers finite.
        self._deviations = torch.tensor(
            [m.witness.deviation or 1.0 for m in mechanisms], device=device, dtype=torch.float64
        )
        self._normalizers = torch.tensor(
            [m.plan.expected_cohort for m in mechanisms], device=device, dtype=self.parameter.dtype
        )[:, None]
        self.attach_step_hook(_measure)

    @property
    def active(self) -> list[int]:
        """Tenants whose schedule is not over at the current step."""
        return [number for number, m in enumerate(self.mechanisms) if self.current_step < m.plan.steps]

    @property
    def accumulated_iterations(self) -> int:
        """Return 1: micro-batches hold different users, so accumulation never changes the normalizer."""
        return 1

    def clip_and_accumulate(self) -> None:
        """Bring each user's row onto its tenant's lattice, no longer than the clipping norm, and add it to the sum."""
        rows: torch.Tensor = self.parameter.grad_sample
        _check_processed_flag(rows)
        total = self.parameter.summed_grad
        if total is None:
            total = torch.zeros_like(self.parameter, dtype=torch.int64)
        too_long: list[bool] = []
        scales = (1 / self._units).index_select(0, self.row_tenants)
        for part in clipping.blocks(rows):
            tenants = self.row_tenants[part]
            whole = clipping.whole_rows(rows[part], scales[part])
            over = clipping.too_long(whole)
            too_long += over.tolist()
            if any(too_long):  # never, unless the program is wrong; and then the run is void
                whole = whole.masked_fill_(over[:, None], 0)
            clipping.add_rows(total, whole, tenants)
        for tenant, user, one in zip(self.row_tenants.tolist(), self.row_users, too_long, strict=True):
            self.mechanisms[tenant].witness.row(user, too_long=one)
        self.parameter.summed_grad = total
        _mark_as_processed(rows)

    def add_noise(self) -> None:
        """Add Gaussian noise of standard deviation σ·C to each active tenant's sum, in whole units of its lattice."""
        total: torch.Tensor = self.parameter.summed_grad
        _check_processed_flag(total)
        rows = {
            number: NoiseRow(self.mechanisms[number].stream, self.mechanisms[number].deviation)
            for number in self.active
            if self.mechanisms[number].deviation > 0
        }
        self.noisy = add_noise(total, rows, PURPOSE_GRADIENT, self.current_step) if rows else total.clone()
        self.parameter.grad = clipping.released(
            self.noisy, self._coarse_bits, self._units, self.parameter.dtype
        )
        _mark_as_processed(total)

    def scale_grad(self) -> None:
        """Divide by each tenant's public normalizer."""
        self.parameter.grad /= self._normalizers

    @torch.no_grad()
    def measure_noise(self) -> None:
        """Show each active tenant's witness the noise that is in the step, whoever put it there."""
        if self.noisy is None:
            return
        applied = self.noisy - self.parameter.summed_grad
        self.noisy = None
        totals, squares = _moments(applied, self._deviations)
        self._noise_so_far = applied if self._noise_so_far is None else self._noise_so_far.add_(applied)
        for number in self.active:
            witness = self.mechanisms[number].witness
            witness.step(self.current_step, applied.shape[1], totals[number], squares[number])

    def receipts(self) -> list[Receipt | None]:
        """Return every tenant's receipt once all schedules are over; None where there was no noise.

        Raises:
            PlanViolatedError: a run differs from its plan.
        """
        squares = [0.0] * len(self.mechanisms)
        if self._noise_so_far is not None:
            _, squares = _moments(self._noise_so_far, self._deviations)
        return [one.witness.receipt(square) for one, square in zip(self.mechanisms, squares, strict=True)]


def _moments(noise: torch.Tensor, deviations: torch.Tensor) -> tuple[list[float], list[float]]:
    """Return sum and sum of squares of each row ÷ its deviation."""
    moments = []
    for part in clipping.blocks(noise):
        numbers = noise[part].to(torch.float64).div_(deviations[part, None])
        moments.append(torch.stack([numbers.sum(1), torch.linalg.vecdot(numbers, numbers)]))
    totals, squares = torch.cat(moments, dim=1).tolist()
    return totals, squares


def _measure(optimizer: FusedDPOptimizer) -> None:
    """Step hook, after noise and scaling: the next to run is the inner optimizer."""
    optimizer.measure_noise()


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
