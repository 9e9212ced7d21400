"""Run a shadow of a plan with canaries in it, and score what it releases by likelihood ratio, white-box.

A shadow is the plan's own mechanism, in the code that trains (``FusedRun.train``: its coins, its loop, its optimizer
with clip, sum and noise, on the device and in the dtype of the round) under fresh keys, without the tenant's data and
without a place in the ledger. The auditor sees every noisy sum, which is more than a release shows.

*Mechanism* (default). Canary j's gradient lies along the j-th coordinate and is far longer than the clipping norm; its
sign changes over the steps as often as it stays, so noise that repeats cancels out of the score. Canaries of other
coordinates say nothing about it, so every coordinate of every shadow is a trial of its own and no model is run. This
covers the noise and its independence over steps, the rate, clipping, the sum and the composition of all steps. It
does not cover how gradients are computed: a user who moves another's gradient, or two users taken for one.

*Gradients*. Each shadow is a fused tenant with a few public users and at most one canary user with texts of its own;
the model computes all gradients, in the public metric where the plan asks for it. The auditor knows everything but the
canary's presence, takes the other users' contributions away and projects on the canary's own. One trial costs as much
as training a tenant of a few users, so it is for builds and devices, not for each release.

A shadow has no style card, so all of its steps train the private part: the gradients of a step that scales a public
part are held by the privacy claims' tests alone.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch

from personalization.canaries.values import AuditDepth, AuditRequest, CanaryScores
from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.training.engine.batches import Member
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder, TokenExample, TokenRow, TokenUser
from personalization.training.engine.families import Geometry
from personalization.training.errors import PlanViolatedError
from personalization.training.jobs.job import Example, ExampleKind, TenantJob, UserExamples
from personalization.training.mechanism.optimizer import FusedDPOptimizer
from personalization.training.metric.metric import Metric
from personalization.training.public.texts import public_users
from personalization.training.run.fused import FusedRun
from privacy.noise.keystream import KEY_BYTES

WIDTH = (
    256  # canaries of one shadow: few enough that a drawn row is short, enough that a noise call is worth it
)
TENANTS = 64  # shadows that are run together
OTHERS = 3  # public users beside a canary
LENGTHS = (1.0, 4.0, 1e3)  # of the canaries' gradients before clipping, in clipping norms
_NOTHING = TokenUser((TokenExample((TokenRow((0, 0), 1),), ExampleKind.SFT, 1.0),))
_SPACE = "abcdefghijklmnopqrstuvwxyz"


def audit(
    decoder: FrozenDecoder,
    encoder: Encoder,
    plan: TrainingPlan,
    flags: PerformanceFlags,
    request: AuditRequest,
) -> CanaryScores:
    """Return the scores of canaries in shadows of ``plan``.

    Args:
        decoder: the loaded base; the mechanism's audit takes only device and dtype from it.
        encoder: its tokenizer.
        plan: what is trained; noise above zero.
        flags: as in training.
        request: public numbers: depth and trials.
    """
    canaries = request.canaries_for(plan.steps)
    per_shadow = WIDTH if request.depth is AuditDepth.MECHANISM else 1
    scores, present = [], []
    waiting = math.ceil(canaries / per_shadow)
    while waiting:
        jobs = [_shadow(plan, request.depth) for _ in range(min(TENANTS, waiting))]
        waiting -= len(jobs)
        kind = _MechanismShadows if request.depth is AuditDepth.MECHANISM else _GradientShadows
        run = kind(decoder, encoder, jobs, flags, lambda _progress: None)
        with suppress(PlanViolatedError):
            run.train()  # the witness of a shadow sees what a round's sees; here canaries speak
        scores.append(run.scores.ravel())
        present.append(run.present.ravel())
    return CanaryScores.of(
        request.depth, np.concatenate(scores)[:canaries], np.concatenate(present)[:canaries]
    )


def audits(
    plans: list[TrainingPlan],
    base: Callable[[], tuple[FrozenDecoder, Encoder]],
    flags: PerformanceFlags,
    request: AuditRequest | None,
) -> list[CanaryScores | None]:
    """Return the audit of each plan, made once for plans whose mechanisms are equal."""

    @cache
    def once(plan: TrainingPlan) -> CanaryScores:
        decoder, encoder = base()
        return audit(decoder, encoder, plan, flags, request or AuditRequest())

    return [None if request is None or plan.noise_multiplier == 0 else once(plan) for plan in plans]


def _shadow(plan: TrainingPlan, depth: AuditDepth) -> TenantJob:
    users: tuple[UserExamples, ...] = ()
    if depth is AuditDepth.GRADIENTS:
        others = public_users()
        chosen = [secrets.choice(others) for _ in range(OTHERS)]
        users = (*chosen, _canary_user(plan))
    return TenantJob(job_key="shadow", plan=plan, users=users, noise_key=secrets.token_bytes(KEY_BYTES))


def _canary_user(plan: TrainingPlan) -> UserExamples:
    """Return a user whose texts are unlike anybody's."""

    def nonsense(length: int) -> str:
        return "".join(secrets.choice(_SPACE) for _ in range(length))

    count = min(2, plan.contribution_bound)
    return UserExamples(
        examples=tuple(Example(prompt=nonsense(12), completion=nonsense(24)) for _ in range(count))
    )


