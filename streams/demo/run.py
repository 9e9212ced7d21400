"""The whole path on one machine: from published interactions to adapters that answer, in a few minutes.

Real processes do the work: the embedded broker, ``discreet worker``, ``discreet trainer`` and ``discreet
serve``. This module only plays the product (it publishes), the operator (it registers tenants and opens
rounds) and the reader (it measures).

Longer than 400 lines, because the stages share the processes and what was found so far.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.registry import queries as registry
from personalization.rounds.queries import open_round
from personalization.styles.card import StyleCard
from personalization.styles.wording import sentences
from personalization.training.base.directory import BUNDLED, resolve_base
from privacy.keys.keyring import Keyring
from privacy.keys.service import MasterKeys
from privacy.keys.store import open_store
from privacy.ledger import Ledger
from privacy.policy import versions as policies
from privacy.policy.values import DEFAULT_DOMAIN
from privacy.storage.session import open_engine, transaction
from streams.broker.embedded import EmbeddedBroker
from streams.demo.companies import COMPANIES, make_company
from streams.demo.display import Stages
from streams.demo.environment import DemoEnvironment, free_port, model_cache, new_secrets
from streams.demo.judging import judge, likeness
from streams.demo.observing import (
    IngestObserver,
    consents_recorded,
    rounds_by_id,
    signals_per_tenant,
    training_progress,
)
from streams.demo.processes import Children
from streams.demo.publishing import publish_consents, publish_interactions
from streams.demo.recordings import read_recording, recorded_tenants
from streams.demo.report import DemoReport, EventCounts, Example, TenantFacts
from streams.demo.serving_client import ServingClient
from streams.demo.tenancy import ACTOR, register
from streams.errors import DemoError, ScenarioError
from streams.storage import schema as database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from sqlalchemy.engine import Engine

    from personalization.registry.tables import AdapterVersionRow
    from personalization.rounds.tables import RoundRow
    from streams.demo.display import Stage
    from streams.demo.judging import Judgement, Likeness
    from streams.demo.publishing import Published
    from streams.demo.scenario import TenantScenario

POLL_SECONDS = 0.3
PARTITIONS = 3  # one machine needs no more
INGEST_SECONDS = 180.0
ROUND_SECONDS = 600.0
SERVE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What bounds the work.

    Attributes:
        data: folder of recorded interactions; ``None`` takes the project's own companies.
        tenants: names to take; empty takes the first three (recordings) or all (companies).
        max_users: users per tenant whose interactions are published.
        epsilon: what each tenant's policy allows over all rounds.
        rounds: training rounds per tenant.
        base_model: the bundled model, or the directory of another one.
        keep: new folder for database, logs and adapters; ``None`` removes them at the end.
    """

    data: Path | None = None
    tenants: tuple[str, ...] = ()
    max_users: int = 60
    epsilon: float = 8.0
    rounds: int = 1
    keep: Path | None = None
    base_model: str = next(iter(BUNDLED))


def scenarios_of(options: DemoOptions, now: datetime) -> list[TenantScenario]:
    """Return the tenants to play, with their people and held-out users.

    Raises:
        ScenarioError: a tenant is unknown, a recording cannot be used, or a bound is too small.
    """
    if options.max_users < 10:
        raise ScenarioError(
            f"--max-users is {options.max_users}; allowed are 10 or more: one user hides among many"
        )
    if options.data is not None:
        names = options.tenants or tuple(recorded_tenants(options.data)[:3])
        return [read_recording(options.data, name, max_users=options.max_users, now=now) for name in names]
    names = options.tenants or tuple(COMPANIES)
    unknown = [name for name in names if name not in COMPANIES]
    if unknown:
        raise ScenarioError(
            f"--tenants names {unknown[0]!r}; the demonstration's own are {', '.join(COMPANIES)}"
        )
    return [make_company(name, max_users=options.max_users, now=now) for name in names]


def run_demo(
    options: DemoOptions, console: Console, *, stop_asked: Callable[[], bool] = lambda: False
) -> DemoReport:
    """Run everything and return what was found; every process is stopped and the state removed afterwards.

    Raises:
        ScenarioError: the options cannot be used.
        DemoError: a process stopped or something did not get done in time.
        KeyboardInterrupt: ``stop_asked`` became true.
    """
    now = datetime.now(UTC)
    scenarios = scenarios_of(options, now)
    stages = Stages(console, stop_asked)
    with ExitStack() as stack:
        state = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="discreet-demo-"))
        )
        state.mkdir(parents=True, exist_ok=options.keep is None)
        try:
            return _Demo(options, scenarios, stages, console, stack, state).run(now)
        except Exception as error:
            if stop_asked():  # a library may turn the interrupt into an error of its own
                raise KeyboardInterrupt from error
            raise


