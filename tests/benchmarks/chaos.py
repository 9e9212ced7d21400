"""Kill, stop, freeze, part and restart random parts under load, then count: every event has exactly one fate.

    python tests/benchmarks/chaos.py --kafka-libs DIR --runs 200 --seed 1 --append chaos.jsonl
    python tests/benchmarks/chaos.py --summary chaos.jsonl --json chaos.json

starts its own Apache Kafka (jars in DIR, see ``.ci/services.sh``) and PostgreSQL, real worker processes, and sends real
signals. Each worker reaches broker and database over links that can be slowed, blocked and cut, and has a clock that
can be stepped; where it may make one (as root), the databases lie on a small disk that can be filled. One run publishes
a seeded mix of events on every topic a worker reads (good, repeated, malformed, of unknown tenants, of users who never
consent, with ids that other users and tenants use too, consents dated far ahead, erasures of users who gave something
before, acknowledgements, a flood of one tenant's refused ones) and does a seeded series of faults meanwhile.
Then it waits until everything is accounted for and committed, and counts:

- every event has one mark in the database, an effect or a refusal, or (unreadable ones) a dead letter;
- every effect on an interaction is a stored signal, every erasure one certificate and one answer;
- every refusal is a dead letter of the same origin, for a reason that this event may be refused for;
- of a user who was erased nothing is stored that came before;
- nothing has both, nothing has two, and after the last run of a call all of that still holds for every run;
- no log of a worker names a user or holds a text.

Each run's outcome is appended to a file as it ends. Without ``--kafka-libs`` the broker is the embedded one and the
database SQLite; neither is restarted then, and there are no links.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from sqlalchemy import bindparam, text
from sqlalchemy.engine import make_url

from privacy.errors import StorageError
from privacy.keys.keyring import Keyring
from privacy.keys.service import MasterKeys, new_master_key
from privacy.keys.store import open_store
from privacy.policy import versions as policies
from privacy.storage.session import open_engine, transaction
from streams.broker.embedded import EmbeddedBroker
from streams.contracts.dead_letter import DeadLetter
from streams.contracts.topics import (
    ADAPTER_EVENTS,
    CONSENT,
    DEAD_LETTERS,
    ERASURE_COMPLETED,
    ERASURES,
    INTERACTIONS,
    SERVING_ACKS,
    TOPICS,
)
from streams.storage import schema as database
from tests.benchmarks.chaos_load import MISTIMED, NAME_HEADER, TENANTS, Sent, load
from tests.benchmarks.chaos_restore import RESTORE, restore_backup
from tests.fakes.keys import store_url
from tests.fakes.network import Network
from tests.fakes.services import KEYS_DATABASE, Disk, Kafka, Postgres, free_port, wait_until
from tests.fakes.worker_processes import WorkerProcess

PARTITIONS = 4
SLOTS = 3  # ways from workers to broker and database; a fourth worker shares the first's
READ_TOPICS = (INTERACTIONS, CONSENT, ERASURES, SERVING_ACKS)
DAY = 86_400
CLOCK_STEPS = (-3_600, -90, -2, 2, 90, 3_600, 400 * DAY)
GROUP = "discreet-worker"
LOOK_SECONDS = 3.0  # between two looks at the workers' liveness
UNSENDABLE_KEY, UNSENDABLE_BYTES = b"unsendable", 2_000_000  # above what a broker takes


def says_that_it_hangs(port: int) -> bool:
    """Ask a worker's liveness probe; one that does not answer may be frozen or starting, and has time."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 503
    except (OSError, HTTPException):
        return False


