"""Train all tenants of a job together on one frozen base.

Guarantee: for each tenant, the released adapter is a function of ``plan.steps`` applications of the Gaussian mechanism
to Poisson samples of that tenant's users (rate ``sample_rate``; every user's gradient, over all of the user's examples
or, in a step that scales a public part, the first,
scaled to at most ``clipping_norm`` and rounded to whole numbers of a public lattice; their exact sum; whole noise of
deviation ``noise_multiplier × clipping_norm`` per coordinate from a ChaCha20 keystream) and of public numbers. The
caller must have reserved the budget for exactly that before calling. What ran is measured (``mechanism.witness``); a
run that was not what its plan says is void, any other has a receipt.

A tenant whose round voted on style also has a card. What is made of it, a public part, is post-processing; the private
part is then trained on the base with that part merged, and both leave in one adapter. Where the plan has scaled layers,
the first of its steps decides how strongly that part acts (``training.styles.scales``), and the others train on it.

Longer than 400 lines, because one batch of several tenants is laid out, stepped and measured in one place.

Nothing else leaves: no loss, gradient norm or clipped share is reported. Progress holds times and token counts of the
fused batch; those depend on how many users were drawn, so show them to the operator who may read the raw data and do
not publish them.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from personalization.planning.plan import Objective, PerformanceFlags, TrainingPlan
from personalization.training.engine.batches import Member, PrefixCache, assemble, split_users
from personalization.training.engine.decoder import FrozenDecoder, TokenBatch
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.families import Frozen, Geometry
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.low_rank import Binding
from personalization.training.engine.portable import export_adapter, import_adapter
from personalization.training.errors import JobInvalidError, NotTrainedError
from personalization.training.jobs.job import Progress, TenantJob, TenantResult, TrainingJob
from personalization.training.jobs.receipt import Receipt, SignedReceipt
from personalization.training.mechanism.noise import draw_users
from personalization.training.mechanism.optimizer import (
    FusedDPOptimizer,
    TenantAdam,
    TenantDescent,
    TenantMechanism,
)
from personalization.training.metric.curvature import PublicCurvature, metric_texts
from personalization.training.metric.frozen import LoadedShape
from personalization.training.metric.metric import REFRESHED_AT, Metric
from personalization.training.metric.sparing import LARGEST_CHANGE, bounded, pulled_back
from personalization.training.public.texts import protected_users, public_users
from personalization.training.styles.foundation import Foundation, lay_foundation, merged, part_key
from personalization.training.styles.scales import PartScales, first_examples

ProgressSink = Callable[[Progress], None]


def train(job: TrainingJob, progress: ProgressSink) -> tuple[TenantResult, ...]:
    """Train and export every tenant of ``job``.

    Args:
        job: tenants, their users and plans, the base model's directory and the output directory.
        progress: called often, with nothing computed from private values.

    Returns:
        One result per tenant, in the job's order; its adapter lies in ``job.output / job_key``.

    Raises:
        JobInvalidError: a plan does not fit the base model or the data breaks the plan's bounds.
        PlanViolatedError: the observed mechanism differs from the plan.
        NotTrainedError: weights did not move or are not finite.
    """
    if job.flags.threads is not None:
        torch.set_num_threads(job.flags.threads)
    progress(Progress(stage="load", done=0, total=1))
    decoder, encoder = loaded_base(Path(job.base_model), job.flags)
    progress(Progress(stage="load", done=1, total=1, memory_bytes=memory_bytes(decoder.device)))
    return train_on(decoder, encoder, job, progress)


def train_on(
    decoder: FrozenDecoder, encoder: Encoder, job: TrainingJob, progress: ProgressSink
) -> tuple[TenantResult, ...]:
    """Train a job on a base that is already loaded; see ``train``."""
    if len({tenant.job_key for tenant in job.tenants}) != len(job.tenants):
        raise JobInvalidError(
            "two tenants of the job carry the same job key; each key names one output directory"
        )
    together: dict[tuple[object, ...], list[TenantJob]] = {}
    for tenant in job.tenants:
        together.setdefault((*fusion_key(tenant.plan), part_key(tenant)), []).append(tenant)
    results: dict[str, TenantResult] = {}
    total_steps = sum(max(tenant.plan.steps for tenant in group) for group in together.values())
    done = 0
    for group in together.values():
        foundation = lay_foundation(
            decoder,
            encoder,
            group[0],
            job.flags,
            lambda made, steps: progress(Progress(stage="style", done=made, total=steps)),
        )
        fused = FusedRun(decoder, encoder, group, job.flags, progress, foundation=foundation)
        vectors = fused.train(done, total_steps)
        foundation = fused.foundation
        done += fused.steps
        for number, tenant in enumerate(group):
            directory = job.output / tenant.job_key
            export_adapter(
                directory,
                fused.geometry,
                vectors[number],
                fused.frozen,
                job.base_model,
                None if foundation is None else foundation.factors,
            )
            delta = vectors[number] - fused.start[number]
            results[tenant.job_key] = TenantResult(
                job_key=tenant.job_key,
                adapter=directory,
                steps=tenant.plan.steps,
                sample_rate=tenant.plan.sample_rate,
                noise_multiplier=tenant.plan.noise_multiplier,
                delta_norm=float(torch.linalg.vector_norm(delta)),
                trainable_parameters=fused.geometry.size,
                receipt=_signed(fused.receipts[number], tenant),
                public_part=None if foundation is None else foundation.facts,
            )
            progress(Progress(stage="export", done=len(results), total=len(job.tenants)))
    return tuple(results[tenant.job_key] for tenant in job.tenants)


def _signed(receipt: Receipt | None, tenant: TenantJob) -> SignedReceipt | None:
    if receipt is None or tenant.receipt_key is None:
        return None
    return SignedReceipt.of(receipt, tenant.receipt_key)


def fusion_key(plan: TrainingPlan) -> tuple[object, ...]:
    """Return what two plans must share to be trained in one batch: the shape of the adapter, nothing private."""
    return (
        plan.family,
        plan.rank,
        plan.alpha,
        plan.target_modules,
        plan.top_layers,
        plan.subspace,
        plan.damping > 0,
        plan.max_tokens if plan.damping > 0 else None,  # truncates what the shared curvature is taken on
        plan.label_shortlist,
    )


def memory_bytes(device: torch.device) -> int:
    """Return the peak memory of the process, or of the GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class FusedRun:
    """Tenants whose adapters have one shape, trained in one batch.

    Attributes:
        decoder: the base that is trained on: the plain one, or the foundation's.
        foundation: the base with the public part that these tenants share; None trains on the plain one. On it nothing
            is spared while training: the public part was rehearsed on public text, and a release is moved back only
            where it would fail the gate's limit against the plain base.
        shape: the one shape of their adapters, on the base. Their frozen factors are the plain base's: they belong to
            the line, and the foundation to one card.
        start: where each tenant starts ``(tenants, size)``, float64 on the CPU.
        steps: the longest schedule.
        receipts: what was measured of each tenant's run, once it has ended; None where there was no noise.
        refreshed_at: steps before which the public metric is worked out anew, where the plan asks for one.
        spare_public_text: whether such a plan's iterates and release are moved to where public texts lose little.
    """

    decoder: FrozenDecoder
    encoder: Encoder
    tenants: list[TenantJob]
    flags: PerformanceFlags
    progress: ProgressSink
    refreshed_at: tuple[int, ...] = REFRESHED_AT
    spare_public_text: bool = True
    foundation: Foundation | None = None
    shape: LoadedShape = field(init=False)
    start: torch.Tensor = field(init=False)
    steps: int = field(init=False)
    receipts: list[Receipt | None] = field(init=False, default_factory=list)
    _metric: Metric | None = field(init=False, default=None)
    _scales: PartScales | None = field(init=False, default=None)  # until the first step has decided them
    _told: torch.Tensor | None = field(init=False, default=None)  # the noisy means of that step
    _plain_shape: LoadedShape = field(init=False)

    def __post_init__(self) -> None:
        self.shape = LoadedShape.of_plan(self.decoder, self.encoder, self.tenants[0].plan, self.flags)
        self._plain_shape = self.shape
        if self.foundation is not None:
            self.decoder = self.foundation.decoder
            self.shape = replace(self.shape, decoder=self.decoder)
            plan, card = self.tenants[0].plan, self.tenants[0].card
            learned = any(bool(up.any()) for _, up in self.foundation.factors.values())
            if plan.scaled_layers and card is not None and learned:
                self._scales = PartScales.of(
                    self.foundation, card, self.geometry, self.encoder, plan, self.flags
                )
        self.start = torch.stack([self._start_of(tenant) for tenant in self.tenants])
        self.steps = max(tenant.plan.steps for tenant in self.tenants)
        # Adapters, norms and sums are at least float32 whatever the base's dtype.
        self._wide = torch.promote_types(self.decoder.dtype, torch.float32)

    @property
    def _exact(self) -> bool:
        """Whether losses are taken over all tokens in full precision: a pair's needs the likelihoods themselves.

        The public plans decide it, and not whose examples come together in a pass.
        """
        return any(tenant.plan.objective is Objective.DPO_SIGMOID for tenant in self.tenants)

    @property
    def geometry(self) -> Geometry:
        """Layout of the flat vectors."""
        return self.shape.geometry

    @property
    def frozen(self) -> Frozen:
        """The shared factors."""
        return self.shape.frozen

    def _start_of(self, tenant: TenantJob) -> torch.Tensor:
        if tenant.start_adapter is None:
            return self.geometry.initial(self.frozen)
        return import_adapter(tenant.start_adapter, self.geometry, self.frozen)

    def train(self, steps_before: int = 0, steps_total: int | None = None) -> torch.Tensor:
        """Run every tenant's schedule.

        Returns:
            The released flat vectors ``(tenants, size)``, float64 on the CPU.

        Raises:
            PlanViolatedError: what was measured differs from a plan.
            NotTrainedError: weights did not move or are not finite.
        """
        total = steps_total or self.steps
        members = self._prefix()
        parameter = torch.nn.Parameter(self.start.to(self.decoder.device, self._wide, copy=True))
        mechanisms = [
            TenantMechanism.of_plan(
                tenant.plan, tenant.noise_key, [bool(member.user.examples) for member in people]
            )
            for tenant, people in zip(self.tenants, members, strict=True)
        ]
        if self._scales is None:
            self._metric = self._make_metric(parameter)
        rates = [tenant.plan.learning_rate for tenant in self.tenants]
        inner: torch.optim.Optimizer
        if self._scales is None and self._metric is None:
            inner = TenantAdam(parameter, rates, lambda: optimizer.active)
        else:
            inner = TenantDescent(parameter, rates, lambda: optimizer.active, self._restored)
        optimizer = FusedDPOptimizer(inner, mechanisms)
        averages = torch.zeros_like(self.start)
        for step in range(self.steps):
            optimizer.current_step = step
            if self._metric is not None:
                self._metric.refresh(step, parameter.detach(), optimizer.active)
            drawn = [
                members[number][user]
                for number in optimizer.active
                for user in draw_users(
                    mechanisms[number].stream,
                    step,
                    len(members[number]),
                    self.tenants[number].plan.sample_rate,
                )
            ]
            if self._scales is None:
                self._step(optimizer, parameter, drawn)
            else:
                self._scale(self._scales, optimizer, parameter, drawn)
            if self._metric is not None:
                self._metric.protect(parameter.detach(), optimizer.active)
            self._average(averages, parameter, step)
            self.progress(
                Progress(
                    stage="train",
                    done=steps_before + step + 1,
                    total=total,
                    memory_bytes=memory_bytes(self.decoder.device),
                )
            )
        self.receipts = optimizer.receipts()
        return self._released(averages)

    def _make_metric(self, vectors: torch.Tensor) -> Metric | None:
        plans = [tenant.plan for tenant in self.tenants]
        if plans[0].damping == 0:
            return None
        curvature, protection = PublicCurvature.kept(metric_texts(), self.shape), None
        if self.spare_public_text and self.foundation is None:
            protection = PublicCurvature.kept(protected_users(), self.shape).protection()
        return Metric.of_plans(curvature, plans, vectors.detach(), self.refreshed_at, protection)

    def _prefix(self) -> list[list[Member]]:
        encoded = [
            (
                number,
                self.encoder.user(
                    user,
                    bound=tenant.plan.contribution_bound,
                    objective=tenant.plan.objective,
                    max_tokens=tenant.plan.max_tokens,
                ),
            )
            for number, tenant in enumerate(self.tenants)
            for user in tenant.users
        ]
        self._cache = PrefixCache(
            self.decoder,
            self.geometry.first_layer if self._scales is None else self._scales.first_layer,
            enabled=self.flags.cache_prefix,
            opening=self.encoder.opening,
        )
        # Nothing in between: how many passes there are, and how much of the whole each is, tells of users' texts.
        self.progress(Progress(stage="prefix", done=0, total=1))
        placed = self._cache.fill(encoded, self.flags.tokens_per_microbatch)
        self.progress(Progress(stage="prefix", done=1, total=1))
        members: list[list[Member]] = [[] for _ in self.tenants]
        for member in placed:
            members[member.tenant].append(member)
        return members

    def _step(self, optimizer: FusedDPOptimizer, parameter: torch.nn.Parameter, drawn: list[Member]) -> int:
        """Apply one mechanism step of every active tenant; an empty draw still adds its noise. Return the tokens."""
        # A drawn user without a usable example contributes exactly zero.
        drawn = [member for member in drawn if member.user.examples]
        runs = list(split_users(drawn, self.flags.tokens_per_microbatch))
        for index, run in enumerate(runs):
            rows = self._rows(parameter.detach(), run)
            optimizer.row_tenants = torch.tensor(
                [member.tenant for member in run], device=self.decoder.device
            )
            optimizer.row_users = [member.number for member in run]
            if self._metric is not None:
                rows = self._metric.precondition(rows, optimizer.row_tenants)
            parameter.grad_sample = rows  # type: ignore[attr-defined]
            optimizer.signal_skip_step(index < len(runs) - 1)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if not runs:
            parameter.grad_sample = parameter.new_zeros((0, self.geometry.size))  # type: ignore[attr-defined]
            optimizer.row_tenants = torch.empty(0, dtype=torch.long, device=self.decoder.device)
            optimizer.row_users = ()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return sum(member.user.tokens for member in drawn)

    def _rows(self, vectors: torch.Tensor, members: list[Member]) -> torch.Tensor:
        """Return what each user adds to the step's sum before clipping ``(users, size)``."""
        if self._scales is None:
            return self.user_gradients(vectors, members)
        micro = assemble(members, self.decoder.device, self._wide)
        slopes = self._scales.slopes(
            self.decoder, self._cache.hidden(micro), micro, half=self.flags.half_products and not self._exact
        )
        return self._scales.rows(slopes, width=self.geometry.size, norm=self.tenants[0].plan.clipping_norm)

    def _restored(self, moved: torch.Tensor) -> torch.Tensor:
        """Return the noisy means as directions of the adapters; those of the scales' step move no adapter."""
        if self._metric is not None:
            return self._metric.restore(moved)
        self._told = moved.clone()
        return torch.zeros_like(moved)

    def _scale(
        self,
        scales: PartScales,
        optimizer: FusedDPOptimizer,
        parameter: torch.nn.Parameter,
        drawn: list[Member],
    ) -> None:
        """Spend one step on how strongly the one tenant's public part acts, and go on on the base with it."""
        (tenant,) = self.tenants
        if bool(self.start.any()):
            core = self.geometry.factors(self.start[0], self.frozen)
            self.decoder = merged(self.decoder, core, self.geometry.scaling)
        self._step(optimizer, parameter, first_examples([one for one in drawn if one.user.examples]))
        assert self._told is not None  # the step has just handed it over
        change = scales.moved(self._told[0] / tenant.plan.clipping_norm)
        plain = self._plain_shape.decoder
        self.foundation = scales.scaled(change, plain, self.encoder, tenant.plan, self.flags)
        self.decoder = self.foundation.decoder
        self.shape = replace(self.shape, decoder=self.decoder)
        self._cache.advance(self.decoder, self.geometry.first_layer, self.flags.tokens_per_microbatch)
        self._scales = None
        self.refreshed_at = (1, *self.refreshed_at)
        self._metric = self._make_metric(parameter)

    def user_gradients(self, vectors: torch.Tensor, members: list[Member]) -> torch.Tensor:
        """Return the exact gradient of each user's own loss, before clipping.

        Args:
            vectors: adapters of all tenants ``(tenants, size)``.
            members: whole users, tenants together.

        Returns:
            ``(users, size)``.
        """
        micro = assemble(members, self.decoder.device, self._wide)
        rows = torch.empty((len(members), self.geometry.size), device=vectors.device, dtype=vectors.dtype)
        present = vectors if len(micro.tenants) == len(vectors) else vectors[micro.tenants]
        binding = Binding(self.geometry, self.frozen, present.detach().requires_grad_(), rows)
        hidden = self._cache.hidden(micro)
        reference = None
        if len(micro.terms.pairs):
            with torch.no_grad():
                reference = micro.terms.rows_nll(self._label_nll(hidden, micro.batch, None))
        nll = self._label_nll(hidden, micro.batch, binding)
        torch.autograd.backward(micro.terms.total(nll, reference))
        binding.check_complete()
        return rows

    def _label_nll(self, hidden: torch.Tensor, batch: TokenBatch, binding: Binding | None) -> torch.Tensor:
        """Return the loss of each label ``(labels,)`` from the input of the first adapted layer."""
        layers = range(self.geometry.first_layer, self.decoder.layer_count)
        if self.flags.label_only_logits:
            out = self.decoder.run(hidden, batch, layers, binding, labels_only=True)
            exact = binding is None or self._exact
            half = self.flags.half_products and not exact
            shortlist = None if exact or self._metric is None else self._metric.curvature.shortlist
            return self.decoder.head.label_nll(out, batch.targets, half=half, shortlist=shortlist)
        # Without the lever: the last layer and the logits at every position, as a plain trainer computes them.
        out = self.decoder.run(hidden, batch, layers, binding)
        every = batch.targets.new_zeros(batch.rows.tokens).index_copy_(0, batch.label_at, batch.targets)
        return self.decoder.head.label_nll(out, every).index_select(0, batch.label_at)

    def _average(self, averages: torch.Tensor, parameter: torch.nn.Parameter, step: int) -> None:
        """Add this iterate to the average of each tenant whose last iterates have begun."""
        shares = []
        for tenant in self.tenants:
            last = max(1, round(tenant.plan.steps * tenant.plan.averaging_fraction))
            inside = tenant.plan.steps - last <= step < tenant.plan.steps
            shares.append(1.0 / last if inside else 0.0)
        if any(shares):
            column = torch.tensor(shares, dtype=torch.float64)[:, None]
            averages.addcmul_(parameter.detach().to("cpu", torch.float64), column)

    def _released(self, averages: torch.Tensor) -> torch.Tensor:
        released = self.start.clone()
        for number, tenant in enumerate(self.tenants):
            delta = averages[number] - self.start[number]
            if not bool(torch.isfinite(delta).all()):
                raise NotTrainedError("the trained weights of a tenant are not finite; nothing is released")
            if float(delta.abs().max()) == 0.0:
                raise NotTrainedError(
                    "the trained weights of a tenant did not move in any step; nothing is released, its budget stays "
                    "spent"
                )
            released[number] += tenant.plan.shrinkage * delta
        if self._metric is None or not self.spare_public_text:
            return released
        if self.foundation is not None:
            return torch.stack([self._within_limit(one, self._metric) for one in released])
        protected, gated = (
            PublicCurvature.kept(texts, self.shape) for texts in (protected_users(), public_users())
        )
        return torch.stack([pulled_back(one, self._metric.curvature, protected, gated) for one in released])

    def _within_limit(self, vector: torch.Tensor, metric: Metric) -> torch.Tensor:
        """Return a release on the foundation, moved back only where it is above the plain base's limit."""
        vector, zero = bounded(vector), torch.zeros_like(vector)
        gated, gated_plain = (
            PublicCurvature.kept(public_users(), shape) for shape in (self.shape, self._plain_shape)
        )
        before = gated_plain.loss(zero)
        if gated.loss(vector) <= (1.0 + LARGEST_CHANGE) * before:
            return vector
        protected, protected_plain = (
            PublicCurvature.kept(protected_users(), shape) for shape in (self.shape, self._plain_shape)
        )
        return pulled_back(
            vector, metric.curvature, protected, gated, plain=(protected_plain.loss(zero), before)
        )