class _Demo:
    """One run; the stack holds everything that has to be stopped."""

    def __init__(
        self,
        options: DemoOptions,
        scenarios: Sequence[TenantScenario],
        stages: Stages,
        console: Console,
        stack: ExitStack,
        state: Path,
    ) -> None:
        self._options = options
        self._scenarios = scenarios
        self._stages = stages
        self._console = console
        self._stack = stack
        self._state = state

    def run(self, now: datetime) -> DemoReport:
        """Go through the stages in order."""
        self._start(now)
        published = self._publish(now)
        events = self._wait_for_ingestion(published)
        last: dict[str, RoundRow] = {}
        for number in range(1, self._options.rounds + 1):
            last = self._train(number)
        names = self._wait_for_serving(last)
        return self._judge(events, last, names)

    def _start(self, now: datetime) -> None:
        with self._stages.stage("start", "Starting broker, database, worker, trainer and server") as stage:
            base = self._base_model(stage)
            broker = self._stack.enter_context(EmbeddedBroker(log_path=self._state / "logs" / "broker.log"))
            master_key, adapter_key, token = new_secrets()
            environment = DemoEnvironment(
                state=self._state,
                broker=broker.bootstrap,
                base_model=base,
                master_key=master_key,
                adapter_key=adapter_key,
                worker_port=free_port(),
                serving_port=free_port(),
                token=token,
            )
            self._broker = broker.bootstrap
            url = f"sqlite:///{self._state / 'discreet.sqlite3'}"
            database.upgrade(url)
            store = open_store(f"sqlite:///{self._state / 'discreet-keys.sqlite3'}")
            store.prepare()
            self._stack.callback(store.engine.dispose)
            self._keyring = Keyring(MasterKeys(master_key), store)
            self._engine: Engine = open_engine(url)
            self._stack.callback(self._engine.dispose)
            variables = environment.variables()
            self._command(variables, "topics", "create", "--partitions", str(PARTITIONS))
            self._children = self._stack.enter_context(Children(variables, self._state / "logs"))
            for name in ("worker", "trainer", "serve"):
                secrets = environment.of_the_trainer() if name == "trainer" else None
                self._children.start(name, name, secrets=secrets)
            register(
                self._engine,
                self._scenarios,
                epsilon=self._options.epsilon,
                rounds=self._options.rounds,
                now=now,
            )
            self._serving = ServingClient(environment.serving_port, token)

    def _base_model(self, stage: Stage) -> Path:
        return resolve_base(
            self._options.base_model,
            model_cache(),
            lambda what, done, total: stage.update(done, total, f"base model: {what}"),
        )

    def _command(self, variables: dict[str, str], *arguments: str) -> None:
        result = subprocess.run(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", "streams.cli.main", *arguments],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise DemoError(f"discreet {' '.join(arguments)} failed: {result.stderr.strip()}")

    def _publish(self, now: datetime) -> Published:
        people = sum(len(scenario.people) for scenario in self._scenarios)
        turns = sum(scenario.published_turns for scenario in self._scenarios)
        with self._stages.stage(
            "publish", "Publishing consents and interactions through the client"
        ) as stage:
            consents = publish_consents(
                self._broker,
                self._scenarios,
                now=now,
                on_progress=lambda sent: stage.update(sent, people, "consents"),
            )

            def recorded() -> bool:
                known = consents_recorded(self._engine)
                stage.update(known, people, "consents recorded by the worker")
                return known >= consents

            # An interaction waits only so long for its consent; on a slow machine the worker is still starting.
            self._wait(recorded, INGEST_SECONDS)
            published = publish_interactions(
                self._broker,
                self._scenarios,
                now=now,
                on_progress=lambda sent: stage.update(sent, turns, "interactions"),
            )
            published.consents = consents
        return published

    def _wait_for_ingestion(self, published: Published) -> EventCounts:
        with self._stages.stage(
            "ingest", "Storing encrypted, bounded signals; refusing what has no consent"
        ) as stage:
            observer = IngestObserver(self._engine, self._broker, self._keyring, published.interactions)
            self._stack.callback(observer.close)
            counts = [0, 0]

            def settled() -> bool:
                counts[:] = [observer.stored(), observer.dead_lettered()]
                stage.update(sum(counts), published.records, "events")
                return sum(counts) >= published.records

            self._wait(settled, INGEST_SECONDS)
        return EventCounts(published=published.records, stored=counts[0], dead_lettered=counts[1])

    def _train(self, number: int) -> dict[str, RoundRow]:
        of = f" (round {number} of {self._options.rounds})" if self._options.rounds > 1 else ""
        with self._stages.stage(
            "train", f"Reserving budget and training under differential privacy{of}"
        ) as stage:
            opened: dict[str, str] = {}
            with transaction(self._engine) as session:
                for scenario in self._scenarios:
                    row = open_round(
                        session, scenario.tenant, DEFAULT_DOMAIN, actor=ACTOR, now=datetime.now(UTC)
                    )
                    opened[scenario.tenant] = row.round_id
            rows: dict[str, RoundRow] = {}
            trainer_log = self._state / "logs" / "trainer.log"

            def closed() -> bool:
                rows.update(rounds_by_id(self._engine, list(opened.values())))
                ended = sum(row.closed_at is not None for row in rows.values())
                part, done, total = training_progress(trainer_log) or ("taking the rounds", 0, 1)
                stage.update(done, total, f"{part}, {ended} of {len(opened)} tenants done")
                return ended == len(opened)

            self._wait(closed, ROUND_SECONDS)
        return {tenant: rows[round_id] for tenant, round_id in opened.items()}

    def _wait_for_serving(self, last: dict[str, RoundRow]) -> dict[str, str]:
        """Return the served name of each tenant that has an adapter, once the server holds all of them."""
        with transaction(self._engine) as session:
            wanted = {
                version.line_ref: (tenant, version.served_name)
                for tenant in last
                if (
                    version := registry.current_version(
                        session, registry.find_line(session, tenant, DEFAULT_DOMAIN)
                    )
                )
                is not None
            }
        with self._stages.stage(
            "serve", "Events reach the server; it checks and loads each adapter"
        ) as stage:

            def held() -> bool:
                if not self._serving.is_up():  # it has been loading the base model beside the other stages
                    return False
                current, failures = self._serving.current()
                for _, name in wanted.values():
                    if name in failures:
                        raise DemoError(f"the server refused the adapter {name} ({failures[name]})")
                there = [line for line, (_, name) in wanted.items() if current.get(line) == name]
                stage.update(len(there), len(wanted), "adapters")
                return len(there) == len(wanted)

            self._wait(held, SERVE_SECONDS)
        return dict(wanted.values())

    def _judge(self, events: EventCounts, last: dict[str, RoundRow], names: dict[str, str]) -> DemoReport:
        facts: list[TenantFacts] = []
        examples: list[Example] = []
        with self._stages.stage("judge", "Asking the server about users that were never trained on") as stage:
            signals = signals_per_tenant(self._engine, [scenario.tenant for scenario in self._scenarios])
            steps = [0]

            def advance() -> None:
                steps[0] += 1
                stage.update(steps[0], 2 * len(self._scenarios) + 2 * len(names))

            for scenario in self._scenarios:
                name = names.get(scenario.tenant)
                judged = judge(scenario, name, self._serving, on_progress=advance)
                like = None
                if name is not None:
                    like = likeness(scenario, name, self._serving, on_progress=advance)
                    examples.extend(like.examples)
                facts.append(
                    self._facts(scenario, last[scenario.tenant], signals[scenario.tenant], judged, like, name)
                )
        return DemoReport(
            tenants=tuple(facts), events=events, seconds=self._stages.seconds, examples=tuple(examples)
        )

    def _facts(
        self,
        scenario: TenantScenario,
        row: RoundRow,
        signals: int,
        judged: Judgement,
        like: Likeness | None,
        name: str | None,
    ) -> TenantFacts:
        ledger = Ledger()
        with transaction(self._engine) as session:
            policy = policies.tenant(session, scenario.tenant).policy
            spend = ledger.spend(session, scenario.tenant, row.period_index)
            state = "none"
            if row.reservation_id is not None:
                state = ledger.reservation(session, row.reservation_id).state.value
            version = None if name is None else registry.find_version(session, name)
        assert policy is not None  # the demonstration itself set it
        return TenantFacts(
            tenant=scenario.tenant,
            users=len(scenario.people),
            signals=signals,
            heldout_users=judged.users,
            epsilon=spend.lifetime_epsilon,
            target_epsilon=policy.policy.lifetime_epsilon,
            delta=policy.policy.lifetime_delta,
            nll_base=judged.nll_base,
            nll_adapter=judged.nll_adapter,
            prompts=0 if like is None else like.prompts,
            styled_base=0 if like is None else like.base,
            styled_adapter=0 if like is None else like.adapter,
            style=_style_of(version),
            adapter_version=None if version is None else version.version,
            served_name=name,
            ledger_state=state,
            outcome=row.outcome or "",
        )

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        """Poll until ``done``; a process that stopped or time that ran out ends the demonstration.

        Raises:
            DemoError: with what stopped, or that nothing came of waiting.
        """
        end = time.monotonic() + seconds
        while not done():
            self._children.check()
            if time.monotonic() > end:
                raise DemoError(
                    f"the stage shown last did not get done in {seconds:.0f} s; run it again with --keep "
                    "FOLDER and read FOLDER/logs"
                )
            time.sleep(POLL_SECONDS)


def _style_of(version: AdapterVersionRow | None) -> tuple[str, ...]:
    """Return what a version's style card says, in sentences; nothing where it has none."""
    style = None if version is None else json.loads(version.manifest_json).get("style")
    return () if style is None else tuple(sentences(StyleCard.from_document(style["card"])))
