"""Steps in the model's public metric: which directions of the core its answers are sensitive to, and how much.

Gaussian noise is as long in every trained direction, but the loss bends a thousand times more in some than in others,
so plain steps are too short for the flat directions or drown the steep ones in noise. Here every user's gradient
``g`` is first turned into ``W g`` with ``W = (F + λ·tr(F)/d · 1)^(-1/2)``, where ``F`` is the Fisher information of
the adapted model on *public* interactions; clipping and noise act on ``W g``, and the noisy mean is turned back by
``W``. Without noise and clipping that is a damped natural gradient step, and the noise costs as much loss in every
direction that is not damped.

Guarantee: ``F`` is computed from public texts, from labels that the model itself draws, and from adapters that are
already private (the iterates of the mechanism), so it is post-processing: it costs nothing, and the sensitivity of the
summed ``W g`` is the clipping norm whatever ``W`` is. Sources: Amari, "Natural gradient works efficiently in learning"
(1998); Li et al., "Private adaptive optimization with side information" (AdaDPS, ICML 2022), section 4, which
preconditions before clipping as well, by diagonal moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from personalization.planning.plan import TrainingPlan
from personalization.training.errors import NotTrainedError
from personalization.training.metric.curvature import PublicCurvature
from personalization.training.metric.sparing import step_pull

# Steps: the curvature changes most while the model learns that answers are short.
REFRESHED_AT = (0, 1, 2, 4, 8)


def whitening(fisher: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the symmetric ``W = (F + damping · tr(F)/d · 1)^(-1/2)`` in float64.

    Args:
        fisher: ``(size, size)``, symmetric and positive semidefinite.
        damping: above 0; directions with much less than this share of the mean curvature are hardly trained.

    Raises:
        NotTrainedError: a curvature that is not finite, so the adapter it was taken at is of no use.
    """
    wide = fisher.double()
    if not bool(torch.isfinite(wide).all()):
        raise NotTrainedError("the public curvature of a tenant's adapter is not finite; nothing is released")
    values, vectors = torch.linalg.eigh(wide)
    level = damping * float(torch.diagonal(wide).mean())
    scales = (values.clamp_min(0.0) + max(level, torch.finfo(torch.float64).tiny)).rsqrt()
    found: torch.Tensor = (vectors * scales) @ vectors.t()
    return found


@dataclass
class Metric:
    """Where each tenant of a run stands, and the whitening there.

    With a ``protection`` P, every iterate ``v`` is moved to the minimum of ``(u − v)ᵀ(F + λ)(u − v) + κ·uᵀPu``, so that
    training finds its way among the directions that spare public texts. Both are public and ``v`` is already private,
    so it is post-processing. (Moving only the last iterate costs several times as much of what was learned.)

    Attributes:
        curvature: the public curvature.
        dampings: one per tenant.
        factors: ``(tenants, size, size)``, the present whitening of each tenant.
        refreshed_at: steps before which it is worked out anew.
        protection: of the protected texts ``(size, size)``; None moves nothing.
        pulls: ``(tenants, size, size)``, how the iterates of each tenant are moved at present.
    """

    curvature: PublicCurvature
    dampings: list[float]
    factors: torch.Tensor
    refreshed_at: tuple[int, ...] = REFRESHED_AT
    protection: torch.Tensor | None = None
    pulls: torch.Tensor | None = None

    @classmethod
    def of_plans(
        cls,
        curvature: PublicCurvature,
        plans: list[TrainingPlan],
        like: torch.Tensor,
        refreshed_at: tuple[int, ...] = REFRESHED_AT,
        protection: torch.Tensor | None = None,
    ) -> Metric:
        """Start with no metric; the first ``refresh`` makes one.

        Args:
            curvature: the public curvature.
            plans: the tenants' plans.
            like: the tenants' adapters ``(tenants, size)``.
            refreshed_at: steps before which the whitening is worked out anew.
            protection: of the protected texts ``(size, size)``; None lets the iterates go where they go.
        """
        size = like.shape[1]
        factors = like.new_zeros(len(plans), size, size)
        pulls = None if protection is None else torch.zeros_like(factors)
        return cls(curvature, [plan.damping for plan in plans], factors, refreshed_at, protection, pulls)

    def refresh(self, step: int, vectors: torch.Tensor, active: list[int]) -> None:
        """Work the whitening out anew at the steps in ``refreshed_at``.

        Args:
            step: from 0.
            vectors: the tenants' adapters ``(tenants, size)``.
            active: tenants whose schedule is not over.
        """
        if step not in self.refreshed_at:
            return
        known: list[tuple[torch.Tensor, torch.Tensor]] = []
        for number in active:
            vector = vectors[number]
            fisher = next((found for at, found in known if torch.equal(at, vector)), None)
            if fisher is None:
                fisher = self.curvature.fisher(vector)
                known.append((vector.clone(), fisher))
            damping = self.dampings[number]
            self.factors[number] = whitening(fisher, damping)
            if self.protection is not None and self.pulls is not None:
                self.pulls[number] = step_pull(fisher, damping, self.protection)

    def protect(self, vectors: torch.Tensor, active: list[int]) -> None:
        """Move the iterates of active tenants, in place, towards what spares public texts.

        Args:
            vectors: the tenants' adapters ``(tenants, size)``.
            active: tenants whose schedule is not over.
        """
        if self.pulls is None:
            return
        moved = torch.bmm(self.pulls, vectors[:, :, None])[:, :, 0]
        vectors[active] = moved[active]

    def precondition(self, rows: torch.Tensor, tenants: torch.Tensor) -> torch.Tensor:
        """Return ``W g`` of each user's gradient.

        Args:
            rows: users' gradients ``(users, size)``, tenants together.
            tenants: each row's tenant ``(users,)``, ascending.
        """
        present, counts = torch.unique_consecutive(tenants, return_counts=True)
        if len(present) == 1:
            return rows @ self.factors[int(present[0])]
        parts = torch.split(rows, counts.tolist())
        return torch.cat(
            [part @ self.factors[number] for part, number in zip(parts, present.tolist(), strict=True)]
        )

    def restore(self, moved: torch.Tensor) -> torch.Tensor:
        """Return what steps ``(tenants, size)`` in the metric are as steps of the adapters."""
        return torch.bmm(moved[:, None], self.factors)[:, 0]