class _Shadows(FusedRun):
    """Fused tenants that are all shadows; their noisy sums are scored instead of released."""

    present: np.ndarray
    scores: np.ndarray
    _seen: torch.Tensor

    def _step(self, optimizer: FusedDPOptimizer, parameter: torch.nn.Parameter, drawn: list[Member]) -> int:
        if not isinstance(optimizer.original_optimizer, _Listener):
            optimizer.original_optimizer = _Listener(parameter, self._keep)
        self._now = optimizer.current_step
        self._before(parameter, drawn)
        tokens = super()._step(optimizer, parameter, drawn)
        self.scores += self._evidence(self._seen)
        return tokens

    def _keep(self, noisy_means: torch.Tensor) -> None:
        plan = self.tenants[0].plan
        scale = plan.expected_cohort / plan.clipping_norm
        self._seen = noisy_means.detach().to("cpu", torch.float64) * scale

    def _before(self, parameter: torch.nn.Parameter, drawn: list[Member]) -> None:
        """Prepare for one step."""

    def _evidence(self, sums: torch.Tensor) -> np.ndarray:
        """Return the log likelihood ratio of one step's noisy sums, in clipping norms."""
        raise NotImplementedError

    def _ratio(self, along: np.ndarray, squared_length: np.ndarray | float) -> np.ndarray:
        """Return log((1 - q) + q·exp(⟨x, v⟩/σ² - |v|²/2σ²)): with the canary's v taken with rate q, over without."""
        plan = self.tenants[0].plan
        shifted = (2 * along - squared_length) / (2 * plan.noise_multiplier**2)
        if plan.sample_rate >= 1:
            return np.asarray(shifted)
        return np.logaddexp(math.log1p(-plan.sample_rate), math.log(plan.sample_rate) + shifted)

    def _released(self, averages: torch.Tensor) -> torch.Tensor:
        return averages  # nothing is released


