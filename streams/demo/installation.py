"""Real processes on one machine, for whoever plays a product on them: the demonstration and the recipes.

The embedded broker, ``discreet worker``, ``discreet trainer`` and ``discreet serve`` do the work; this module starts
them, publishes what people did, opens rounds as an operator would, and waits.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from personalization.registry import queries as registry
from personalization.rounds.queries import open_round
from personalization.training.base.directory import resolve_base
from privacy.keys.keyring import Keyring
from privacy.keys.service import MasterKeys
from privacy.keys.store import open_store
from privacy.storage.session import open_engine, transaction
from streams.broker.embedded import EmbeddedBroker
from streams.demo.environment import DemoEnvironment, free_port, model_cache, new_secrets
from streams.demo.observing import IngestObserver, consents_recorded, rounds_by_id, training_progress
from streams.demo.processes import Children
from streams.demo.publishing import publish_consents, publish_interactions
from streams.demo.report import EventCounts
from streams.demo.serving_client import ServingClient
from streams.demo.tenancy import ACTOR
from streams.errors import DemoError
from streams.storage import schema as database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from personalization.registry.tables import AdapterVersionRow
    from personalization.rounds.tables import RoundRow
    from streams.demo.display import Stage, Stages
    from streams.demo.publishing import Published
    from streams.demo.scenario import TenantScenario

Line = tuple[str, str]  # tenant, domain
POLL_SECONDS = 0.3
PARTITIONS = 3  # one machine needs no more
INGEST_SECONDS = 180.0
ROUND_SECONDS = 600.0  # without any progress of the trainer; how long training takes is the machine's affair
SERVE_SECONDS = 120.0


class Installation:
    """The processes of one run; ``start`` comes first, and the stack ends them.

    Args:
        stages: shows what is going on.
        stack: holds everything that has to be stopped.
        state: folder of database, logs and adapters.
        base_model: a bundled model, or the directory of another one.

    Attributes:
        broker: ``host:port``.
        engine: the worker's database.
        serving: asks the server.
        variables: environment of the processes.
    """

    def __init__(self, stages: Stages, stack: ExitStack, state: Path, base_model: str) -> None:
        self.stages = stages
        self.stack = stack
        self.state = state
        self._base_model = base_model
        self._consents = self._letters = self._rounds = 0

    def start(self, register: Callable[[Engine], None]) -> None:
        """Start everything; ``register`` names the tenants to the new database.

        Raises:
            DemoError: a process stopped or a command failed.
        """
        with self.stages.stage("start", "Starting broker, database, worker, trainer and server") as stage:
            self.base = self._resolve(stage)
            broker = self.stack.enter_context(EmbeddedBroker(log_path=self.state / "logs" / "broker.log"))
            master_key, adapter_key, token = new_secrets()
            environment = DemoEnvironment(
                state=self.state,
                broker=broker.bootstrap,
                base_model=self.base,
                master_key=master_key,
                adapter_key=adapter_key,
                worker_port=free_port(),
                serving_port=free_port(),
                token=token,
            )
            self.broker = broker.bootstrap
            url = f"sqlite:///{self.state / 'discreet.sqlite3'}"
            database.upgrade(url)
            store = open_store(f"sqlite:///{self.state / 'discreet-keys.sqlite3'}")
            store.prepare()
            self.stack.callback(store.engine.dispose)
            self._keyring = Keyring(MasterKeys(master_key), store)
            self.engine: Engine = open_engine(url)
            self.stack.callback(self.engine.dispose)
            self.variables, self._signing = environment.variables(), environment.of_the_trainer()
            self.command("topics", "create", "--partitions", str(PARTITIONS))
            self._children = self.stack.enter_context(Children(self.variables, self.state / "logs"))
            for name in ("worker", "trainer", "serve"):
                secrets = self._signing if name == "trainer" else None
                self._children.start(name, name, secrets=secrets)
            register(self.engine)
            self.serving = ServingClient(environment.serving_port, token)

    def command(self, *arguments: str, signing: bool = False) -> str:
        """Run ``discreet`` with ``arguments`` as an operator of this installation, and return what it printed.

        Args:
            arguments: of the command line.
            signing: whether the operator has the key that adapters are signed with.

        Raises:
            DemoError: it failed; the text is its own.
        """
        result = subprocess.run(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", "streams.cli.main", *arguments],
            env={**self.variables, **(self._signing if signing else {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise DemoError(f"discreet {' '.join(arguments)} failed: {result.stderr.strip()}")
        return result.stdout

    def publish(
        self, scenarios: Sequence[TenantScenario], now: datetime, *, refusable: bool = True
    ) -> Published:
        """Publish consents, wait until the worker has recorded them, then publish the interactions.

        Args:
            scenarios: whose people were not published before.
            now: for events that have no time of their own.
            refusable: whether some events go along that no worker may accept.
        """
        people = sum(len(scenario.people) for scenario in scenarios)
        turns = sum(scenario.published_turns for scenario in scenarios)
        with self.stages.stage("publish", "Publishing consents and interactions through the client") as stage:
            consents = publish_consents(
                self.broker,
                scenarios,
                now=now,
                on_progress=lambda sent: stage.update(sent, people, "consents"),
            )
            before, self._consents = self._consents, self._consents + consents

            def recorded() -> bool:
                known = consents_recorded(self.engine)
                stage.update(known - before, people, "consents recorded by the worker")
                return known >= self._consents

            # An interaction waits only so long for its consent; on a slow machine the worker is still starting.
            self.wait(recorded, INGEST_SECONDS)
            published = publish_interactions(
                self.broker,
                scenarios,
                now=now,
                on_progress=lambda sent: stage.update(sent, turns, "interactions"),
                refusable=refusable,
            )
            published.consents = consents
        return published

    def wait_for_ingestion(self, published: Published) -> EventCounts:
        """Wait until each published interaction was stored or refused, and say how many were."""
        with self.stages.stage(
            "ingest", "Storing encrypted, bounded signals; refusing what has no consent"
        ) as stage:
            observer = IngestObserver(self.engine, self.broker, self._keyring, published.interactions)
            try:
                counts = [0, 0]

                def settled() -> bool:
                    counts[:] = [observer.stored(), observer.dead_lettered() - self._letters]
                    stage.update(sum(counts), published.records, "events")
                    return sum(counts) >= published.records

                self.wait(settled, INGEST_SECONDS)
            finally:
                observer.close()
            self._letters += counts[1]
        return EventCounts(published=published.records, stored=counts[0], dead_lettered=counts[1])

    def train(self, lines: Sequence[Line], of: str = "") -> dict[Line, RoundRow]:
        """Open a round of each line and wait for their ends.

        Args:
            lines: tenant and domain of each.
            of: which round this is, for people.
        """
        with self.stages.stage(
            "train", f"Reserving budget and training under differential privacy{of}"
        ) as stage:
            opened: dict[Line, str] = {}
            with transaction(self.engine) as session:
                for tenant, domain in lines:
                    row = open_round(session, tenant, domain, actor=ACTOR, now=datetime.now(UTC))
                    opened[tenant, domain] = row.round_id
            rows: dict[str, RoundRow] = {}
            told: list[object] = []
            trainer_log = self.state / "logs" / "trainer.log"

            def closed() -> bool:
                rows.update(rounds_by_id(self.engine, list(opened.values())))
                ended = sum(row.closed_at is not None for row in rows.values())
                part, done, total = training_progress(trainer_log) or ("taking the rounds", 0, 1)
                told[:] = [part, done, ended]
                stage.update(done, total, f"{part}, {ended} of {len(opened)} lines done")
                return ended == len(opened)

            self.wait(closed, ROUND_SECONDS, progress=lambda: tuple(told))
        return {line: rows[round_id] for line, round_id in opened.items()}

    def versions(self, lines: Sequence[Line]) -> dict[Line, AdapterVersionRow]:
        """Return the current version of each line that has one."""
        with transaction(self.engine) as session:
            found = {
                line: registry.current_version(session, registry.find_line(session, *line)) for line in lines
            }
        return {line: version for line, version in found.items() if version is not None}

    def wait_for_serving(self, lines: Sequence[Line]) -> dict[Line, str]:
        """Return the served name of each line that has an adapter, once the server holds all of them.

        Raises:
            DemoError: the server refused one.
        """
        versions = self.versions(lines)
        wanted = {version.line_ref: version.served_name for version in versions.values()}
        with self.stages.stage("serve", "Events reach the server; it checks and loads each adapter") as stage:

            def held() -> bool:
                if not self.serving.is_up():  # it has been loading the base model beside the other stages
                    return False
                current, failures = self.serving.current()
                for name in wanted.values():
                    if name in failures:
                        raise DemoError(f"the server refused the adapter {name} ({failures[name]})")
                there = [line for line, name in wanted.items() if current.get(line) == name]
                stage.update(len(there), len(wanted), "adapters")
                return len(there) == len(wanted)

            self.wait(held, SERVE_SECONDS)
        return {line: version.served_name for line, version in versions.items()}

    def wait(
        self, done: Callable[[], bool], seconds: float, *, progress: Callable[[], object] = lambda: None
    ) -> None:
        """Poll until ``done``; a process that stopped or time that ran out ends the run.

        Args:
            done: asked again and again.
            seconds: how long it may take from the beginning, or from when ``progress`` last changed.
            progress: how far it is.

        Raises:
            DemoError: with what stopped, or that nothing came of waiting.
        """
        end, before = time.monotonic() + seconds, progress()
        while not done():
            self._children.check()
            if (now := progress()) != before:
                end, before = time.monotonic() + seconds, now
            if time.monotonic() > end:
                raise DemoError(
                    f"nothing came of the stage shown last in {seconds:.0f} s; run it again with --keep "
                    "FOLDER and read FOLDER/logs"
                )
            time.sleep(POLL_SECONDS)

    def _resolve(self, stage: Stage) -> Path:
        return resolve_base(
            self._base_model,
            model_cache(),
            lambda what, done, total: stage.update(done, total, f"base model: {what}"),
        )
