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

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from personalization.plan import PerformanceFlags, TrainingPlan
from personalization.training.batches import MicroBatch, PrefixCache, assemble, split_users
from personalization.training.decoder import FrozenDecoder
from personalization.training.encoding import Encoder
from personalization.training.errors import NotTrainedError
from personalization.training.families import Frozen, Geometry
from personalization.training.job import UserExamples
from personalization.training.low_rank import Binding, TokenGroups
from personalization.training.output_head import Shortlist
from personalization.training.public_styles import interactions
from personalization.training.segments import Segments

REFRESHED_AT = (
    0,
    1,
    2,
    4,
    8,
)  # steps: the curvature changes most while the model learns that answers are short
STYLES = interactions()[::2]  # every second public interaction is enough for a few hundred directions
LONGEST = 200.0  # L2 length of an adapter in the numbers of its core; SmolLM2 needs some 20, the gate refuses at 1,000
LARGEST_CHANGE = 0.008  # of the loss on public texts; the gate refuses from 1 % on, as it is set by default
# The same as the curvature of the protected texts foretells it: what a new text loses on average, while the luck of
# single texts, which a mean over a few dozen of them still shows, is left out.
LARGEST_FORETOLD_CHANGE = 0.0045
STEP_PULL = 8.0  # times the damping: how strongly every iterate is drawn to what spares public texts; noise needs more
RIDGE = 0.3  # of the mean curvature of the protected texts: they are too few to know every direction
PULLS = tuple(2.0**power for power in range(-12, 9))
_SEED = 20_260_101  # of the labels that the model draws; public


