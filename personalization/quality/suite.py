"""The quality benchmark: what a private adapter is worth on users that training never saw.

For one tenant: the base model, the best plain LoRA without privacy (``bound``), the best non-private adapter of the
private core's own small family, the meta start alone, releases with a style card and without at several ε and numbers
of users, what the card is worth alone (its public part as users scaled it, as a prompt, as a forced opening), and two
controls: another tenant's adapter and an adapter of pure noise of the same length. Plans come from the same planner
that plans real rounds, so the noise is what a round would add, its cohort count and its vote on style included.

The meta start is made as in production, of the other tenants' private adapters. Nothing here is a release.

Longer than 400 lines, because every arm is compared with the same base, users and bounds, which one run holds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from personalization.adapters.factors import DEFAULT_DECAY, decayed_weights
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.planning.planner import Declined, PlannerSettings, propose
from personalization.quality.bound import Bounds
from personalization.quality.cards import (
    CardRelease,
    CardReleases,
    card_prompts,
    forced_closings,
    forced_openings,
)
from personalization.quality.data import TenantUsers, read_tenant, tenants_in
from personalization.quality.intervals import recovery_interval
from personalization.quality.judge import Judge, Verdict
from personalization.quality.options import QualityOptions, benchmark_policy
from personalization.quality.targets import WAYS, machine, rows_of
from personalization.training.public.texts import unseen_users
from personalization.training.run.bench import UserSet, Workbench
from privacy.accounting.calibration import style_vote_of

Say = Callable[[str], None]
Keep = Callable[[dict[str, Any]], None]
OPEN_RATE = 0.6  # of the small family's non-private run
OPEN_DAMPING = 0.1
_MANY_USERS = 50_000
FORMAT = "discreet.quality.v2"


def run_quality(
    options: QualityOptions, say: Say = lambda _: None, keep: Keep = lambda _: None
) -> dict[str, Any]:
    """Run the benchmark and return a JSON-ready document.

    Args:
        options: what is measured.
        say: told what was found, line by line.
        keep: given the document as far as it has come after each pair of users and ε, so that hours are not lost.

    Raises:
        JobInvalidError: the data cannot be read, or a tenant is not in it.
        BaseModelError: the base model cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="discreet-quality-") as folder:
        return _Suite(options, say, keep, Path(folder)).run()


