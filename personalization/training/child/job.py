"""A whole job in the child: train, blend with the line's released adapter, measure what is public.

Everything after training reads released weights, public text and public numbers, so it is post-processing and free:

- *blend*: the exponential average of successive private adapters, where the policy asks for it;
- *public text*: the loss of the base and of what would be released on texts that this project wrote;
- *activation*: what would be released changes about the next tokens of such texts, for servers to prove that they
  apply it;
- *suites*: what the gate's public suites say of the base and of what would be released;
- *audit*: what canaries in a shadow of the plan show of its mechanism, under fresh keys and without anybody's data;
- *noise alone*: the length of what the same plan releases for nobody, with fresh noise. It is what two successive
  releases are compared against before a change is called drift.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from personalization.adapters.factors import blend
from personalization.planning.plan import PerformanceFlags
from personalization.training.engine.loading import loaded_base
from personalization.training.errors import PlanViolatedError
from personalization.training.jobs.job import (
    PUBLIC_KEY,
    Progress,
    PublicJob,
    PublicLosses,
    SuiteJob,
    TenantJob,
    TenantResult,
    TrainingJob,
    VoteJob,
    Votes,
)
from personalization.training.jobs.recipes import MamlRecipe, StyleGuide
from personalization.training.public.styles import style_tasks
from personalization.training.public.texts import public_users
from personalization.training.run.activation import measure_activation
from personalization.training.run.audit import audits
from personalization.training.run.ballots import vote_of
from personalization.training.run.bench import Workbench
from personalization.training.run.fused import FusedRun, ProgressSink, train
from personalization.training.run.measure import nll_per_user
from personalization.training.run.suites import measure_suites
from personalization.training.starts.maml import maml_start
from personalization.training.starts.synthetic import WARM_START_STEPS, synthetic_users, warm_start
from privacy.noise.keystream import KEY_BYTES


def run(job: TrainingJob | PublicJob | SuiteJob, progress: ProgressSink) -> tuple[TenantResult, ...]:
    """Run a job of any kind to its end.

    Raises:
        TrainingError: see ``train``.
    """
    if isinstance(job, PublicJob):
        return (_public_adapter(job, progress),)
    if isinstance(job, SuiteJob):
        return _asked_again(job)
    results = train(job, progress)
    released = [blended(tenant, result) for tenant, result in zip(job.tenants, results, strict=True)]
    base = Path(job.base_model)
    adapters = [result.adapter for result in released]
    measured = measure_public(adapters, base, job.flags)
    activations = measure_activation(adapters, base, job.flags)
    asked = [
        measure_suites([adapter], base, job.flags, tenant.suites)[0]
        for adapter, tenant in zip(adapters, job.tenants, strict=True)
    ]
    plans = [tenant.plan for tenant in job.tenants]
    audited = audits(plans, lambda: loaded_base(base, job.flags), job.flags, job.audit)
    return tuple(
        replace(
            result,
            public_losses=losses,
            activation=activation,
            noise_norm=noise_norm(base, tenant, job.flags, scaled=_scaled(result)),
            audit=canaries,
            suites=suites,
        )
        for tenant, result, losses, activation, canaries, suites in zip(
            job.tenants, released, measured, activations, audited, asked, strict=True
        )
    )


def vote(job: VoteJob) -> Votes:
    """Return what each user votes for; every ballot is looked at by itself, so no user changes another's vote."""
    base = Path(job.base_model)
    return Votes(of_users=tuple(vote_of(one, base, job.max_tokens, job.flags) for one in job.ballots))


def measure_public(
    adapters: Sequence[Path], base_model: Path, flags: PerformanceFlags
) -> tuple[PublicLosses, ...]:
    """Return the losses on public text of each adapter and of the base, which is measured once."""
    texts = public_users()
    base = tuple(nll_per_user(base_model, None, texts, flags=flags))
    return tuple(
        PublicLosses(base=base, adapted=tuple(nll_per_user(base_model, adapter, texts, flags=flags)))
        for adapter in adapters
    )


def _scaled(result: TenantResult) -> bool:
    """Say whether one of the steps went into the public part's scales."""
    return result.public_part is not None and result.public_part.scaled > 0