class _MechanismShadows(_Shadows):
    """Canaries in coordinates of their own; no model is run."""

    def __post_init__(self) -> None:
        plan = self.tenants[0].plan
        size = (len(self.tenants), WIDTH)
        self._layout = Geometry(plan.family, plan.rank, plan.alpha, (0,), (), WIDTH, plan.subspace)
        self.start = torch.zeros(size, dtype=torch.float64)
        self.steps = plan.steps
        self._wide = torch.promote_types(self.decoder.dtype, torch.float32)
        generator = np.random.default_rng(secrets.randbits(128))
        self.present = generator.integers(0, 2, size).astype(bool)
        self.scores = np.zeros(size)
        # As many steps forward as back, in an order of each canary's own.
        signs = np.where(np.arange(plan.steps) % 2 == 0, 1.0, -1.0)
        self._signs = generator.permuted(np.tile(signs, (*size, 1)), axis=2)
        self._lengths = np.resize(LENGTHS, WIDTH) * plan.clipping_norm

    @property
    def geometry(self) -> Geometry:
        return self._layout

    def _prefix(self) -> list[list[Member]]:
        return [
            [
                Member(number, _NOTHING, (slice(at, at + 1),), place)
                for place, at in enumerate(np.flatnonzero(row).tolist())
            ]
            for number, row in enumerate(self.present)
        ]

    def _make_metric(self, vectors: torch.Tensor) -> Metric | None:  # noqa: ARG002
        return None  # clipping and noise act on gradients that are turned already

    def user_gradients(self, vectors: torch.Tensor, members: list[Member]) -> torch.Tensor:
        at = [(member.tenant, member.cached[0].start) for member in members]
        values = np.array(
            [self._signs[tenant, place, self._now] * self._lengths[place] for tenant, place in at]
        )
        rows = torch.zeros((len(members), WIDTH), device=vectors.device, dtype=vectors.dtype)
        places = torch.tensor([place for _, place in at], device=rows.device)[:, None]
        return rows.scatter_(1, places, torch.from_numpy(values).to(rows)[:, None])

    def _evidence(self, sums: torch.Tensor) -> np.ndarray:
        return self._ratio(self._signs[:, :, self._now] * sums.numpy(), 1.0)


class _GradientShadows(_Shadows):
    """One canary user at most in each shadow, beside public users, with the model's own gradients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.spare_public_text = False
        generator = np.random.default_rng(secrets.randbits(128))
        self.present = generator.integers(0, 2, len(self.tenants)).astype(bool)
        self.scores = np.zeros(len(self.tenants))
        self._canaries: list[Member] = []

    def _prefix(self) -> list[list[Member]]:
        members = super()._prefix()
        self._canaries = [people.pop() for people in members]
        for canary, people, there in zip(self._canaries, members, self.present, strict=True):
            people.extend([canary] if there else [])
        return members

    def _before(self, parameter: torch.nn.Parameter, drawn: list[Member]) -> None:
        known = [member for member in drawn if member is not self._canaries[member.tenant]]
        size = (len(self.tenants), self.geometry.size)
        self._known = torch.zeros(size, dtype=torch.float64)
        self._known.index_add_(0, torch.tensor([m.tenant for m in known]), self._clipped(parameter, known))
        self._own = self._clipped(parameter, self._canaries)

    def _clipped(self, parameter: torch.nn.Parameter, members: list[Member]) -> torch.Tensor:
        """Return the members' gradients in the metric, clipped, in clipping norms."""
        members = [member for member in members if member.user.examples]
        if not members:
            return torch.zeros((0, self.geometry.size), dtype=torch.float64)
        rows = self.user_gradients(parameter.detach(), members)
        if self._metric is not None:
            rows = self._metric.precondition(
                rows, torch.tensor([m.tenant for m in members], device=rows.device)
            )
        rows = rows.to("cpu", torch.float64) / self.tenants[0].plan.clipping_norm
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows.div_(lengths.clamp_min_(1.0))

    def _evidence(self, sums: torch.Tensor) -> np.ndarray:
        rest = sums - self._known
        return self._ratio((rest * self._own).sum(1).numpy(), (self._own**2).sum(1).numpy())


class _Listener(torch.optim.Optimizer):
    """Takes the place of the inner optimizer: hears the noisy means, moves nothing.

    So every step of an audit of gradients is made at the start, where the public metric was taken; what a step gives
    away does not depend on where it is made.
    """

    def __init__(self, parameter: torch.nn.Parameter, hear: Callable[[torch.Tensor], None]) -> None:
        super().__init__([parameter], {})
        self._hear = hear

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002  no closure is ever used
        """Hand over the noisy means."""
        (parameter,) = self.param_groups[0]["params"]
        self._hear(parameter.grad)
