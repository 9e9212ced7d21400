"""How the loss on public texts bends in the numbers of one adapter shape: what the public metric is made of.

It is computed from public texts, from labels that the model itself draws, and from adapters that are already private
(the iterates of the mechanism), so it is post-processing and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from personalization.training.engine.batches import MicroBatch, PrefixCache, assemble, split_users
from personalization.training.engine.low_rank import Binding, TokenGroups
from personalization.training.engine.output_head import Shortlist
from personalization.training.engine.segments import Segments
from personalization.training.jobs.job import UserExamples
from personalization.training.metric.frozen import LoadedShape
from personalization.training.public.styles import interactions

RIDGE = 0.3  # of the mean curvature of the protected texts: they are too few to know every direction
_SEED = 20_260_101  # of the labels that the model draws; public


def metric_texts() -> tuple[UserExamples, ...]:
    """Return the texts of the metric: every second public interaction is enough for a few hundred directions."""
    return interactions()[::2]


class PublicCurvature:
    """The loss and the Fisher information of one adapter shape on public texts.

    Args:
        users: the public texts.
        shape: cores on the feed-forward layers of the last block, where every label stands alone. Of its plan the
            truncation length and the size of the shortlist are used.
    """

    def __init__(self, users: Sequence[UserExamples], shape: LoadedShape) -> None:
        self._half = shape.flags.half_products
        self._decoder = shape.decoder
        self._geometry = shape.geometry
        self._frozen = shape.frozen
        self._limit = shape.flags.tokens_per_microbatch
        self._wide = torch.promote_types(shape.decoder.dtype, torch.float32)
        self._cache = PrefixCache(
            shape.decoder,
            shape.geometry.first_layer,
            enabled=True,
            half=self._half,
            opening=shape.encoder.opening,
        )
        self._members = self._cache.fill([(0, shape.read(user)) for user in users], self._limit)
        self._at_zero: torch.Tensor | None = None
        self._shortlist: Shortlist | None = None
        if 0 < shape.plan.label_shortlist < shape.decoder.head.vocabulary:
            self._shortlist = self._likeliest(shape.plan.label_shortlist)

    @classmethod
    def kept(cls, users: tuple[UserExamples, ...], shape: LoadedShape) -> PublicCurvature:
        """Return what the base keeps of public texts from run to run: their prefixes, and the curvature at the base."""
        geometry, plan = shape.geometry, shape.plan
        form = (
            geometry.family,
            geometry.subspace,
            geometry.layers,
            geometry.suffixes,
            geometry.rank,
            geometry.alpha,
        )
        key = (users, *form, plan.max_tokens, plan.label_shortlist, shape.flags)
        return shape.decoder.kept.once(cls, key, lambda: cls(users, shape))

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
        )[:, 0]
        nll = self._decoder.head.label_nll(out, drawn, half=self._half, shortlist=self._shortlist)
        torch.autograd.backward(nll.sum())
        binding.check_complete()
        return rows