def noise_norm(
    base_model: Path, tenant: TenantJob, flags: PerformanceFlags, *, scaled: bool = False
) -> float:
    """Return the L2 norm of what the tenant's plan releases from zero for nobody, with fresh noise.

    The plan is public and the noise key is drawn here, so the number says nothing about anyone. With d trained
    numbers the norms of two such runs differ by about 1/√(2d). A public metric is worked out once, at the base.
    """
    if tenant.plan.noise_multiplier == 0:
        return 0.0
    decoder, encoder = loaded_base(base_model, flags)
    plan = tenant.plan
    if scaled:  # that step moved nothing of what is measured here
        plan = replace(plan, scaled_layers=0).with_mechanism(steps=plan.steps - 1)
    nobody = TenantJob(job_key="nobody", plan=plan, users=(), noise_key=secrets.token_bytes(KEY_BYTES))
    fused = FusedRun(
        decoder, encoder, [nobody], flags, lambda _: None, refreshed_at=(0,), spare_public_text=False
    )
    return float(torch.linalg.vector_norm(fused.train()[0] - fused.start[0])) * (1.0 - tenant.blend_share)


def _asked_again(job: SuiteJob) -> tuple[TenantResult, ...]:
    base = Path(job.base_model)
    adapters = list(job.adapters.values())
    measured = measure_public(adapters, base, job.flags)
    asked = measure_suites(adapters, base, job.flags, job.depth)
    activations = measure_activation(adapters, base, job.flags)
    return tuple(
        TenantResult(
            job_key=name,
            adapter=adapter,
            steps=0,
            sample_rate=0.0,
            noise_multiplier=0.0,
            delta_norm=0.0,
            trainable_parameters=0,
            public_losses=losses,
            activation=activation,
            suites=suites,
        )
        for (name, adapter), losses, activation, suites in zip(
            job.adapters.items(), measured, activations, asked, strict=True
        )
    )


def blended(tenant: TenantJob, result: TenantResult) -> TenantResult:
    """Return a tenant's result with the line's released adapter averaged in, as its job asks; both parts say so."""
    if tenant.blend_with is None or tenant.blend_share == 0:
        return result
    target = result.adapter.with_name(result.adapter.name + "-blended")
    part, kept = result.public_part, tenant.remembers
    remembered = 0 if kept is None else kept.remembered + 1
    blend(tenant.blend_with, result.adapter, target, share=tenant.blend_share, remembered=remembered)
    if kept is not None:
        nothing_new = replace(kept, pairs=0, rehearsed=0, steps=0, noted=0, scaled=0)
        part = nothing_new if part is None else replace(part, remembered=remembered)
    return replace(result, adapter=target, public_part=part)


def _public_adapter(job: PublicJob, progress: ProgressSink) -> TenantResult:
    progress(Progress(stage="load", done=0, total=1))
    base, plan = Path(job.base_model), job.plan
    bench = Workbench(base, plan, job.flags)
    progress(Progress(stage="load", done=1, total=1))
    if isinstance(job.work, StyleGuide):
        users = synthetic_users(base, job.work)
        # The travel, steps × learning rate, is the plan's own: it is what the adapter's shape was tuned for.
        vector = warm_start(bench, users, learning_rate=plan.learning_rate * plan.steps / WARM_START_STEPS)
    elif isinstance(job.work, MamlRecipe):
        vector = maml_start(bench, [bench.user_set(task) for task in style_tasks()], job.work)
    else:
        vector = bench.zero()
    if not bool(torch.isfinite(vector).all()):
        raise PlanViolatedError("the adapter from public data is not finite; nothing is published")
    progress(Progress(stage="train", done=1, total=1))
    adapter = bench.export(vector, job.output / PUBLIC_KEY)
    (losses,) = measure_public([adapter], base, job.flags)
    (activation,) = measure_activation([adapter], base, job.flags)
    (suites,) = measure_suites([adapter], base, job.flags, job.suites)
    progress(Progress(stage="export", done=1, total=1))
    return TenantResult(
        job_key=PUBLIC_KEY,
        adapter=adapter,
        steps=plan.steps,
        sample_rate=1.0,
        noise_multiplier=0.0,
        delta_norm=float(torch.linalg.vector_norm(vector - bench.zero())),
        trainable_parameters=bench.geometry.size,
        public_losses=losses,
        activation=activation,
        suites=suites,
    )