class Workers:
    """Real worker processes, replaced as a supervisor would."""

    def __init__(self, environments: list[dict[str, str]], directory: Path, *, forked: bool) -> None:
        self._environments = environments
        self._forked = forked
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.clocks = [directory / f"clock-{slot}" for slot in range(len(environments))]
        self.set_clocks(0)
        self._number = 0
        self._looked = time.monotonic()
        self.running: list[WorkerProcess] = []
        self.exits: Counter[str] = Counter()

    def set_clocks(self, seconds: float, slot: int | None = None) -> None:
        """Step the wall clock of the workers of a slot, or of all, to so many seconds after the true time."""
        for number, clock in enumerate(self.clocks):
            if slot in (None, number):
                part = clock.with_suffix(".part")
                part.write_text(str(seconds))
                part.replace(clock)

    def slot(self, process: WorkerProcess) -> int:
        return process.number % len(self._environments)

    def start(self) -> None:
        taken = Counter(self.slot(process) for process in self.running)
        slot = min(range(len(self._environments)), key=lambda number: taken[number])
        number = self._number * len(self._environments) + slot
        self._number += 1
        log = self.logs / f"worker-{number}.log"
        environment = self._environments[slot]
        port = int(environment["DISCREET_HTTP__PORT"]) or free_port()
        environment = {**environment, "DISCREET_HTTP__PORT": str(port)}
        process = WorkerProcess(number, environment, log, self.clocks[slot], forked=self._forked)
        process.port = port
        self.running.append(process)

    def reap(self) -> None:
        """Start again what ended by itself, and now and then what says that it hangs."""
        look = time.monotonic() - self._looked >= LOOK_SECONDS
        if look:
            self._looked = time.monotonic()
        for process in list(self.running):
            if process.poll() is not None:
                self.exits[f"ended with {process.poll()}"] += 1
                self.running.remove(process)
                self.start()
            elif look and says_that_it_hangs(process.port):
                self.exits["said that it hangs, and was replaced"] += 1
                self.end(process, signal.SIGKILL)
                self.start()

    def end(self, process: WorkerProcess, number: signal.Signals) -> None:
        self.running.remove(process)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        if number is signal.SIGTERM:
            status = process.wait(60)
            self.exits[f"asked to stop: {'timeout' if status is None else status}"] += 1
            process.send_signal(signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        for process in list(self.running):
            self.end(process, signal.SIGKILL)


class Reader:
    """Reads a topic in the background from its start, over restarts of the broker."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def note(self, record) -> None:
        """Take one record."""
        raise NotImplementedError

    def _read(self) -> None:
        positions = dict.fromkeys(range(PARTITIONS), 0)
        while not self._stop.is_set():
            consumer = None
            try:
                consumer = KafkaConsumer(bootstrap_servers=self._bootstrap, bootstrap_timeout_ms=3000)
                consumer.assign([TopicPartition(self._topic, number) for number in positions])
                for number, offset in positions.items():
                    consumer.seek(TopicPartition(self._topic, number), offset)
                while not self._stop.is_set():
                    for records in consumer.poll(300).values():
                        for record in records:
                            self.note(record)
                            positions[record.partition] = record.offset + 1
            except KafkaError:
                time.sleep(0.3)
            finally:
                if consumer is not None:
                    consumer.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


class Letters(Reader):
    """Dead letters: of which events, from which origins, for which reasons."""

    def __init__(self, bootstrap: str) -> None:
        self.origins: dict[str, set[str]] = {}
        self.reasons: dict[str, set[str]] = {}
        self.copies: Counter[str] = Counter()
        super().__init__(bootstrap, DEAD_LETTERS.name)

    def note(self, record) -> None:
        letter = DeadLetter.from_headers(record.headers)
        name = dict(record.headers).get(NAME_HEADER, b"").decode()
        self.reasons.setdefault(name, set()).add(letter.reason.value)
        self.origins.setdefault(name, set()).add(f"{letter.topic}/{letter.partition}/{letter.offset}")
        self.copies[name] += 1


class Answers(Reader):
    """Answers to erasure requests: which distinct answers each request got."""

    def __init__(self, bootstrap: str) -> None:
        self.of: dict[str, set[bytes]] = {}
        super().__init__(bootstrap, ERASURES.name)

    def note(self, record) -> None:
        headers = dict(record.headers)
        if headers.get("ce_type") == ERASURE_COMPLETED.encode():
            request = json.loads(record.value)["request_id"]
            self.of.setdefault(request, set()).add(headers["ce_id"])


class World:
    """Broker, database and workers, and what became of everything published so far."""

    def __init__(
        self, directory: Path, kafka_libs: Path | None, *, forked: bool = False, own_disk: bool = False
    ) -> None:
        self.backups = False  # whether backups of the database are put back too
        self.disk = None  # what the databases lie on, where it can be filled
        if own_disk:
            with suppress(PermissionError):
                self.disk = Disk(directory / "disk", DISK_MEGABYTES)
        beside = directory / "disk" if self.disk else directory
        self.network = Network()
        self.broker_links = [self.network.link() for _ in range(SLOTS)] if kafka_libs else []
        self.database_links = [self.network.link() for _ in range(SLOTS)] if kafka_libs else []
        self.kafka = Kafka(kafka_libs, directory / "kafka", self.broker_links) if kafka_libs else None
        self.postgres = Postgres(beside / "postgres") if kafka_libs else None
        self._embedded = None if kafka_libs else EmbeddedBroker()
        self.bootstrap = self.kafka.bootstrap if self.kafka else self._embedded.start()
        self.url = self.postgres.url if self.postgres else f"sqlite:///{beside / 'chaos.sqlite3'}"
        for link in self.database_links:
            link.lead_to(self.postgres.port)
        database.upgrade(self.url)
        self.engine = open_engine(self.url)
        now = datetime.now(UTC)
        with transaction(self.engine) as session:
            for tenant in TENANTS:
                policies.register_tenant(session, tenant, actor="chaos", now=now)
                changes = {"declared_users": 1000, "contribution_bound": 1000}
                policies.set_policy(session, tenant, changes, actor="chaos", reason="chaos", now=now)
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_topics(
            {topic.name: {"num_partitions": PARTITIONS, "replication_factor": 1} for topic in TOPICS}
        )
        admin.close()
        self._master_key = new_master_key()
        self.keys_url = (
            self.postgres.url_at(self.postgres.port, KEYS_DATABASE) if self.postgres else store_url(self.url)
        )
        store = open_store(self.keys_url)
        store.prepare()
        self.keyring = Keyring(MasterKeys(self._master_key), store)
        self.workers = Workers(self._environments(directory), directory, forked=forked)
        self.letters = Letters(self.bootstrap)
        self.answers = Answers(self.bootstrap)
        self.sent: dict[str, Sent] = {}

    def _environments(self, directory: Path) -> list[dict[str, str]]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISCREET_")}
        shared = {
            **kept,
            "DISCREET_STATE": str(directory),
            "DISCREET_MASTER_KEY": self._master_key,
            "DISCREET_DATABASE__URL": self.url,
            "DISCREET_KEYS__URL": self.keys_url,
            "DISCREET_BROKER__BOOTSTRAP": self.bootstrap,
            "DISCREET_BROKER__EMBEDDED": "false" if self.kafka else "true",
            "DISCREET_BROKER__GROUP": GROUP,
            "DISCREET_BROKER__SESSION_TIMEOUT_SECONDS": "4",
            "DISCREET_BROKER__HEARTBEAT_SECONDS": "0.7",
            "DISCREET_BROKER__REBALANCE_TIMEOUT_SECONDS": "10",
            "DISCREET_INGEST__CONSENT_WAIT_SECONDS": "4",
            "DISCREET_INGEST__BATCH_EVENTS": "200",
            "DISCREET_INGEST__POISON_SHARE": "2",
            "DISCREET_INGEST__RETRY_MAX_SECONDS": "1",
            "DISCREET_SCHEDULER__RETENTION_SECONDS": "5",
            "DISCREET_HTTP__PORT": "0",
            "DISCREET_HTTP__STALL_SECONDS": "30",
        }
        if not self.kafka:
            return [shared] * SLOTS
        return [
            {
                **shared,
                "DISCREET_BROKER__BOOTSTRAP": f"127.0.0.1:{self.broker_links[slot].port}",
                "DISCREET_DATABASE__URL": self.postgres.url_at(self.database_links[slot].port),
                "DISCREET_KEYS__URL": self.postgres.url_at(self.database_links[slot].port, KEYS_DATABASE),
            }
            for slot in range(SLOTS)
        ]

    def fates(self, names: list[str]) -> dict[str, str | None]:
        """Return the fate of each event that has one: ``None`` for an effect, else where it was refused."""
        return self._by_name(names, "SELECT event_digest, refused_origin FROM processed_events")

    def signals(self, names: list[str]) -> Counter[str]:
        """Return how many signals each event has."""
        return Counter(self._by_name(names, "SELECT event_digest, pseudonym FROM signals"))

    def _by_name(self, names: list[str], select: str) -> dict:
        with transaction(self.engine) as session:
            now = datetime.now(UTC)
            hashes = {name: self.keyring.tenant_keys(session, name, now=now).hashes for name in TENANTS}
        digests = {self.sent[name].digest(hashes): name for name in names}
        wanted = text(f"{select} WHERE event_digest IN :digests").bindparams(
            bindparam("digests", expanding=True)
        )
        found = {}
        with transaction(self.engine) as session:
            for start in range(0, len(names), 500):
                part = list(digests)[start : start + 500]
                for digest, value in session.connection().execute(wanted, {"digests": part}):
                    found[digests[bytes(digest)]] = value
        return found

    def certificates(self, requests: list[str]) -> int:
        """Return how many of the erasure requests were completed with a certificate."""
        wanted = text(
            "SELECT count(*) FROM erasures WHERE erasure_id IN :requests AND certificate IS NOT NULL"
        ).bindparams(bindparam("requests", expanding=True))
        with transaction(self.engine) as session:
            return session.connection().execute(wanted, {"requests": requests}).scalar_one()

    def uncommitted(self) -> int:
        """Return how many records of the read topics lie after the group's committed offsets."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            group_id=GROUP,
            enable_auto_commit=False,
            bootstrap_timeout_ms=5000,
        )
        try:
            partitions = [
                TopicPartition(topic.name, number) for topic in READ_TOPICS for number in range(PARTITIONS)
            ]
            ends = consumer.end_offsets(partitions)
            # The embedded broker may name an end before the true one: it counts a batch as one record.
            return sum(max(0, ends[each] - (consumer.committed(each) or 0)) for each in partitions)
        finally:
            consumer.close()

    def without_keys(self, seconds: float) -> None:
        """Let nobody reach the key store for a while."""
        if self.postgres is not None:
            self.postgres.shut_off(KEYS_DATABASE, seconds)
            return
        with closing(sqlite3.connect(make_url(self.keys_url).database, timeout=30)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)

    def hold_up(self) -> None:
        """Put a record into the outbox that no broker takes: everything else must leave all the same."""
        row = text(
            "INSERT INTO outbox (topic, key, value, headers, created_at) VALUES (:topic, :key, :value, '[]', :now)"
        )
        values = {
            "topic": ADAPTER_EVENTS.name,
            "key": UNSENDABLE_KEY,
            "value": bytes(UNSENDABLE_BYTES),
            "now": datetime.now(UTC),
        }
        with suppress(StorageError), transaction(self.engine) as session:
            session.connection().execute(row, values)

    def heal(self) -> None:
        """End every lasting fault."""
        with suppress(StorageError), transaction(self.engine) as session:
            gone = text("DELETE FROM outbox WHERE key = :key")
            session.connection().execute(gone, {"key": UNSENDABLE_KEY})
        self.workers.set_clocks(0)
        for link in self.broker_links + self.database_links:
            link.slow(0)
            link.unblock()

    def close(self) -> None:
        self.heal()
        self.workers.stop()
        self.letters.close()
        self.answers.close()
        self.engine.dispose()
        self.keyring.close()
        self.network.close()
        for part in (self.kafka, self.postgres, self._embedded):
            if part is not None:
                part.stop()
        if self.disk is not None:
            self.disk.close()


