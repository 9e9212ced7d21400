"""Steps in the model's public metric: which directions of the core its answers are sensitive to, and how much.

Gaussian noise is as long in every trained direction, but the loss bends a thousand times more in some than in
others, so plain steps are too short for the flat directions or drown the steep ones in noise. Here every user's
gradient ``g`` is first turned into ``W g`` with ``W = (F + λ·tr(F)/d · 1)^(-1/2)``, where ``F`` is the Fisher
information of the adapted model on *public* interactions; clipping and noise act on ``W g``, and the noisy mean is
turned back by ``W``. Without noise and clipping that is a damped natural gradient step, and the noise costs as much
loss in every direction that is not damped.

Guarantee: ``F`` is computed from public texts, from labels that the model itself draws, and from adapters that are
already private (the iterates of the mechanism), so it is post-processing: it costs nothing, and the sensitivity of the
summed ``W g`` is the clipping norm whatever ``W`` is. Sources: Amari, "Natural gradient works efficiently in learning"
(1998); Li et al., "Private adaptive optimization with side information" (AdaDPS, ICML 2022), section 4, which
preconditions before clipping as well, by diagonal moments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from personalization.plan import TrainingPlan
from personalization.training.batches import MicroBatch, PrefixCache, assemble, split_users
from personalization.training.decoder import FrozenDecoder
from personalization.training.encoding import Encoder
from personalization.training.errors import NotTrainedError
from personalization.training.families import Frozen, Geometry
from personalization.training.low_rank import Binding, TokenGroups
from personalization.training.public_subspace import interactions
from personalization.training.segments import Segments

REFRESHED_AT = (
    0,
    1,
    2,
    4,
    8,
)  # steps: the curvature changes most while the model learns that answers are short
_EVERY = 2  # every second public interaction is enough for a few hundred directions
_SEED = 20_260_101  # of the labels that the model draws; public


class PublicCurvature:
    """The Fisher information of one adapter shape on public interactions.

    Args:
        decoder: the frozen base.
        encoder: its tokenizer.
        geometry: cores on the feed-forward layers of the last block, where every label stands alone.
        frozen: the shared factors.
        plan: its truncation length is used.
        token_limit: tokens of one pass.
    """

    def __init__(
        self,
        decoder: FrozenDecoder,
        encoder: Encoder,
        geometry: Geometry,
        frozen: Frozen,
        plan: TrainingPlan,
        token_limit: int,
    ) -> None:
        self._decoder = decoder
        self._geometry = geometry
        self._frozen = frozen
        self._limit = token_limit
        self._wide = torch.promote_types(decoder.dtype, torch.float32)
        encoded = [(0, encoder.user(user, plan)) for user in interactions()[::_EVERY]]
        self._cache = PrefixCache(decoder, geometry.first_layer, enabled=True)
        self._members = self._cache.fill(encoded, token_limit, lambda _: None)

    def fisher(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the Fisher information ``(size, size)`` at the adapter ``vector (size,)``, mean over label tokens.

        Labels are drawn from the model, by the same public coins at every call.
        """
        coins = torch.Generator(device="cpu").manual_seed(_SEED)
        total = vector.new_zeros(self._geometry.size, self._geometry.size, dtype=torch.float64)
        labels = 0
        for run in split_users(self._members, self._limit):
            rows = self._label_gradients(assemble(run, self._decoder.device, self._wide), vector, coins)
            total += (rows.t() @ rows).double()
            labels += len(rows)
        return total / max(1, labels)

    def _label_gradients(
        self, micro: MicroBatch, vector: torch.Tensor, coins: torch.Generator
    ) -> torch.Tensor:
        """Return the gradient of each label's own loss ``(labels, size)``, the labels drawn from the model."""
        count = len(micro.batch.targets)
        alone = TokenGroups(micro.batch.label_groups.tenants, Segments([1] * count, self._decoder.device))
        batch = replace(micro.batch, label_groups=alone)
        rows = torch.empty((count, self._geometry.size), device=vector.device, dtype=vector.dtype)
        point = vector.detach()[None].clone().requires_grad_()
        binding = Binding(self._geometry, self._frozen, point, rows)
        layers = range(self._geometry.first_layer, self._decoder.layer_count)
        out = self._decoder.run(self._cache.hidden(micro), batch, layers, binding, labels_only=True)
        drawn = self._decoder.drawn_labels(out.detach(), coins)
        torch.autograd.backward(self._decoder.label_nll(out, drawn).sum())
        binding.check_complete()
        return rows


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
        raise NotTrainedError(
            "The public curvature of a tenant's adapter is not finite; nothing is released."
        )
    values, vectors = torch.linalg.eigh(wide)
    level = damping * float(torch.diagonal(wide).mean())
    scales = (values.clamp_min(0.0) + max(level, torch.finfo(torch.float64).tiny)).rsqrt()
    found: torch.Tensor = (vectors * scales) @ vectors.t()
    return found


@dataclass
class Metric:
    """Where each tenant of a run stands, and the whitening there.

    Attributes:
        curvature: the public curvature.
        dampings: one per tenant.
        factors: ``(tenants, size, size)``, the present whitening of each tenant.
    """

    curvature: PublicCurvature
    dampings: list[float]
    factors: torch.Tensor

    @classmethod
    def of_plans(cls, curvature: PublicCurvature, plans: list[TrainingPlan], like: torch.Tensor) -> Metric:
        """Start with no metric; the first ``refresh`` makes one.

        Args:
            curvature: the public curvature.
            plans: the tenants' plans.
            like: the tenants' adapters ``(tenants, size)``.
        """
        size = like.shape[1]
        return cls(curvature, [plan.damping for plan in plans], like.new_zeros(len(plans), size, size))

    def refresh(self, step: int, vectors: torch.Tensor, active: list[int]) -> None:
        """Work the whitening out anew at the steps in ``REFRESHED_AT``.

        Args:
            step: from 0.
            vectors: the tenants' adapters ``(tenants, size)``.
            active: tenants whose schedule is not over.
        """
        if step not in REFRESHED_AT:
            return
        known: list[tuple[torch.Tensor, torch.Tensor]] = []
        for number in active:
            vector = vectors[number]
            fisher = next((found for at, found in known if torch.equal(at, vector)), None)
            if fisher is None:
                fisher = self.curvature.fisher(vector)
                known.append((vector.clone(), fisher))
            self.factors[number] = whitening(fisher, self.dampings[number])

    def turn(self, rows: torch.Tensor, tenants: torch.Tensor) -> torch.Tensor:
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

    def back(self, moved: torch.Tensor) -> torch.Tensor:
        """Return what steps ``(tenants, size)`` in the metric are as steps of the adapters."""
        return torch.bmm(moved[:, None], self.factors)[:, 0]
