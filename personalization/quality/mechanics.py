"""What the mechanics of meta-learning are worth, one row each, on recorded interactions: every one with its switch off.

- *few-shot start*: a private release of few users from zero, from first-order MAML on public tasks, from the mean of
  other tenants' private adapters;
- *task sampling*: MAML with the same number of tasks seen, drawn uniformly, by loss, by diversity, or easiest first;
- *domain swap*: each domain's loss under its own adapter and under another's, and whether swapping back gives the very
  same losses;
- *continual*: one release for each window of time, served as the newest alone, as an exponential average, or as a
  mean of all (``remember``), the private part alone and with style cards; what is lost on earlier windows;
- *warm start*: an adapter from a few public examples that an operator wrote, before any user;
- *an ability kept*: the same release with and without its correction for public text, and what the gate says of both.

Losses are of users that nothing was trained on. Nothing here is a release.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from personalization.adapters.factors import remembered_share
from personalization.gates.forgetting import DEFAULT_FORGETTING_LIMIT, public_text_check
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.planning.planner import Declined, PlannerSettings, propose
from personalization.quality.cards import CardReleases
from personalization.quality.continual import Window, facts_of, private_alone, with_cards
from personalization.quality.data import SUFFIX, read_tenant, tenants_in
from personalization.quality.intervals import difference_interval
from personalization.quality.mechanics_rows import rows_of, told
from personalization.quality.options import MECHANICS, MechanicsOptions, benchmark_policy
from personalization.quality.targets import machine
from personalization.training.errors import JobInvalidError
from personalization.training.jobs.recipes import MamlRecipe, StyleGuide, TaskSampling
from personalization.training.public.styles import style_tasks
from personalization.training.public.texts import unseen_users
from personalization.training.run.bench import Workbench
from personalization.training.starts.maml import maml_start
from personalization.training.starts.synthetic import WARM_START_STEPS, synthetic_users, warm_start
from privacy.accounting.calibration import style_vote_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.training.run.bench import UserSet
    from privacy.mechanisms.partition_selection import PartitionSelection

FORMAT = "discreet.meta.v2"
_MANY_USERS = 50_000
WRITTEN = 5  # examples of an operator's guide


def run_mechanics(
    options: MechanicsOptions,
    say: Callable[[str], None] = lambda _: None,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure and return a JSON-ready document with one row for each figure of each mechanic.

    Args:
        options: what is measured.
        say: told of every switch that is measured, and of what is trained meanwhile.
        keep: given the document so far after each mechanic, since a whole run takes hours.

    Raises:
        JobInvalidError: the data cannot be read, a tenant is not in it, or a mechanic is unknown.
        BaseModelError: the base model cannot be used.
    """
    if unknown := set(options.only) - set(MECHANICS):
        raise JobInvalidError(f"there is no mechanic {min(unknown)!r}; there are {', '.join(MECHANICS)}")
    names = tenants_in(options.data)
    if not names:
        raise JobInvalidError(
            f"there is no file <tenant>{SUFFIX} in the folder; name one that holds recordings"
        )
    if strange := set(options.tenants) - set(names):
        raise JobInvalidError(f"the folder has no tenant {min(strange)!r}; there are {', '.join(names)}")
    return _Mechanics(options, say).run(keep)