DISK_MEGABYTES = 400
WORKER_FAULTS = ("kill", "kill", "kill all", "terminate", "join", "leave", "freeze", "clock step")
SERVICE_FAULTS = (
    "broker restart",
    "broker freeze",
    "database restart",
    "connections cut",
    "database slow",
    "database locked",
    "unsendable record",
    "parted from broker",
    "parted from database",
    "parted from both",
)


def faults(world: World, choice: random.Random) -> list[tuple[str, float]]:
    """Choose a series of faults, each with the pause before it in seconds."""
    kinds = [*WORKER_FAULTS, "key store away", *(SERVICE_FAULTS if world.kafka is not None else ())]
    if world.disk is not None:
        kinds.append("full disk")
    if world.backups and world.postgres is not None:
        kinds.append(RESTORE)
    return [(choice.choice(kinds), choice.uniform(0.1, 1.2)) for _ in range(choice.randint(3, 5))]


def strike(world: World, kind: str, choice: random.Random) -> str:
    """Do one fault and return what it is called in the tally."""
    workers = world.workers
    workers.reap()
    if not workers.running:
        workers.start()
    victim = choice.choice(workers.running)
    slot = workers.slot(victim)
    match kind:
        case "kill":
            workers.end(victim, signal.SIGKILL)
            workers.start()
        case "kill all":
            for process in list(workers.running):
                workers.end(process, signal.SIGKILL)
            workers.start()
            workers.start()
        case "terminate":
            workers.start()
            workers.end(victim, signal.SIGTERM)
        case "join":
            workers.start()
            if len(workers.running) > 3:
                workers.end(workers.running[0], signal.SIGKILL)
        case "leave":
            if len(workers.running) < 2:
                workers.start()
            workers.end(victim, signal.SIGTERM)
        case "freeze":
            victim.send_signal(signal.SIGSTOP)
            time.sleep(choice.uniform(0.5, 6))  # the longer ones outlast the session
            victim.send_signal(signal.SIGCONT)
        case "clock step":
            # With SQLite there is no second clock by which a worker could tell that its own is wrong.
            steps = [step for step in CLOCK_STEPS if world.postgres is not None or abs(step) < DAY]
            workers.set_clocks(choice.choice(steps), choice.choice((slot, None)))
        case "key store away":
            world.without_keys(choice.uniform(0.5, 4))
        case "full disk":
            world.disk.fill()
            time.sleep(choice.uniform(0.5, 4))
            world.disk.empty()
            if world.postgres is not None:
                world.postgres.revive()
        case "restore from backup":
            restore_backup(world, choice.uniform(0.5, 3))
        case "broker restart":
            world.kafka.restart()
        case "broker freeze":
            world.kafka.process.send_signal(signal.SIGSTOP)
            time.sleep(choice.uniform(0.5, 4))
            world.kafka.process.send_signal(signal.SIGCONT)
        case "database restart":
            world.postgres.restart()
        case "connections cut":
            world.postgres.cut_connections()
            for link in world.broker_links + world.database_links:
                link.cut()
        case "database slow":
            for link in world.database_links:
                link.slow(choice.uniform(0.02, 0.3))
        case "database locked":
            world.postgres.lock(choice.choice(("signals", "processed_events")), choice.uniform(0.5, 4))
        case "unsendable record":
            world.hold_up()
        case _:
            parted = {
                "parted from broker": (world.broker_links[slot],),
                "parted from database": (world.database_links[slot],),
                "parted from both": (world.broker_links[slot], world.database_links[slot]),
            }[kind]
            for link in parted:
                link.block()
            time.sleep(choice.uniform(0.5, 6))
            if choice.random() < 0.3:
                for link in parted:
                    link.cut()  # what was on its way is lost
            for link in parted:
                link.unblock()
    return kind


