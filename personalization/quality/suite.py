"""The quality benchmark: what a private adapter is worth on users that training never saw.

For one tenant: the base model, the meta start alone, the best non-private adapter of the same users and family, private
adapters at several ε and numbers of users (from the meta start and from zero), and three controls: another tenant's
adapter, an adapter of pure noise of the same length, and the meta start. Plans come from the same planner that plans
real rounds, so the noise is what a round would add, its cohort count included.

The meta start is made as in production, of the other tenants' private adapters. Nothing here is a release.
Longer than 400 lines, because the arms share what they are measured on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from personalization.adapters.factors import DEFAULT_DECAY, decayed_weights
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.planning.planner import Declined, PlannerSettings, propose
from personalization.quality.data import TenantUsers, read_tenant, tenants_in, texts
from personalization.quality.intervals import Interval, mean_interval, recovery_interval
from personalization.quality.scores import chrf, expected_calibration_error, prefix_matches
from personalization.quality.targets import machine, rows_of
from personalization.training.public.texts import unseen_users
from personalization.training.run.bench import UserSet, Workbench
from personalization.training.run.measure import generate
from privacy.policy.values import TenantPrivacyPolicy

Say = Callable[[str], None]
DELTA = 1e-5
STEPS = (
    (600, 16),
    (200, 12),
    (0, 8),
)  # users (at least) and steps: the more signal, the more steps are worth it
OPEN_RATE = 0.6  # of the non-private run
OPEN_DAMPING = 0.1
_MANY_USERS = 50_000
FORMAT = "discreet.quality.v1"
ANSWER_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """What is measured.

    Attributes:
        data: folder of recorded interactions.
        tenant: whose adapter is judged.
        holdout_tenants: tenants that never enter the meta start; the first one is the wrong-tenant control.
        base_model: a local base model.
        users: numbers of users trained on.
        epsilons: budgets of one release.
        seeds: noise seeds of each private run.
        heldout_users: users that are measured on.
        meta_users: users of each tenant behind the meta start.
        meta_epsilon: budget of each of those, in each generation.
        meta_generations: how often those tenants release, each time from the mean of all releases before.
        contribution_bound: interactions of one user.
        max_tokens: truncation of one interaction.
        open_steps: lengths of the non-private run; the best of them counts.
        zero_starts: whether to repeat the private runs from zero, which shows what the meta start is worth.
        answers: held-out interactions that are answered in full, for chrF and convention match; 0 leaves them out.
        releases: successive releases over as many windows of time, each from the average of those before; 0 leaves
            them out.
        threads: of torch; None keeps its default.
    """

    data: Path
    tenant: str
    base_model: Path
    holdout_tenants: tuple[str, ...] = ()
    users: tuple[int, ...] = (100, 300)
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    seeds: int = 5
    heldout_users: int = 150
    meta_users: int = 200
    meta_epsilon: float = 4.0
    meta_generations: int = 1
    contribution_bound: int = 4
    max_tokens: int = 96
    open_steps: tuple[int, ...] = (12, 24, 48)
    zero_starts: bool = True
    answers: int = 40
    releases: int = 5
    threads: int | None = None


PROFILES: dict[str, dict[str, Any]] = {
    # One tenant within half an hour on two cores.
    "cpu": {
        "users": (50, 100, 300),
        "epsilons": (1.0, 2.0, 4.0),
        "seeds": 5,
        "heldout_users": 80,
        "meta_users": 100,
        "max_tokens": 72,
        "open_steps": (12, 24),
        "answers": 10,
        "releases": 0,
        "zero_starts": False,
    },
    "gpu": {"users": (50, 100, 300, 1000), "seeds": 5, "heldout_users": 200},
}


def run_quality(options: QualityOptions, say: Say = lambda _: None) -> dict[str, Any]:
    """Run the benchmark and return a JSON-ready document.

    Raises:
        JobInvalidError: the data cannot be read, or a tenant is not in it.
        BaseModelError: the base model cannot be used.
    """
    return _Suite(options, say).run()


def benchmark_policy(users: int, epsilon: float, contribution_bound: int) -> TenantPrivacyPolicy:
    """Return the policy of a tenant that spends ``epsilon`` on one release in a few full passes."""
    return TenantPrivacyPolicy(
        declared_users=users,
        period_epsilon=epsilon,
        lifetime_epsilon=epsilon,
        period_delta=DELTA,
        lifetime_delta=DELTA,
        contribution_bound=contribution_bound,
        minimum_cohort=min(20, users),
        planned_releases=1,
        sample_rate=1.0,  # everyone in every step: no noise from sampling, and few steps are enough
        steps=next(steps for least, steps in STEPS if users >= least),
    )


class _Suite:
    def __init__(self, options: QualityOptions, say: Say) -> None:
        self.options = options
        self.say = say
        self.began = time.monotonic()
        self.shape = read_shape(options.base_model)
        self.settings = PlannerSettings(max_tokens=options.max_tokens)
        # One shape for all runs, as along an adapter line: the rank of the tenants behind the meta start.
        self.line_rank: int | None = None
        shape = self._plan(options.meta_users, options.meta_epsilon)
        if isinstance(shape, Declined):
            shape = self._plan(_MANY_USERS, 8.0)
        assert isinstance(shape, TrainingPlan)  # so many users at ε = 8 are always enough
        self.line_rank = shape.rank
        self.settings = replace(self.settings, max_top_layers=shape.top_layers)
        self.bench = Workbench(
            options.base_model, shape, PerformanceFlags(threads=options.threads, half_head=True)
        )
        self.runs: list[dict[str, Any]] = []
        self.last_private: torch.Tensor | None = None
        self.asked: list[tuple[str, str]] = []
        self._contributors: dict[str, UserSet] = {}

    def run(self) -> dict[str, Any]:
        options = self.options
        target = self._read(options.tenant, max(options.users))
        heldout = self._prefixed(f"{options.tenant}, held out", target.heldout)
        train = self._prefixed(f"{options.tenant}, training", target.train)
        self.asked = texts(target.heldout)[: options.answers]
        public = self.bench.user_set(unseen_users())
        base = self.bench.facts(heldout, None)
        public_base = self.bench.losses(public, None)
        others, meta = self._meta_start()
        self._note("base", heldout, None, base.losses, public_base, public)
        if others:
            self._note("meta", heldout, meta, base.losses, public_base, public)
        wrong = next((name for name in options.holdout_tenants if name != options.tenant), None)
        wrong_vector = (
            self._contributor(wrong, meta) if wrong is not None else next(iter(others.values()), None)
        )
        for users in options.users:
            self._one_size(train.first(users), users, meta, heldout, base.losses, public_base, public)
        last = self.last_private
        if last is not None:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(len(last), generator=generator, dtype=torch.float64)
            noise *= torch.linalg.vector_norm(last) / torch.linalg.vector_norm(noise)
            self._note("noise_only", heldout, noise, base.losses, public_base, public)
        if wrong_vector is not None:
            self._note("wrong_tenant", heldout, wrong_vector, base.losses, public_base, public)
        results = {
            "format": FORMAT,
            "machine": machine(),
            # Names of folders say where somebody's data lie, which is nobody else's business.
            "settings": {
                key: value.name if isinstance(value, Path) else value
                for key, value in asdict(options).items()
            },
            "plan": self.bench.plan.to_document(),
            "trained_parameters": self.bench.geometry.size,
            "meta_tenants": sorted(others),
            "releases": self._successive(meta, public, public_base) if options.releases else [],
            "runs": self.runs,
            "seconds": round(time.monotonic() - self.began, 1),
        }
        return {**results, "rows": rows_of(results)}

    def _one_size(
        self,
        train: UserSet,
        users: int,
        meta: torch.Tensor,
        heldout: UserSet,
        base: list[float],
        public_base: list[float],
        public: UserSet,
    ) -> None:
        """Measure the non-private adapter and every private one of ``users`` users."""
        options = self.options
        best, open_losses = self._open(train, users, meta, heldout)
        self._note("open", heldout, best, base, public_base, public, users=users)
        for epsilon in options.epsilons:
            plan = self._plan(users, epsilon)
            if isinstance(plan, Declined):
                self.say(f"N={users} ε={epsilon:g}: declined ({plan.reason})")
                self.runs.append(
                    {
                        "arm": "declined",
                        "users": users,
                        "epsilon": epsilon,
                        "signal": plan.clarity,
                        "reason": plan.reason,
                    }
                )
                continue
            starts = [("meta", meta)] if bool(meta.any()) else []
            if options.zero_starts or not starts:
                starts.append(("zero", self.bench.zero()))
            for start, vector in starts:
                for seed in range(options.seeds):
                    key = f"quality {options.tenant} {users} {epsilon:g} {start} {seed}".encode()
                    trained = self.bench.train(train, plan, start=vector, noise_key=_key(key))
                    self.last_private = trained
                    self._note(
                        "private", heldout, trained, base, public_base, public,
                        users=users, epsilon=epsilon, start=start, seed=seed, open_losses=open_losses,
                        noise_multiplier=plan.noise_multiplier,
                    )  # fmt: skip

    def _open(
        self, train: UserSet, users: int, start: torch.Tensor, heldout: UserSet
    ) -> tuple[torch.Tensor, list[float]]:
        """Return the best non-private adapter of these users (of several lengths and both starts) and its losses."""
        plan = self._plan(_MANY_USERS, 64.0)
        assert isinstance(plan, TrainingPlan)  # as above
        candidates = []
        for first in (start, self.bench.zero()) if bool(start.any()) else (start,):
            vector, done = first, 0
            for steps in self.options.open_steps:
                longer = replace(
                    plan,
                    steps=steps - done,
                    noise_multiplier=0.0,
                    learning_rate=OPEN_RATE,
                    damping=OPEN_DAMPING,
                    expected_cohort=max(1.0, plan.sample_rate * users),
                    shrinkage=1.0,
                )
                vector = self.bench.train(
                    train, longer, start=vector, noise_key=_key(b"open"), spare_public_text=False
                )
                done = steps
                losses = self.bench.losses(heldout, vector)
                candidates.append((sum(losses) / len(losses), vector, losses))
        _, vector, losses = min(candidates, key=lambda one: one[0])
        return vector, losses

    def _meta_start(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the other tenants' newest private adapters and their mean, the meta start."""
        left_out = {self.options.tenant, *self.options.holdout_tenants}
        names = [name for name in tenants_in(self.options.data) if name not in left_out]
        meta, newest = self.bench.zero(), dict[str, torch.Tensor]()
        for generation in range(self.options.meta_generations if names else 0):
            newest = {name: self._contributor(name, meta, generation) for name in names}
            meta = torch.stack(list(newest.values())).mean(0)
        return newest, meta

    def _contributor(self, tenant: str, start: torch.Tensor, generation: int = 0) -> torch.Tensor:
        """Return another tenant's private adapter, trained as that tenant would have."""
        if tenant not in self._contributors:
            users = self._read(tenant, self.options.meta_users, heldout_users=1).train
            self.say(f"{tenant}: private adapter of {len(users)} users for the meta start and the controls")
            self._contributors[tenant] = self._prefixed(tenant, users)
        chosen = self._contributors[tenant]
        count = len(chosen.members)
        plan = self._plan(count, self.options.meta_epsilon)
        if isinstance(plan, Declined):
            plan = self._plan(10 * count, self.options.meta_epsilon)
        assert isinstance(plan, TrainingPlan)
        key = _key(f"meta {tenant} {generation}".encode())
        return self.bench.train(chosen, plan, start=start, noise_key=key)

    def _note(
        self,
        arm: str,
        heldout: UserSet,
        vector: torch.Tensor | None,
        base: list[float],
        public_base: list[float],
        public: UserSet,
        *,
        open_losses: list[float] | None = None,
        **about: object,
    ) -> list[float]:
        """Measure one adapter, add it to the results and return its users' losses."""
        facts = self.bench.facts(heldout, vector)
        nll = mean_interval(facts.losses)
        public_losses = self.bench.losses(public, vector) if vector is not None else public_base
        entry: dict[str, Any] = {
            "arm": arm,
            **about,
            "nll": nll.to_document(),
            "gain": 1.0 - nll.value / (sum(base) / len(base)),
            "ece": expected_calibration_error(facts.confidences, facts.correct),
            "public_text_change": sum(public_losses) / sum(public_base) - 1.0,
        }
        recovery: Interval | None = None
        if about.get("seed", 0) == 0 and self.asked:
            entry |= self._answered(vector)
        if open_losses is not None:
            recovery = recovery_interval(base, facts.losses, open_losses)
            entry["recovery"] = recovery.to_document()
        self.runs.append(entry)
        told = ", ".join(f"{key} {value}" for key, value in about.items())
        kept = "" if recovery is None else f", {100 * recovery.value:.0f} % of the non-private gain"
        self.say(f"{arm} ({told}): {nll.value:.3f} [{nll.low:.3f}, {nll.high:.3f}]{kept}")
        return facts.losses

    def _answered(self, vector: torch.Tensor | None) -> dict[str, float]:
        """Return convention match and chrF of greedy answers to held-out prompts."""
        prompts = [prompt for prompt, _ in self.asked]
        with tempfile.TemporaryDirectory(prefix="discreet-quality-") as folder:
            adapter = None if vector is None else self.bench.export(vector, Path(folder) / "adapter")
            answers = generate(
                self.options.base_model,
                adapter,
                prompts,
                max_new_tokens=ANSWER_TOKENS,
                flags=self.bench.flags,
            )
        pairs = [(answer, wanted) for answer, (_, wanted) in zip(answers, self.asked, strict=True)]
        return {
            "convention_match": sum(prefix_matches(*pair) for pair in pairs) / len(pairs),
            "chrf": sum(chrf(*pair) for pair in pairs) / len(pairs),
        }

    def _successive(
        self, meta: torch.Tensor, public: UserSet, public_base: list[float]
    ) -> list[dict[str, Any]]:
        """Release once per window of time, each from the average of the releases before; measure what is forgotten."""
        options, count = self.options, self.options.releases
        users = max(options.users)
        plan = self._plan(users, max(options.epsilons))
        if isinstance(plan, Declined):
            return []
        released: list[torch.Tensor] = []
        own: list[tuple[UserSet, float]] = []
        found = []
        for number in range(count):
            window = (number / count, (number + 1) / count)
            split = self._read(options.tenant, users, heldout_users=options.heldout_users // 2, window=window)
            judged = self._prefixed(f"window {number}, held out", split.heldout)
            start = _average(released) if released else meta
            chosen = self._prefixed(f"window {number}, training", split.train)
            released.append(
                self.bench.train(chosen, plan, start=start, noise_key=_key(f"release {number}".encode()))
            )
            served = _average(released)
            own.append((judged, fmean(self.bench.losses(judged, released[-1]))))
            earlier = [fmean(self.bench.losses(users_of, served)) / loss - 1.0 for users_of, loss in own]
            public_change = sum(self.bench.losses(public, served)) / sum(public_base) - 1.0
            found.append(
                {"release": number, "earlier_windows_change": earlier, "public_text_change": public_change}
            )
            self.say(f"release {number}: public text {100 * public_change:+.1f} %")
        return found

    def _read(
        self,
        tenant: str,
        train_users: int,
        *,
        heldout_users: int | None = None,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> TenantUsers:
        return read_tenant(
            self.options.data,
            tenant,
            heldout_users=self.options.heldout_users if heldout_users is None else heldout_users,
            train_users=train_users,
            contribution_bound=self.options.contribution_bound,
            window=window,
        )

    def _prefixed(self, what: str, users: Sequence[Any]) -> UserSet:
        began = time.monotonic()
        found = self.bench.user_set(users)
        self.say(f"{what}: prefixes of {len(users)} users in {time.monotonic() - began:.0f} s")
        return found

    def _plan(self, users: int, epsilon: float) -> TrainingPlan | Declined:
        policy = benchmark_policy(users, epsilon, self.options.contribution_bound)
        return propose(policy, self.shape, line_rank=self.line_rank, settings=self.settings)


def _average(released: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the exponential average of releases, oldest first, as ``personalization.adapters.factors`` forms it."""
    weights = torch.tensor(decayed_weights(len(released), DEFAULT_DECAY), dtype=released[0].dtype)
    return (torch.stack(list(released)) * weights[:, None]).sum(0)


def _key(name: bytes) -> bytes:
    """Return a fixed key, so that a benchmark repeats; a round draws its key from the operating system."""
    return name[:32].ljust(32, b".")