class PublicCurvature:
    """The loss and the Fisher information of one adapter shape on public texts.

    Args:
        users: the public texts.
        decoder: the frozen base.
        encoder: its tokenizer.
        geometry: cores on the feed-forward layers of the last block, where every label stands alone.
        frozen: the shared factors.
        plan: its truncation length and the size of its shortlist are used.
        flags: tokens of one pass, and whether the output head may be multiplied in bfloat16.
    """

    def __init__(
        self,
        users: Sequence[UserExamples],
        decoder: FrozenDecoder,
        encoder: Encoder,
        geometry: Geometry,
        frozen: Frozen,
        plan: TrainingPlan,
        flags: PerformanceFlags,
    ) -> None:
        token_limit = flags.tokens_per_microbatch
        self._half = flags.half_head
        self._decoder = decoder
        self._geometry = geometry
        self._frozen = frozen
        self._limit = token_limit
        self._wide = torch.promote_types(decoder.dtype, torch.float32)
        encoded = [
            (0, encoder.user(user, bound=1, objective=plan.objective, max_tokens=plan.max_tokens))
            for user in users
        ]
        self._cache = PrefixCache(decoder, geometry.first_layer, enabled=True)
        self._members = self._cache.fill(encoded, token_limit, lambda _: None)
        self._at_zero: torch.Tensor | None = None
        self._shortlist: Shortlist | None = None
        if 0 < plan.label_shortlist < decoder.head.vocabulary:
            self._shortlist = self._likeliest(plan.label_shortlist)

    @property
    def shortlist(self) -> Shortlist | None:
        """The plan's shortlist: the tokens likeliest on these texts before training; None for the whole vocabulary."""
        return self._shortlist

    def fisher(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the Fisher information ``(size, size)`` at the adapter ``vector (size,)``, mean over label tokens.

        Labels are drawn from the model (its softmax over the shortlist, where the plan has one), by the same public
        coins at every call.
        """
        at_zero = not bool(vector.any())
        if at_zero and self._at_zero is not None:
            return self._at_zero
        coins = torch.Generator(device="cpu").manual_seed(_SEED)
        total = vector.new_zeros(self._geometry.size, self._geometry.size, dtype=torch.float64)
        labels = 0
        vector = vector.to(self._decoder.device, self._wide)
        for run in split_users(self._members, self._limit):
            rows = self._label_gradients(assemble(run, self._decoder.device, self._wide), vector, coins)
            total += (rows.t() @ rows).double()
            labels += len(rows)
        total /= max(1, labels)
        if at_zero:
            self._at_zero = total
        return total

    def protection(self) -> torch.Tensor:
        """Return what a change costs these texts ``(size, size)``: the curvature at the base and a ridge."""
        fisher = self.fisher(torch.zeros(self._geometry.size, dtype=torch.float64))
        ridge = RIDGE * torch.diagonal(fisher).mean()
        return fisher + ridge * torch.eye(len(fisher), dtype=fisher.dtype, device=fisher.device)

    @torch.no_grad()
    def loss(self, vector: torch.Tensor) -> float:
        """Return the mean over texts of the loss at the adapter ``vector (size,)``, nats per token."""
        total = 0.0
        layers = range(self._geometry.first_layer, self._decoder.layer_count)
        for run in split_users(self._members, self._limit):
            micro = assemble(run, self._decoder.device, self._wide)
            binding = Binding(
                self._geometry, self._frozen, vector.to(self._decoder.device, self._wide)[None], None
            )
            out = self._decoder.run(self._cache.hidden(micro), micro.batch, layers, binding, labels_only=True)
            nll = self._decoder.head.label_nll(out, micro.batch.targets, half=self._half)
            total += float(micro.terms.total(nll, None))
        return total / max(1, len(self._members))

    @torch.no_grad()
    def _likeliest(self, count: int) -> Shortlist:
        total = torch.zeros(self._decoder.head.vocabulary, device=self._decoder.device, dtype=torch.float64)
        layers = range(self._geometry.first_layer, self._decoder.layer_count)
        for run in split_users(self._members, self._limit):
            micro = assemble(run, self._decoder.device, self._wide)
            out = self._decoder.run(self._cache.hidden(micro), micro.batch, layers, labels_only=True)
            total += self._decoder.head.likely_tokens(out, half=self._half)
            total.index_add_(
                0, micro.batch.targets, torch.ones_like(micro.batch.targets, dtype=torch.float64)
            )
        return self._decoder.head.shortlist(total.topk(count).indices, half=self._half)

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
        drawn = self._decoder.head.drawn_labels(
            out.detach(), coins, half=self._half, shortlist=self._shortlist
        )
        nll = self._decoder.head.label_nll(out, drawn, half=self._half, shortlist=self._shortlist)
        torch.autograd.backward(nll.sum())
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


def step_pull(fisher: torch.Tensor, damping: float, protection: torch.Tensor) -> torch.Tensor:
    """Return ``(F + λ + κP)⁻¹(F + λ)`` in float64, which moves an iterate, with κ = ``STEP_PULL × damping``.

    Args:
        fisher: ``(size, size)``, checked by ``whitening``.
        damping: as in ``whitening``.
        protection: P, ``(size, size)``.
    """
    wide = fisher.double()
    level = max(damping * float(torch.diagonal(wide).mean()), torch.finfo(torch.float64).tiny)
    steady = wide + level * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    moving: torch.Tensor = torch.linalg.solve(steady + STEP_PULL * damping * protection.to(steady), steady)
    return moving


def pulled_back(
    vector: torch.Tensor, styles: PublicCurvature, protected: PublicCurvature, gated: PublicCurvature
) -> torch.Tensor:
    """Return the adapter, moved back towards the base as far as public texts need it and where it costs least.

    With ``F`` the Fisher information on public interactions in many styles and ``P`` the protection of the protected
    texts, it is the minimum of ``(v − vector)ᵀF(v − vector) + κ·vᵀPv`` with the smallest tried κ for which the losses
    on both sets of public texts stay within their limits. All of it is public or already private, so it is
    post-processing, and a release's budget is never spent on something that the gate then refuses for the sake of
    public text.

    Along directions that no public text feels, steps in the metric are long, so the length is bounded as well.

    Args:
        vector: a released adapter ``(size,)``, float64 on the CPU.
        styles: public interactions.
        protected: public texts whose answers shall stay as they are.
        gated: the texts on which the gate measures.
    """
    vector = vector * min(1.0, LONGEST / max(float(torch.linalg.vector_norm(vector)), 1e-300))
    zero = torch.zeros_like(vector)
    at_base, kept = protected.fisher(zero).to(vector), protected.protection().to(vector)
    limits = [(texts, (1.0 + LARGEST_CHANGE) * texts.loss(zero)) for texts in (protected, gated)]
    foretold = LARGEST_FORETOLD_CHANGE * protected.loss(zero)

    def spares(one: torch.Tensor) -> bool:
        return 0.5 * float(one @ at_base @ one) <= foretold and all(
            texts.loss(one) <= limit for texts, limit in limits
        )

    if spares(vector):
        return vector
    fisher = styles.fisher(vector).to(vector)
    steady = fisher + 1e-3 * torch.diagonal(fisher).mean() * torch.eye(len(fisher), dtype=fisher.dtype)

    def pulled(strength: float) -> torch.Tensor:
        moved: torch.Tensor = torch.linalg.solve(steady + strength * kept, steady @ vector)
        return moved

    # A stronger pull spares more, so the weakest that spares enough is found by halving.
    place = bisect_left(PULLS, True, key=lambda strength: spares(pulled(strength)))
    found = pulled(PULLS[min(place, len(PULLS) - 1)])
    while not spares(found):  # zero, the base itself, does
        found = found / 2.0
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

    def spare(self, vectors: torch.Tensor, active: list[int]) -> None:
        """Move the iterates of active tenants, in place, towards what spares public texts.

        Args:
            vectors: the tenants' adapters ``(tenants, size)``.
            active: tenants whose schedule is not over.
        """
        if self.pulls is None:
            return
        moved = torch.bmm(self.pulls, vectors[:, :, None])[:, :, 0]
        vectors[active] = moved[active]

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
