"""The drill: a backup, a thousand more events, an erasure and releases, and the backup is put back.

With real workers on Apache Kafka and PostgreSQL (pg_dump, pg_restore), where there are jars, and on the embedded broker
and SQLite. Before ``discreet restore`` nothing starts over the database; after it nothing was rewound.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.registry.withdrawal import withdraw_version
from personalization.rounds.queries import list_rounds
from privacy.clock import SystemClock
from privacy.errors import RewoundError
from privacy.ledger.export import export_ledger
from privacy.ledger.verify import verify_export
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.anchor.opening import open_anchor
from streams.cli.main import main
from streams.client import AdapterFeed, KafkaBroker, UpdateKind
from streams.outbox.events import OutboxAdapterEvents
from streams.processes.keys import adapter_signer
from streams.settings import load_settings
from tests.benchmarks import chaos
from tests.benchmarks.chaos_load import _erasure, _interaction, load
from tests.fakes.services import wait_until
from tests.fakes.training import POLICY, Workshop

LIBS = os.environ.get("DISCREET_TEST_KAFKA_LIBS", "")
MORE_EVENTS = 1_000
PATIENCE = 120


class Drill:
    """One installation: workers in processes of their own, rounds in this one."""

    def __init__(self, folder, libs, monkeypatch):
        self.folder = folder
        self.world = chaos.World(folder, Path(libs) if libs else None, forked=True)
        for name, value in self.world.workers._environments[0].items():
            if name.startswith("DISCREET_"):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("DISCREET_BROKER__BOOTSTRAP", self.world.bootstrap)
        monkeypatch.setenv("DISCREET_DATABASE__URL", self.world.url)
        monkeypatch.setenv("DISCREET_KEYS__URL", self.world.keys_url)
        self.port = 20_000 + os.getpid() % 20_000
        for environment in self.world.workers._environments:
            environment["DISCREET_HTTP__PORT"] = str(self.port)
            environment["DISCREET_ANCHOR__OFFSETS_SECONDS"] = "0.5"
        self.settings = load_settings()
        self.signer = adapter_signer(self.settings)
        now = datetime.now(UTC)
        with transaction(self.world.engine) as session:
            changes = {
                **POLICY,
                "contribution_bound": 1000,
                "release_padding_seconds": 0,
                "planned_releases": 8,
            }
            policies.set_policy(session, "acme", changes, actor="drill", reason="drill", now=now)
        self.shop = Workshop(
            self.world.engine, SystemClock(), folder, users=600, events=OutboxAdapterEvents(self.signer)
        )
        self.shop.signer, self.shop.keyring = self.signer, self.world.keyring

    def anchor(self):
        return open_anchor(self.settings, self.world.engine, self.world.keyring, SystemClock().now)

    def publish(self, events):
        self.world.sent.update((sent.name, sent) for sent in events)
        chaos.publish(self.world, events, chaos.Run(0), 0)

    def settled(self, events):
        """Wait until every event has its fate and every offset is committed."""
        names = {sent.name for sent in events}

        def accounted():
            fates = self.world.fates(list(names))
            names.difference_update(
                name
                for name in list(names)
                if fates.get(name, "") is None or name in self.world.letters.origins
            )
            return not names

        wait_until(accounted, PATIENCE, "not everything was accounted for", 0.2)
        wait_until(lambda: self.world.uncommitted() == 0, PATIENCE, "not everything was committed", 0.2)

    def release(self, *, opened=False):
        """One whole round by a trainer of this process."""
        if not opened:
            self.shop.open_round()
        with closing(self.anchor()) as anchor:
            self.shop.process(protocol=self.shop.protocol(anchor=anchor)).run_once()

    def act(self):
        return Act(actor="drill", reason="A drill.", now=datetime.now(UTC))

    def spend(self):
        with transaction(self.world.engine) as session:
            return self.shop.ledger.spend(session, "acme", self.period)

    def line(self):
        with transaction(self.world.engine) as session:
            (line,) = registry.list_lines(session)
            return line

    def dump(self):
        if self.world.postgres is not None:
            self.world.postgres.dump("backup")
            return
        source = sqlite3.connect(self.folder / "chaos.sqlite3")
        with closing(source), closing(sqlite3.connect(self.folder / "backup")) as copy:
            source.backup(copy)

    def put_back(self):
        self.world.engine.dispose()
        if self.world.postgres is not None:
            self.world.postgres.put_back("backup")
            return
        for suffix in ("-wal", "-shm"):
            (self.folder / f"chaos.sqlite3{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self.folder / "backup", self.folder / "chaos.sqlite3")

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop_workers(self):
        for process in list(self.world.workers.running):
            self.world.workers.end(process, signal.SIGTERM)

    def signals_of(self, user):
        names = [
            sent.name
            for sent in self.world.sent.values()
            if sent.kind == "interaction" and sent.record.key == f"acme/{user}".encode()
        ]
        return len(self.world.signals(names)) if names else 0

    def desired(self, line_ref, epoch):
        """Wait until servers are told of an epoch of a line, and return what they are told last."""
        found = []
        feed = AdapterFeed(KafkaBroker(bootstrap=self.world.bootstrap), trusted_keys=[self.signer.public_key])
        with feed:

            def told():
                found.extend(update for update in feed.poll(0.2) if update.line_ref == line_ref)
                return bool(found) and found[-1].epoch >= epoch

            wait_until(told, PATIENCE, f"epoch {epoch} was not told", 0)
        return found[-1]


@pytest.fixture(params=["embedded", *(["kafka"] if LIBS else [])])
def drill(request, tmp_path, monkeypatch):
    made = Drill(tmp_path, LIBS if request.param == "kafka" else "", monkeypatch)
    yield made
    made.world.close()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # clients that lose their connections
@pytest.mark.timeout(600)
def test_a_backup_that_is_put_back_rewinds_nothing(drill, capsys):
    world, workers = drill.world, drill.world.workers
    workers.start()
    before = list(load(1, 200))
    drill.publish(before)
    drill.settled(before)
    drill.release()
    drill.release()
    with transaction(world.engine) as session:
        first, second = (row.served_name for row in registry.list_versions(session))
        drill.period = list_rounds(session)[0].period_index
    drill.dump()

    # A thousand events, an erasure of somebody with signals, a withdrawal and two releases, all after the backup.
    choice = random.Random(2)
    of_leaver = [_interaction(f"l-{n}", "user-1-0", "good", choice) for n in range(8)]
    more = [_interaction(f"m-{n}", f"user-1-{1 + n % 30}", "good", choice) for n in range(MORE_EVENTS)]
    drill.publish([*of_leaver, *more])
    drill.settled([*of_leaver, *more])
    erased = "user-1-0"
    assert drill.signals_of(erased) >= 8
    request = _of_user(_erasure(1, 99), erased)
    drill.publish([request])
    drill.settled([request])
    assert drill.signals_of(erased) == 0
    with transaction(world.engine) as session:
        withdraw_version(session, drill.shop.events, first, drill.act())
    drill.release()
    drill.release()
    spent, line = drill.spend(), drill.line()
    assert spent.releases == 4
    assert drill.desired(line.line_ref, line.epoch).epoch == line.epoch
    with closing(drill.anchor()) as anchor:

        def anchored():
            anchor.refresh()
            mark = anchor.tenants["acme"]
            return mark.erasures >= 1 and mark.lines[0].epoch == line.epoch

        wait_until(anchored, PATIENCE, "not everything was anchored", 0.2)
    drill.stop_workers()
    drill.put_back()

    # Everything refuses, and says what to do.
    assert drill.spend().releases == 2
    workers.start()
    log = workers.running[0]
    wait_until(lambda: "discreet restore" in _log_of(workers), PATIENCE, "the worker did not refuse", 0.2)
    fates_before = len(world.fates(list(world.sent)))
    late = [_interaction(f"late-{n}", erased, "good", choice) for n in range(8)]
    drill.publish(late)
    time.sleep(2)
    assert not drill.ready()
    assert len(world.fates(list(world.sent))) == fates_before
    assert drill.signals_of(erased) <= 8  # those of the backup, and none of the late ones
    reads = drill.shop.signals.reads
    drill.shop.open_round()
    with closing(drill.anchor()) as anchor, pytest.raises(RewoundError, match="discreet restore"):
        short = timedelta(seconds=1)
        drill.shop.process("two", protocol=drill.shop.protocol(anchor=anchor), lease=short).run_once()
    assert drill.shop.signals.reads == reads
    assert log.poll() is None
    drill.stop_workers()
    world.engine.dispose()

    # One command reconciles it.
    assert main(["restore", "--reason", "A drill.", "--dry-run", "--json"]) == 0
    assert "acme" in json.loads(capsys.readouterr().out.splitlines()[-1])["behind"]
    wait_until(lambda: main(["restore", "--reason", "A drill.", "--json"]) == 0, PATIENCE, "not restored", 1)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["restored"]
    assert set(told["reconciled"]["charged"]["acme"]) >= {"lifetime:acme"}
    assert told["replayed"]["discreet.erasures.v1"] >= 1
    assert told["set_back"] >= MORE_EVENTS
    assert drill.signals_of(erased) == 0  # before any worker or trainer runs
    after = drill.spend()
    assert after.lifetime_epsilon == pytest.approx(spent.lifetime_epsilon)
    assert after.period_epsilon == pytest.approx(spent.period_epsilon)
    with closing(export_ledger(world.engine)) as lines:
        assert verify_export(lines).ok

    # And the installation goes on from there.
    workers.start()
    wait_until(drill.ready, PATIENCE, "the worker is not ready", 0.2)
    everything = [*before, *of_leaver, *more, request, *late]
    drill.settled(everything)
    assert drill.signals_of(erased) == 0
    fates = world.fates([sent.name for sent in more])
    assert len(fates) == MORE_EVENTS
    assert set(fates.values()) == {None}
    assert len(world.signals([sent.name for sent in more])) == MORE_EVENTS
    assert world.letters.reasons["late-0"] == {"user_erased"}
    restored = drill.line()
    assert restored.epoch > line.epoch
    assert restored.last_version == 4
    update = drill.desired(line.line_ref, restored.epoch)
    assert (update.kind, update.state.adapter.manifest.served_name) == (UpdateKind.SET, second)
    drill.release(opened=True)  # the round whose trainer was refused
    assert drill.line().last_version == 5  # no served name is used twice
    assert drill.spend().lifetime_epsilon > spent.lifetime_epsilon
    assert main(["restore", "--reason", "Again.", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"restored": False}


def _of_user(sent, user):
    """Return an erasure request as another user's."""
    document = {**json.loads(sent.record.value), "user_id": user}
    record = sent.record._replace(key=f"acme/{user}".encode(), value=json.dumps(document).encode())
    return replace(sent, record=record)


def _log_of(workers):
    return "".join(path.read_text() for path in workers.logs.glob("*.log"))