class _Mechanics:
    def __init__(self, options: MechanicsOptions, say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self.began = time.monotonic()
        self.shape = read_shape(options.base_model)
        self.settings = PlannerSettings(max_tokens=options.max_tokens)
        self.line_rank: int | None = None
        shape = self._plan(_MANY_USERS, 8.0)
        self.line_rank = shape.rank
        self.settings = replace(self.settings, max_top_layers=shape.top_layers)
        self.bench = Workbench(
            options.base_model, shape, PerformanceFlags(threads=options.threads, half_products=True)
        )
        names = tenants_in(options.data)
        self.targets = list(options.tenants or names[:2])
        self.others = [name for name in names if name not in self.targets]
        self.measured: list[dict[str, Any]] = []
        self._heldout: dict[str, UserSet] = {}
        self._trained: dict[tuple[str, int], UserSet] = {}
        self._tasks: list[UserSet] = []
        self._public: tuple[UserSet, list[float]] | None = None

    def run(self, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        for mechanic in self.options.only:
            self.say(f"{mechanic} …")
            getattr(self, f"_{mechanic}")()
            keep(self._document())
        return self._document()

    def _document(self) -> dict[str, Any]:
        options = asdict(self.options)
        return {
            "format": FORMAT,
            "machine": machine(),
            "settings": {
                key: value.name if isinstance(value, Path) else value for key, value in options.items()
            },
            "tenants": self.targets,
            "measured": self.measured,
            "rows": rows_of(self.measured),
            "seconds": round(time.monotonic() - self.began, 1),
        }

    def _few_shot(self) -> None:
        """Judge the first release of each new tenant by its start, and each start by itself."""
        starts = {
            "zero": self.bench.zero(),
            "maml": self._maml(TaskSampling.UNIFORM, None),
        }
        if len(self.others) > 1:
            starts["average"] = torch.stack(
                [self._private(name, self.options.users, self.bench.zero(), 0) for name in self.others]
            ).mean(0)
        else:
            self.say("the folder has too few other tenants for an average of their adapters")
        for tenant in self.targets:
            heldout = self._judged(tenant)
            base = self.bench.losses(heldout, None)
            for name, start in starts.items():
                untouched = self.bench.losses(heldout, start)
                self._row("few_shot", f"start {name}, no user yet", tenant, base, untouched)
                released = [
                    self.bench.losses(heldout, self._private(tenant, self.options.few_users, start, seed))
                    for seed in range(self.options.seeds)
                ]
                by_user = [fmean(of_user) for of_user in zip(*released, strict=True)]
                what = f"start {name}, first release of {self.options.few_users} users"
                self._row("few_shot", what, tenant, base, by_user)

    def _sampling(self) -> None:
        """Judge MAML starts by how their public tasks were drawn, as many tasks seen by each."""
        outer = self.options.outer_steps
        for sampling in TaskSampling:
            start = self._maml(sampling, self.options.tasks_per_step)
            for tenant in self.targets:
                heldout = self._judged(tenant)
                base = self.bench.losses(heldout, None)
                what = f"{sampling.value}, {outer} steps of {self.options.tasks_per_step} tasks, no user yet"
                self._row("sampling", what, tenant, base, self.bench.losses(heldout, start))
                adapted = self._private(tenant, self.options.few_users, start, 0)
                what = f"{sampling.value}, first release of {self.options.few_users} users"
                self._row("sampling", what, tenant, base, self.bench.losses(heldout, adapted))

    def _swap(self) -> None:
        """Judge each domain under its own adapter and under the next one's, and say what a change costs."""
        if len(self.targets) < 2:
            self.say("a swap needs two domains; name two tenants")
            return
        vectors = {
            name: self._private(name, self.options.users, self.bench.zero(), 0) for name in self.targets
        }
        for number, tenant in enumerate(self.targets):
            heldout, other = self._judged(tenant), self.targets[(number + 1) % len(self.targets)]
            base = self.bench.losses(heldout, None)
            own = self.bench.losses(heldout, vectors[tenant])
            foreign = self.bench.losses(heldout, vectors[other])
            again = self.bench.losses(heldout, vectors[tenant])
            self._row("swap", "own adapter", tenant, base, own)
            self._row("swap", f"adapter of {other}", tenant, base, foreign)
            self._row("swap", "own adapter, swapped back", tenant, base, again, exact=own == again)

    def _continual(self) -> None:
        """Release once per window, the private part alone and with cards; say what is lost on earlier windows."""
        options, tenant = self.options, self.targets[0]
        parts = [
            (number / options.windows, (number + 1) / options.windows) for number in range(options.windows)
        ]
        splits = [self._read(tenant, options.users, part) for part in parts]
        windows = [Window(train=split.train, heldout=split.heldout) for split in splits]
        base = [fmean(self.bench.losses(self.bench.user_set(one.heldout), None)) for one in windows]
        ways: tuple[tuple[str, Callable[[int], float], bool], ...] = (
            ("newest alone", lambda _: 0.0, True),
            ("average, a half each", lambda before: 0.5 if before else 0.0, True),
            ("remember, from what is served", remembered_share, True),
            ("remember", remembered_share, False),
        )
        for name, share_of, from_served in ways:
            self.say(f"{len(windows)} releases of {tenant}, {name} …")
            plan = self._plan(options.users, options.epsilon)
            losses = private_alone(
                self.bench, windows, plan, share_of, _keys(f"continual {name}"), from_served=from_served
            )
            self._note("continual", name, tenant, **facts_of(list(losses), base))
        planned = self._with_vote(options.users)
        if planned is None:
            self.say(f"no vote on style is held of {options.users} users; releases with cards are left out")
            return
        with tempfile.TemporaryDirectory(prefix="discreet-meta-") as folder:
            releases = CardReleases(
                decoder=self.bench.decoder, encoder=self.bench.encoder, base_model=options.base_model,
                flags=self.bench.flags, folder=Path(folder),
            )  # fmt: skip
            for name, remember in (("newest alone, with cards", False), ("remember, with cards", True)):
                self.say(f"{len(windows)} releases of {tenant}, {name} …")
                keys = _keys(f"continual cards {remember}")
                losses = with_cards(releases, windows, *planned, keys, remember=remember)
                self._note("continual", name, tenant, **facts_of(list(losses), base))

    def _with_vote(self, users: int) -> tuple[TrainingPlan, PartitionSelection] | None:
        """Return the plan and the vote of a release with a card; None where the planner has none."""
        policy = benchmark_policy(users, self.options.epsilon, self.options.contribution_bound, styles=True)
        plan = propose(policy, self.shape, line_rank=self.line_rank, settings=self.settings)
        vote = style_vote_of(policy)
        return None if vote is None or isinstance(plan, Declined) else (plan, vote)

    def _warm_start(self) -> None:
        """Judge an adapter from a few examples that an operator would write, before any user is there."""
        for tenant in self.targets:
            heldout = self._judged(tenant)
            base = self.bench.losses(heldout, None)
            guide = self._guide(tenant)
            users = synthetic_users(self.options.base_model, guide)
            rate = self.bench.plan.learning_rate * self.bench.plan.steps / WARM_START_STEPS
            vector = warm_start(self.bench, users, learning_rate=rate)
            what = f"guide of {WRITTEN} examples, {len(users)} synthetic users"
            self._row("warm_start", what, tenant, base, self.bench.losses(heldout, vector))

    def _ability(self) -> None:
        """Judge one release with and without its correction for public text, and let the gate decide."""
        public, public_base = self._public_text()
        tenant = self.targets[0]
        heldout = self._judged(tenant)
        base = self.bench.losses(heldout, None)
        plan = self._plan(self.options.users, self.options.epsilon)
        chosen = self._users(tenant, self.options.users)
        for name, spare in (("without correction", False), ("with correction", True)):
            vector = self.bench.train(
                chosen, plan, noise_key=_key(b"ability"), start=self.bench.zero(), spare_public_text=spare
            )
            check = public_text_check(
                public_base, self.bench.losses(public, vector), limit=DEFAULT_FORGETTING_LIMIT
            )
            self._row(
                "ability", name, tenant, base, self.bench.losses(heldout, vector),
                public_text_change=None if check.value is None else round(check.value, 4),
                gate="passes" if check.passed else "refuses",
            )  # fmt: skip

    def _guide(self, tenant: str) -> StyleGuide:
        """Return what an operator would write: a few of the tenant's answers, of users that nobody else counts."""
        split = read_tenant(
            self.options.data,
            tenant,
            heldout_users=self.options.heldout_users,
            train_users=1,
            contribution_bound=1,
            choosing_users=WRITTEN,
        )
        pairs = [(one.prompt, one.completion) for user in split.choosing for one in user.examples[:1]]
        prompts = [one.prompt for user in unseen_users() for one in user.examples]
        return StyleGuide(
            instruction="Answer in the style of these examples.",
            examples=tuple(pairs[:WRITTEN]),
            prompts=tuple(prompts[:WRITTEN]),
        )

    def _maml(self, sampling: TaskSampling, each: int | None) -> torch.Tensor:
        if not self._tasks:
            self._tasks = [self.bench.user_set(task) for task in style_tasks()]
        recipe = MamlRecipe(outer_steps=self.options.outer_steps, sampling=sampling, tasks_per_step=each)
        self.say(f"a MAML start, tasks {sampling.value}: {recipe.outer_steps} outer steps …")
        return maml_start(self.bench, self._tasks, recipe)

    def _private(self, tenant: str, users: int, start: torch.Tensor, seed: int) -> torch.Tensor:
        """Return a tenant's private release of so many users."""
        key = _key(f"{tenant} {users} {seed}".encode())
        self.say(f"a release of {users} users of {tenant} …")
        plan = self._plan(users, self.options.epsilon)
        return self.bench.train(self._users(tenant, users), plan, start=start, noise_key=key)

    def _users(self, tenant: str, users: int) -> UserSet:
        if (tenant, users) not in self._trained:
            self._trained[tenant, users] = self.bench.user_set(self._read(tenant, users).train)
        return self._trained[tenant, users]

    def _judged(self, tenant: str) -> UserSet:
        if tenant not in self._heldout:
            self._heldout[tenant] = self.bench.user_set(self._read(tenant, 1).heldout)
        return self._heldout[tenant]

    def _public_text(self) -> tuple[UserSet, list[float]]:
        if self._public is None:
            users = self.bench.user_set(unseen_users())
            self._public = users, self.bench.losses(users, None)
        return self._public

    def _read(self, tenant: str, users: int, window: tuple[float, float] = (0.0, 1.0)) -> Any:
        whole = window == (0.0, 1.0)
        return read_tenant(
            self.options.data,
            tenant,
            heldout_users=self.options.heldout_users if whole else max(1, self.options.heldout_users // 2),
            train_users=users,
            contribution_bound=self.options.contribution_bound,
            window=window,
        )

    def _plan(self, users: int, epsilon: float) -> TrainingPlan:
        """Return what would be trained; where a round would decline, what ten times as many users would train.

        A mechanic that only matters for small tenants is to be seen at all; the row says how many users there were.
        """
        for factor in (1, 10, 100):
            policy = benchmark_policy(factor * users, epsilon, self.options.contribution_bound)
            plan = propose(policy, self.shape, line_rank=self.line_rank, settings=self.settings)
            if not isinstance(plan, Declined):
                return replace(plan, expected_cohort=max(1.0, plan.sample_rate * users))
        raise JobInvalidError(f"{users} users are too few for any release at epsilon {epsilon:g}")

    def _row(
        self,
        mechanic: str,
        what: str,
        tenant: str,
        base: Sequence[float],
        after: Sequence[float],
        **more: object,
    ) -> None:
        gain = difference_interval(base, after)
        self._note(
            mechanic,
            what,
            tenant,
            base=round(fmean(base), 4),
            after=round(fmean(after), 4),
            gain=gain.to_document(),
            relative=round(gain.value / fmean(base), 4),
            users=len(base),
            **more,
        )

    def _note(self, mechanic: str, what: str, tenant: str, **found: object) -> None:
        self.measured.append({"mechanic": mechanic, "switch": what, "tenant": tenant, **found})
        self.say(told(self.measured[-1]))


def _key(name: bytes) -> bytes:
    """Return a fixed key of a name, so that a benchmark repeats; a round draws its key from the operating system."""
    return name.ljust(32, b".") if len(name) <= 32 else hashlib.sha256(name).digest()


def _keys(name: str) -> Callable[[int], bytes]:
    return lambda number: _key(f"{name} {number}".encode())