@dataclass
class Run:
    """What one run did and found."""

    seed: int
    commit: str = ""
    published: int = 0
    events: int = 0
    effects: int = 0
    letters: int = 0
    repeated_letters: int = 0
    erasures: int = 0
    came_back: int = 0  # events that an erased user left before, and that are stored in the end
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    uncommitted: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (
            self.lost or self.doubled or self.wrong or self.came_back or self.uncommitted or self.problems
        )


def publish(world: World, events: list[Sent], result: Run, seconds: float) -> None:
    """Publish the events spread over about so many seconds."""
    pieces = 20
    size = -(-len(events) // pieces)
    with KafkaProducer(
        bootstrap_servers=world.bootstrap, delivery_timeout_ms=180_000, max_block_ms=180_000
    ) as producer:
        for start in range(0, len(events), size):
            for sent in events[start : start + size]:
                record = sent.record
                producer.send(record.topic, value=record.value, key=record.key, headers=record.headers)
                result.published += 1
            time.sleep(seconds / pieces)
        producer.flush(180)


def run(world: World, seed: int, *, events_per_run: int, patience_seconds: float) -> Run:
    """Publish, do the faults, wait until everything is accounted for, and count."""
    choice = random.Random(seed)
    result = Run(seed)
    started = time.monotonic()
    events = list(load(seed, events_per_run))
    expected = {sent.name: sent for sent in events}
    world.sent.update(expected)
    while len(world.workers.running) < 2:
        world.workers.start()
    plan = faults(world, choice)
    spread = sum(pause + 1.0 for _, pause in plan)

    def publish_all() -> None:
        try:
            publish(world, events, result, spread)
        except KafkaError as error:  # the load was not made: nothing can be said, and the run is not good
            result.problems.append(f"disturbed: the publisher gave up ({type(error).__name__})")

    publishing = threading.Thread(target=publish_all)
    publishing.start()
    for kind, pause in plan:
        time.sleep(pause)
        result.faults.append(strike(world, kind, choice))
    publishing.join()
    time.sleep(choice.uniform(0, 1))
    world.heal()
    names = list(expected)
    waiting = set(names)

    def accounted() -> bool:
        world.workers.reap()
        with suppress(StorageError):  # the database may be on its way up
            fates = world.fates(list(waiting))
            waiting.difference_update(
                name for name in list(waiting) if fates.get(name, "") is None or name in world.letters.origins
            )
        return not waiting

    def committed() -> bool:
        world.workers.reap()
        with suppress(KafkaError):
            result.uncommitted = world.uncommitted()
        return result.uncommitted == 0

    result.uncommitted = -1
    try:
        wait_until(accounted, patience_seconds, "not everything was accounted for", 0.5)
        wait_until(committed, patience_seconds, "not everything was committed", 0.5)
    except TimeoutError as error:
        result.problems.append(str(error))
    erasures = [name for name in names if expected[name].kind == "erasure"]
    requests = [f"erasure-{seed}-{name.rpartition('-')[2]}" for name in erasures]
    with suppress(TimeoutError):
        wait_until(lambda: all(request in world.answers.of for request in requests), patience_seconds / 4, "")
    count(world, result, expected, requests)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def count(world: World, result: Run, expected: dict[str, Sent], requests: list[str]) -> None:
    """Fill in what became of the events of a run."""
    stepped = "clock step" in result.faults
    names = list(expected)
    fates, signals = world.fates(names), world.signals(names)
    letters = {name: world.letters.origins[name] for name in names if name in world.letters.origins}
    effects = {name for name, refused in fates.items() if refused is None}
    if RESTORE in result.faults:
        # What was refused after the backup was judged anew, perhaps otherwise: its letter had left.
        letters = {name: origins for name, origins in letters.items() if name not in effects}
    result.events, result.effects, result.letters = len(names), len(effects), len(letters)
    result.repeated_letters = sum(world.letters.copies[name] - 1 for name in letters)
    result.lost = sum(name not in effects and name not in letters for name in names)
    # Two letters of one event are one when they name the same origin.
    result.doubled = len(effects & set(letters)) + sum(len(origins) > 1 for origins in letters.values())
    for name, sent in expected.items():
        # A worker with a wrong clock may find any interaction of a known tenant too old or ahead of its time, and any
        # consent or acknowledgement ahead of it.
        mistimed = stepped and ("consent_missing" in sent.letters or sent.kind in {"consent", "ack"})
        allowed = sent.letters | (MISTIMED if mistimed else frozenset())
        if name in effects and not sent.effect:
            result.problems.append(f"{name} should have had no effect")
        if name in letters and not world.letters.reasons[name] <= allowed:
            result.problems.append(f"{name} was refused for {sorted(world.letters.reasons[name])}")
        if sent.left:
            result.came_back += name in signals
        elif (name in effects and sent.kind == "interaction") != (name in signals):
            result.problems.append(f"{name}: mark and signal disagree")
        if fates.get(name) is not None and fates[name] not in letters.get(name, ()):
            result.problems.append(f"{name}: its mark names another place than its letter")
    result.erasures = world.certificates(requests)
    answered = [request for request in requests if len(world.answers.of.get(request, ())) == 1]
    if not result.erasures == len(answered) == len(requests):
        result.problems.append(
            f"{len(requests)} erasures, {result.erasures} certificates, {len(answered)} answered once"
        )
    result.wrong = sum(not problem.startswith("disturbed") for problem in result.problems)
    del result.problems[20:]


def recount(world: World, results: list[Run]) -> list[str]:
    """Return what changed since each run was counted: nothing may."""
    changed = []
    for result in results:
        expected = {name: sent for name, sent in world.sent.items() if name.startswith(f"{result.seed}-")}
        requests = [
            f"erasure-{result.seed}-{name.rpartition('-')[2]}"
            for name, sent in expected.items()
            if sent.kind == "erasure"
        ]
        again = Run(result.seed, faults=result.faults)
        again.uncommitted = 0
        count(world, again, expected, requests)
        if result.good and (not again.good or again.effects != result.effects):
            changed.append(f"seed {result.seed}: {again}")
    return changed


def leaks(world: World) -> list[str]:
    """Return which logs of workers name a user or hold a text of an event: none may."""
    personal = (b"user-", b"stranger-", b"leaver-", b"How do I", b"Hold the button")
    return [
        f"{log.name} holds {text.decode()!r}"
        for log in sorted(world.workers.logs.glob("*.log"))
        for text in personal
        if text in log.read_bytes()
    ]


def commit_of_the_code() -> str:
    """Return which commit this is, with a plus sign where files differ from it."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "streams", "privacy", "personalization")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def summarize(paths: list[Path]) -> dict:
    """Return the document of all the runs in the files."""
    lines = [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
    runs = [line for line in lines if "seed" in line]
    late = [change for line in lines for change in line.get("changed_later", [])]
    leaked = [leak for line in lines for leak in line.get("leaks", [])]
    good = [line for line in runs if line["good"]]
    tally = Counter(fault for line in runs for fault in line["faults"])
    exits: Counter[str] = Counter()
    for line in lines:
        exits.update(line.get("worker_exits", {}))
    rows = [
        ("chaos: runs", len(runs), "runs", ">= 300", len(runs) >= 300),
        ("chaos: good runs", len(good), "runs", "all", len(good) == len(runs)),
        ("chaos: distinct seeds", len({line["seed"] for line in runs}), "seeds", ">= 300", None),
        ("chaos: events", sum(line["events"] for line in runs), "events", None, None),
        *(
            (f"chaos: {name}", sum(line.get(name, 0) for line in runs), "events", "0", None)
            for name in ("lost", "doubled", "wrong", "uncommitted", "came_back")
        ),
        ("chaos: fates that changed after their run", len(late), "runs", "0", not late),
        ("chaos: logs of workers that name a user or hold a text", len(leaked), "logs", "0", not leaked),
        *((f"chaos fault: {name}", number, "times", None, None) for name, number in sorted(tally.items())),
        *((f"chaos worker {name}", number, "times", None, None) for name, number in sorted(exits.items())),
    ]
    return {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "settings": {
            "commits": sorted({line["commit"] for line in runs}),
            "seeds": sorted({line["seed"] for line in runs}),
            "broker": sorted({line.get("broker", "") for line in runs}),
        },
        "rows": [
            {
                "name": name,
                "value": value,
                "unit": unit,
                "must": must,
                "ok": value == 0 if must == "0" and ok is None else ok,
            }
            for name, value, unit, must, ok in rows
        ],
        "bad": [line for line in runs if not line["good"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka-libs", type=Path, help="directory of Apache Kafka's jars")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run")
    parser.add_argument("--events", type=int, default=500, help="interactions in one run")
    parser.add_argument("--minutes", type=float, default=600.0, help="start no run after this long")
    parser.add_argument(
        "--fork", action="store_true", help="fork workers from one that has imported the code"
    )
    parser.add_argument("--backups", action="store_true", help="also put backups of the database back")
    parser.add_argument("--append", type=Path, help="add one line for each run to this file")
    parser.add_argument("--summary", type=Path, nargs="+", help="only sum up what such files hold")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.summary:
        document = summarize(options.summary)
        (options.json or Path("/dev/stdout")).write_text(json.dumps(document, indent=1) + "\n")
        return 0 if not document["bad"] and all(row["ok"] is not False for row in document["rows"]) else 1
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.chmod(0o755)
    append = options.append or directory / "runs.jsonl"
    started = time.monotonic()
    commit = commit_of_the_code()
    results: list[Run] = []

    def add(facts: dict) -> None:
        with append.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(facts) + "\n")

    world = World(directory, options.kafka_libs, forked=options.fork, own_disk=True)
    world.backups = options.backups
    try:
        for seed in range(options.seed, options.seed + options.runs):
            if time.monotonic() - started > options.minutes * 60:
                break
            result = run(world, seed, events_per_run=options.events, patience_seconds=180)
            result.commit = commit
            if (
                now := commit_of_the_code()
            ) != commit:  # new workers run other code, and may want another schema
                result.problems.append(f"disturbed: the code is {now} now; let nobody change it meanwhile")
            results.append(result)
            broker = "Apache Kafka" if options.kafka_libs else "embedded"
            add({**asdict(result), "good": result.good, "broker": broker})
            print("ok  " if result.good else "BAD ", json.dumps(asdict(result)), flush=True)
            if not result.good:
                break  # what it left behind must not be blamed on the next
        changed = recount(world, results)
        leaked = leaks(world)
        add({"changed_later": changed, "leaks": leaked, "worker_exits": world.workers.exits})
    finally:
        world.close()
    fine = all(result.good for result in results) and not changed and not leaked
    print(
        f"{sum(result.good for result in results)} of {len(results)} runs good; {dict(world.workers.exits)}"
    )
    if options.json:
        options.json.write_text(json.dumps(summarize([append]), indent=1) + "\n")
    if fine and options.append is not None:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"logs are kept in {directory}", *changed, *leaked, sep="\n")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