class _Suite:
    def __init__(self, options: QualityOptions, say: Say, keep: Keep, folder: Path) -> None:
        self.options = options
        self.say = say
        self.keep = keep
        self.folder = folder
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
            options.base_model, shape, PerformanceFlags(threads=options.threads, half_products=True)
        )
        self.cards = CardReleases(
            decoder=self.bench.decoder,
            encoder=self.bench.encoder,
            base_model=options.base_model,
            flags=self.bench.flags,
            folder=folder / "cards",
        )
        self.runs: list[dict[str, Any]] = []
        self.last_private: torch.Tensor | None = None
        self.bounds_of: dict[int, Verdict] = {}
        self._contributors: dict[str, UserSet] = {}

    def run(self) -> dict[str, Any]:
        options = self.options
        target = self._read(options.tenant, options.most_users, choosing_users=options.choosing_users)
        self.target = target
        self.say(f"{options.tenant}: the base on {len(target.heldout)} held-out users")
        self.judge = Judge(
            self.bench.decoder,
            self.bench.encoder,
            target.heldout,
            answers=options.answers,
            answer_tokens=options.answer_tokens,
            examples=options.examples,
            max_tokens=options.max_tokens,
            most_abilities=options.abilities,
        )
        self._noted("base", self.judge.base)
        self.bounds = Bounds(
            decoder=self.bench.decoder,
            encoder=self.bench.encoder,
            base_model=options.base_model,
            choosing=target.choosing,
            folder=options.cache or self.folder,
            rates=options.plain_rates,
            passes=options.plain_passes,
            max_tokens=options.max_tokens,
            say=self.say,
        )
        others, meta = self._meta_start()
        if others:
            self._noted("meta", self._judged(meta))
        for users, epsilon in options.chosen:
            self._bound(users, meta)
            if "card" in options.ways:
                self._with_card(users, epsilon)
            self._private(users, epsilon, meta)
            self.keep(self._results(others, []))
        self._controls(others, meta)
        public = self.bench.user_set(unseen_users())
        return self._results(others, self._successive(meta, public) if options.releases else [])

    def _results(self, others: dict[str, torch.Tensor], releases: Sequence[dict[str, Any]]) -> dict[str, Any]:
        options = self.options
        results = {
            "format": FORMAT,
            "machine": machine(),
            # Names of folders say where somebody's data lie, which is nobody else's business.
            "settings": {
                key: Path(value).name if isinstance(value, Path) else value
                for key, value in asdict(options).items()
                if key != "cache"
            },
            "plan": self.bench.plan.to_document(),
            "trained_parameters": self.bench.geometry.size,
            "meta_tenants": sorted(others),
            "conventions": {
                "openings": self.judge.ends.opening.found,
                "closings": self.judge.ends.closing.found,
            },
            "users": self.judge.of_users() if self.judge.asked else {},
            "releases": list(releases),
            "runs": list(self.runs),
            "seconds": round(time.monotonic() - self.began, 1),
        }
        return {**results, "rows": rows_of(results)}

    # Prefixes are for adapters of the private family alone; releases with a card read texts, as a round does.
    @cached_property
    def train(self) -> UserSet:
        """The users that are trained on."""
        options, users = self.options, self.target.train
        if options.compared and not options.small_family:
            users = users[: max(count for count, _ in options.compared)]
        return self._prefixed(f"{options.tenant}, training", users)

    @cached_property
    def choosing(self) -> UserSet:
        """The users that choose among the small family's lengths."""
        return self._prefixed(f"{self.options.tenant}, choosing", self.target.choosing)

    def _bound(self, users: int, meta: torch.Tensor) -> Verdict:
        """Return the verdict on the plain LoRA of so many users, and note it and the small family's once."""
        if users not in self.bounds_of:
            bound = self.bounds.best(self.target.train[:users])
            self.bounds_of[users] = self.judge.judge(bound.adapter)
            self._noted(
                "plain", self.bounds_of[users], users=users,
                rate=bound.recipe.rate, epochs=bound.recipe.epochs, tried=list(bound.tried),
            )  # fmt: skip
            if self.options.small_family:
                small = self._judged(self._open(self.train.first(users), users, meta), fully=False)
                self._noted("small_family", small, users=users)
        return self.bounds_of[users]

    def _with_card(self, users: int, epsilon: float) -> None:
        """Judge every release of ``users`` users with a card at one ε, and of the first what its parts are worth."""
        policy = benchmark_policy(users, epsilon, self.options.contribution_bound, styles=True)
        vote, plan = style_vote_of(policy), self._plan(users, epsilon, styles=True)
        if vote is None or isinstance(plan, Declined):
            reason = str(plan.reason) if isinstance(plan, Declined) else "no vote fits the budget"
            self._declined(reason, users=users, epsilon=epsilon, start="card")
            return
        for seed in range(self.options.seeds):
            key = _key(f"card {self.options.tenant} {users} {epsilon:g} {seed}".encode())
            made = self.cards.release(self.target.train[:users], plan, vote, key=key)
            about = {"users": users, "epsilon": epsilon, "seed": seed}
            self._noted(
                "private", self.judge.judge(made.adapter, fully=seed == 0), **about, start="card",
                noise_multiplier=plan.noise_multiplier, train_seconds=round(made.seconds, 1), card=made.to_document(),
            )  # fmt: skip
            if seed == 0:
                self._parts(made, about)

    def _parts(self, made: CardRelease, about: dict[str, Any]) -> None:
        """Judge what a card is worth alone: its public part as users scaled it, its prompt, its openings forced."""
        own = frozenset(slot.key for slot in self.bench.geometry.slots)
        if made.public_part is not None:
            self._noted("card_only", self.judge.judge(made.adapter, fully=False, without=own), **about)
        if not self.judge.asked:
            return
        prompts = [prompt for prompt, _ in self.judge.asked]
        prompted = self.judge.answered(card_prompts(made.card, prompts))
        begun = self.judge.answered(openings=forced_openings(made.card, prompts))
        for arm, answers in (
            ("prompt_card", prompted),
            ("forced_prefix", forced_closings(made.card, prompts, begun)),
        ):
            self.runs.append({"arm": arm, **about, **self.judge.of_answers(answers)})
            self.say(_told_answers(arm, self.runs[-1]))

    def _private(self, users: int, epsilon: float, meta: torch.Tensor) -> None:
        """Judge private adapters of ``users`` users at one ε that have no card."""
        options = self.options
        first = next(way for way in WAYS if way in options.ways)
        if first == "card" and options.compared and (users, epsilon) not in options.compared:
            return
        plan = self._plan(users, epsilon)
        if isinstance(plan, Declined):
            self._declined(str(plan.reason), users=users, epsilon=epsilon, signal=plan.clarity)
            return
        starts = [("meta", meta)] if bool(meta.any()) and "meta" in options.ways else []
        if "zero" in options.ways:
            starts.append(("zero", self.bench.zero()))
        for start, vector in starts:
            for seed in range(options.seeds if start == first else 1):
                key = f"{start} {options.tenant} {users} {epsilon:g} {seed}".encode()
                began = time.monotonic()
                trained = self.bench.train(self.train.first(users), plan, start=vector, noise_key=_key(key))
                seconds = time.monotonic() - began
                self.last_private = trained
                self._noted(
                    "private", self._judged(trained, fully=seed == 0),
                    users=users, epsilon=epsilon, start=start, seed=seed,
                    noise_multiplier=plan.noise_multiplier, train_seconds=round(seconds, 1),
                )  # fmt: skip

    def _declined(self, reason: str, **about: object) -> None:
        self.say(f"declined ({reason}): " + ", ".join(f"{key} {value}" for key, value in about.items()))
        self.runs.append({"arm": "declined", **about, "reason": reason})

    def _controls(self, others: dict[str, torch.Tensor], meta: torch.Tensor) -> None:
        options = self.options
        last = self.last_private
        if last is not None:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(len(last), generator=generator, dtype=torch.float64)
            noise *= torch.linalg.vector_norm(last) / torch.linalg.vector_norm(noise)
            self._noted("noise_only", self._judged(noise, fully=False))
        wrong = next((name for name in options.holdout_tenants if name != options.tenant), None)
        vector = self._contributor(wrong, meta) if wrong is not None else next(iter(others.values()), None)
        if vector is not None:
            self._noted("wrong_tenant", self._judged(vector, fully=False))

    def _open(self, train: UserSet, users: int, start: torch.Tensor) -> torch.Tensor:
        """Return the small family's best non-private adapter of these users, of several lengths and both starts."""
        plan = self._plan(_MANY_USERS, 64.0)
        assert isinstance(plan, TrainingPlan)  # as above
        candidates = []
        for first in (start, self.bench.zero()) if bool(start.any()) else (start,):
            vector, done = first, 0
            for steps in self.options.open_steps:
                longer = replace(
                    plan.with_mechanism(steps=steps - done, noise_multiplier=0.0),
                    learning_rate=OPEN_RATE,
                    damping=OPEN_DAMPING,
                    expected_cohort=max(1.0, plan.sample_rate * users),
                    shrinkage=1.0,
                )
                vector = self.bench.train(
                    train, longer, start=vector, noise_key=_key(b"open"), spare_public_text=False
                )
                done = steps
                candidates.append((fmean(self.bench.losses(self.choosing, vector)), vector))
        return min(candidates, key=lambda one: one[0])[1]

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

    def _judged(self, vector: torch.Tensor, *, fully: bool = True) -> Verdict:
        """Judge an adapter of the workbench's shape, as the folder that a server would load."""
        return self.judge.judge(self.bench.export(vector, self.folder / "adapter"), fully=fully)

    def _noted(self, arm: str, verdict: Verdict, **about: object) -> None:
        """Add an adapter to the results, with its share of the plain LoRA's gain where there is one."""
        entry: dict[str, Any] = {"arm": arm, **about, **verdict.document}
        users = about.get("users")
        told = ", ".join(f"{key} {value}" for key, value in about.items() if key not in {"tried", "card"})
        kept = ""
        if arm in {"private", "small_family"} and isinstance(users, int) and users in self.bounds_of:
            recovery = recovery_interval(
                self.judge.base.likelihood.losses,
                verdict.likelihood.losses,
                self.bounds_of[users].likelihood.losses,
            )
            entry["recovery"] = recovery.to_document()
            kept = f", {100 * recovery.value:.0f} % of the plain LoRA's gain"
        self.runs.append(entry)
        line = f"{arm} ({told}): {entry['nll']['value']:.3f}{kept}"
        if "agreement" in entry:
            line = _told_answers(line, entry)
        self.say(f"{line}, public text {100 * entry['public_text_change']:+.1f} %")

    def _successive(self, meta: torch.Tensor, public: UserSet) -> list[dict[str, Any]]:
        """Release once per window of time, each from the average of the releases before; measure what is forgotten."""
        options, count, users = self.options, self.options.releases, self.options.most_users
        plan = self._plan(users, max(epsilon for _, epsilon in options.chosen))
        if isinstance(plan, Declined):
            return []
        public_base = self.bench.losses(public, None)
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
        choosing_users: int = 0,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> TenantUsers:
        return read_tenant(
            self.options.data,
            tenant,
            heldout_users=self.options.heldout_users if heldout_users is None else heldout_users,
            train_users=train_users,
            contribution_bound=self.options.contribution_bound,
            choosing_users=choosing_users,
            window=window,
        )

    def _prefixed(self, what: str, users: Sequence[Any]) -> UserSet:
        began = time.monotonic()
        found = self.bench.user_set(users)
        self.say(f"{what}: prefixes of {len(users)} users in {time.monotonic() - began:.0f} s")
        return found

    def _plan(self, users: int, epsilon: float, *, styles: bool = False) -> TrainingPlan | Declined:
        policy = benchmark_policy(users, epsilon, self.options.contribution_bound, styles=styles)
        return propose(policy, self.shape, line_rank=self.line_rank, settings=self.settings)


def _told_answers(line: str, entry: dict[str, Any]) -> str:
    found = entry["agreement"]
    shares = (f", {name} {100 * found[name]['value']:.0f} %" for name in ("match", "in_set", "closing"))
    return line + "".join(shares) + f", degenerate {100 * entry['degenerate']['any']:.0f} %"


def _average(released: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the exponential average of releases, oldest first, as ``personalization.adapters.factors`` forms it."""
    weights = torch.tensor(decayed_weights(len(released), DEFAULT_DECAY), dtype=released[0].dtype)
    return (torch.stack(list(released)) * weights[:, None]).sum(0)


def _key(name: bytes) -> bytes:
    """Return a fixed key, so that a benchmark repeats; a round draws its key from the operating system."""
    return name[:32].ljust(32, b".")
