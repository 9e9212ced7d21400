"""Train and measure many adapters on few users: the frozen layers' outputs are computed once per set of users.

First-order MAML trains on the same public tasks again and again, and a quality run trains dozens of adapters (budgets ×
numbers of users × noise seeds) on the same users of one tenant. Their prefixes, the outputs of the layers below the
first adapted one, never change, so each set of users is run through those layers once; every training and every
measurement starts from there.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.training.engine.batches import Member, PrefixCache, assemble, split_users
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.low_rank import Binding
from personalization.training.engine.portable import export_adapter
from personalization.training.jobs.job import TenantJob, UserExamples
from personalization.training.metric.frozen import LoadedShape
from personalization.training.run.fused import FusedRun
from privacy.noise.keystream import KEY_BYTES


@dataclass(frozen=True)
class UserSet:
    """Encoded users with their cached prefixes."""

    members: tuple[Member, ...]
    cache: PrefixCache

    def first(self, users: int) -> UserSet:
        """Return the first ``users`` of them, over the same cache."""
        return UserSet(self.members[:users], self.cache)


@dataclass
class _CachedRun(FusedRun):
    """A training run over users whose prefixes are there already."""

    users: UserSet = field(kw_only=True)

    def _prefix(self) -> list[list[Member]]:
        self._cache = self.users.cache
        return [list(self.users.members)]


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """What a model says about one user set, label by label.

    Attributes:
        losses: each user's mean loss, nats per token.
        confidences: the largest probability at each label.
        correct: whether the label had it.
    """

    losses: list[float]
    confidences: list[float]
    correct: list[bool]


class Workbench:
    """A loaded base and one adapter shape.

    Args:
        base_model: a local base model; the process's loaded one is used, and loaded if it is another.
        plan: fixes the adapter's shape, the contribution bound and the truncation; other fields may vary by run.
        flags: device and threads.
    """

    def __init__(self, base_model: Path, plan: TrainingPlan, flags: PerformanceFlags | None = None) -> None:
        self.flags = flags or PerformanceFlags()
        if self.flags.threads is not None:
            torch.set_num_threads(self.flags.threads)
        self.base_model = base_model
        self.decoder, self.encoder = loaded_base(base_model, self.flags)
        self.plan = plan
        self.shape = LoadedShape.of_plan(self.decoder, self.encoder, plan, self.flags)
        self.geometry, self.frozen = self.shape.geometry, self.shape.frozen

    def user_set(self, users: Sequence[UserExamples]) -> UserSet:
        """Encode users and compute their prefixes; users without an example are left out."""
        encoded = [(0, self.shape.read(user)) for user in users if user.examples]
        opening = self.encoder.opening
        cache = PrefixCache(self.decoder, self.geometry.first_layer, enabled=True, opening=opening)
        return UserSet(tuple(cache.fill(encoded, self.flags.tokens_per_microbatch)), cache)

    def zero(self) -> torch.Tensor:
        """Return the vector of the adapter that changes nothing."""
        return self.geometry.initial(self.frozen)

    def train(
        self,
        users: UserSet,
        plan: TrainingPlan,
        *,
        start: torch.Tensor | None = None,
        noise_key: bytes | None = None,
        spare_public_text: bool = True,
    ) -> torch.Tensor:
        """Train one adapter and return its vector ``(size,)``, exactly as a round would.

        Args:
            users: who is trained on.
            plan: of this workbench's shape.
            start: a vector to start from; zero by default.
            noise_key: secret bytes of draws and noise; fresh ones by default.
            spare_public_text: as in a round; without it the result is whatever the steps lead to.
        """
        job = TenantJob(
            job_key="bench", plan=plan, users=(), noise_key=noise_key or secrets.token_bytes(KEY_BYTES)
        )
        run = _CachedRun(self.decoder, self.encoder, [job], self.flags, lambda _: None, users=users)
        run.spare_public_text = spare_public_text
        if start is not None:
            run.start = start.detach().double()[None].clone()
        return run.train()[0]

    def gradient(self, users: UserSet, vector: torch.Tensor) -> torch.Tensor:
        """Return the mean over users of their unclipped gradients ``(size,)``; for public data and tests alone."""
        job = TenantJob(job_key="bench", plan=self.plan, users=(), noise_key=bytes(KEY_BYTES))
        run = _CachedRun(self.decoder, self.encoder, [job], self.flags, lambda _: None, users=users)
        (members,) = run._prefix()  # noqa: SLF001  our own subclass
        wide = torch.promote_types(self.decoder.dtype, torch.float32)
        point = vector.to(self.decoder.device, wide)[None]
        rows = [
            run.user_gradients(point, part) for part in split_users(members, self.flags.tokens_per_microbatch)
        ]
        return torch.cat(rows).mean(0).to("cpu", torch.float64)

    def losses(self, users: UserSet, vector: torch.Tensor | None) -> list[float]:
        """Return each user's mean loss, nats per token; None measures the base model."""
        return self._measure(users, vector, labels=False).losses

    def facts(self, users: UserSet, vector: torch.Tensor | None) -> LabelFacts:
        """Return losses and, for the calibration error, what was predicted at each label."""
        return self._measure(users, vector, labels=True)

    def export(self, vector: torch.Tensor, directory: Path) -> Path:
        """Write a vector as a portable adapter and return the directory."""
        export_adapter(directory, self.geometry, vector, self.frozen, str(self.base_model))
        return directory

    @torch.no_grad()
    def _measure(self, users: UserSet, vector: torch.Tensor | None, *, labels: bool) -> LabelFacts:
        wide = torch.promote_types(self.decoder.dtype, torch.float32)
        binding = None
        if vector is not None:
            binding = Binding(self.geometry, self.frozen, vector.to(self.decoder.device, wide)[None], None)
        place = {id(member): number for number, member in enumerate(users.members)}
        ordered = sorted(users.members, key=lambda member: member.user.tokens)
        losses = [0.0] * len(ordered)
        confidences: list[float] = []
        correct: list[bool] = []
        layers = range(self.geometry.first_layer, self.decoder.layer_count)
        for run in split_users(ordered, self.flags.tokens_per_microbatch):
            micro = assemble(run, self.decoder.device, wide)
            out = self.decoder.run(users.cache.hidden(micro), micro.batch, layers, binding, labels_only=True)
            weighted = micro.terms.sft * self.decoder.head.label_nll(out, micro.batch.targets)
            owner = micro.batch.label_groups.users.of_token
            sums = weighted.new_zeros(len(run)).index_add_(0, owner, weighted)
            for member, value in zip(run, sums.tolist(), strict=True):
                losses[place[id(member)]] = value
            if labels:
                largest, token = self.decoder.head.best_labels(out)
                confidences += largest.tolist()
                correct += (token == micro.batch.targets).tolist()
        return LabelFacts(losses=losses, confidences=confidences, correct=correct)
