"""Events per CPU-second from Kafka to stored signals, against bare loops on the same broker and database.

    python tests/benchmarks/ingest.py --json ingest.json                      embedded broker, SQLite
    python tests/benchmarks/ingest.py --kafka-libs DIR --json ingest.json     Apache Kafka (jars in DIR)

Contenders, each in a process of its own that reads the same preloaded events once:

- ``ours``: the worker's whole path: decode, validate, deduplicate, consent, bound, redact, encrypt, store, commit;
- ``ours-plain``: the same without redaction and encryption;
- ``faust-json``: (a) a bare Faust agent that only decodes JSON;
- ``aiokafka-rows``: (b) a bare aiokafka loop that decodes JSON and inserts the same rows in batches;
- ``quix-rows``: (c) Quix Streams decoding JSON and inserting the same rows in batches.

CPU is that of the contender's process (SQLite included), from its first events to its last commit. Ratios are of
events per CPU-second within one run of this script; wall times on a shared machine say little.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer

from privacy.consent import Consent
from privacy.keyring import Keyring, new_master_key
from privacy.pseudonyms import pseudonym
from privacy.redaction import redact_texts
from privacy.services import consents, policies
from privacy.services.consents import ConsentStatement
from privacy.storage.session import open_engine, transaction
from privacy.storage.subjects import Subject
from streams import database
from streams.agents.intake import Intake
from streams.agents.interactions import InteractionHandler
from streams.app import make_app
from streams.contracts.codec import encode
from streams.contracts.envelope import new_envelope
from streams.contracts.interaction import Accepted, InteractionV1
from streams.contracts.topics import INTERACTION_RECORDED, INTERACTIONS
from streams.dead_letters import DeadLetterSink
from streams.embedded_broker import EmbeddedBroker
from streams.settings import BrokerSettings, IngestSettings
from streams.tenants import TenantPolicies
from streams.worker import COLLECTOR_THRESHOLDS
from tests.benchmarks.chaos import Kafka
from tests.fakes.stream_records import FakeSender

PARTITIONS = 4
BATCH = 1000
CONTENDERS = ("ours", "ours-plain", "faust-json", "aiokafka-rows", "quix-rows")
TOPIC = INTERACTIONS.name
ROWS = (
    "INSERT INTO processed_events (event_digest, processed_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
    (
        "INSERT INTO signals (event_digest, tenant_id, pseudonym, domain, period_index, rank, occurred_at, ciphertext) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    ),
)


class Window:
    """CPU and wall time from the first events seen to the last."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self._first: tuple[int, float, float] | None = None
        self._last = (0.0, 0.0)

    def add(self, events: int) -> None:
        self.count += events
        if self._first is None:
            gc.collect()
            gc.freeze()  # as the worker does, for every contender
            gc.set_threshold(*COLLECTOR_THRESHOLDS)
            self._first = (self.count, time.process_time(), time.perf_counter())
        self._last = (time.process_time(), time.perf_counter())

    @property
    def done(self) -> bool:
        return self.count >= self.total

    def result(self) -> dict[str, float]:
        first, cpu, wall = self._first or (0, 0.0, 0.0)
        # What happens after the last batch (commit of the offset) belongs to it.
        cpu_seconds, wall_seconds = time.process_time() - cpu, self._last[1] - wall
        events = self.count - first
        return {
            "events": events,
            "cpu_seconds": cpu_seconds,
            "events_per_cpu_second": events / cpu_seconds,
            "events_per_second": events / wall_seconds,
        }


class NoKeyring:
    """The keyring's part in ``ours-plain``: pseudonyms as ever, text as it is."""

    def __init__(self, keyring: Keyring) -> None:
        self.tenant_keys = keyring.tenant_keys

    def encrypt_many(self, _session, items, *, now):
        del now
        return [plaintext for _, _, plaintext in items]


def made_events(count: int, tenants: int, users: int):
    """Yield records: realistic prompts of about 200 characters, users and tenants drawn evenly."""
    choice = random.Random(1)
    words = [f"word{number:03d}" for number in range(400)]
    now = datetime.now(UTC)
    for number in range(count):
        user = choice.randrange(users)
        data = InteractionV1(
            tenant_id=f"tenant-{user % tenants}",
            user_id=f"user-{user}",
            interaction_id=f"i{number}",
            prompt=" ".join(choice.choices(words, k=24)),
            completion=" ".join(choice.choices(words, k=12)),
            outcome=Accepted(),
            notice_version="2026-01",
            occurred_at=now - timedelta(seconds=choice.randrange(3600)),
        )
        envelope = new_envelope(
            event_id=f"i{number}", source="urn:bench", event_type=INTERACTION_RECORDED, time=now
        )
        yield encode(data, envelope)


def prepare_database(path: Path, key: str, tenants: int, users: int) -> str:
    url = f"sqlite:///{path}"
    database.upgrade(url)
    engine, keyring, now = open_engine(url), Keyring(key), datetime.now(UTC)
    with transaction(engine) as session:
        keys = {}
        for number in range(tenants):
            name = f"tenant-{number}"
            policies.register_tenant(session, name, actor="bench", now=now)
            changes = {"declared_users": 1000, "contribution_bound": 1000}
            policies.set_policy(session, name, changes, actor="bench", reason="bench", now=now)
            keys[name] = keyring.tenant_keys(session, name, now=now).pseudonym_key
        said = Consent(granted=True, notice_version="2026-01", occurred_at=now - timedelta(days=1))
        statements = []
        for user in range(users):
            name = f"tenant-{user % tenants}"
            subject = Subject(name, pseudonym(keys[name], name, f"user-{user}"))
            statements.append(ConsentStatement(subject=subject, purpose="training", consent=said))
        consents.record(session, statements, now=now)
    engine.dispose()
    return url


def run_ours(
    bootstrap: str, url: str, key: str, total: int, *, plain: bool, on_batch=None
) -> dict[str, float]:
    engine, keyring = open_engine(url), Keyring(key)
    handler = InteractionHandler(
        engine=engine,
        letters=DeadLetterSink(FakeSender(), "bench"),
        clock=lambda: datetime.now(UTC),
        keyring=NoKeyring(keyring) if plain else keyring,
        policies=TenantPolicies(2.0),
        redact=(lambda texts: texts) if plain else redact_texts,
        max_event_bytes=65_536,
    )
    window = Window(total)

    class Observer:
        def batch_done(self, _topic, works, outcome, _seconds):
            assert outcome.effects == len(works), outcome
            window.add(len(works))
            if on_batch is not None:
                on_batch(works)

        def retrying(self, _topic):
            raise AssertionError("nothing should fail here")

    async def main() -> dict[str, float]:
        settings = BrokerSettings(
            bootstrap=bootstrap,
            embedded=True,
            group="plain" if plain else "ours",
            commit_interval_seconds=0.5,
        )
        intake = Intake(TOPIC, handler, IngestSettings(batch_events=BATCH), Observer())
        app = make_app(settings, {TOPIC: intake}, max_poll_records=BATCH)
        loop = asyncio.create_task(intake.run())
        await app.start()
        while not window.done:
            await asyncio.sleep(0.02)
        await app.run_consumer.commit()
        result = window.result()
        await app.stop()
        loop.cancel()
        return result

    return asyncio.run(main())


def run_faust(bootstrap: str, total: int) -> dict[str, float]:
    import faust

    window = Window(total)

    async def main() -> dict[str, float]:
        app = faust.App(
            "bare-faust",
            broker=f"kafka://{bootstrap}",
            broker_session_timeout=6.0,
            broker_heartbeat_interval=1.0,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            store="memory://",
        )

        @app.agent(app.topic(TOPIC, value_type=bytes, value_serializer="raw"))
        async def work(stream):
            seen = 0
            async for value in stream:
                json.loads(value)
                seen += 1
                if seen == BATCH:
                    window.add(seen)
                    seen = 0
                elif window.count + seen >= total:
                    window.add(seen)

        await app.start()
        while not window.done:
            await asyncio.sleep(0.02)
        await app.consumer.commit()
        result = window.result()
        await app.stop()
        return result

    return asyncio.run(main())


def rows_of(value: bytes, headers) -> tuple[tuple, tuple]:
    """Return the two rows that our path writes for an event, computed in the cheapest way."""
    data = json.loads(value)
    found = dict(headers)
    digest = hashlib.sha256(found["ce_source"] + found["ce_id"]).digest()
    text = json.dumps([data["prompt"], data["completion"], data["outcome"]]).encode()
    return (digest, data["occurred_at"]), (
        digest,
        data["tenant_id"],
        data["user_id"],
        "default",
        0,
        digest,
        data["occurred_at"],
        text,
    )


def sqlite_of(url: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def insert_rows(connection: sqlite3.Connection, rows: list[tuple[tuple, tuple]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement, part in zip(ROWS, zip(*rows, strict=True), strict=True):
        connection.executemany(statement, part)
    connection.execute("COMMIT")


def run_aiokafka(bootstrap: str, url: str, total: int) -> dict[str, float]:
    from aiokafka import AIOKafkaConsumer

    window = Window(total)
    connection = sqlite_of(url)

    async def main() -> dict[str, float]:
        consumer = AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=bootstrap,
            group_id="bare-aiokafka",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=6000,
        )
        await consumer.start()
        committed = time.monotonic()
        while not window.done:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            rows = [
                rows_of(record.value, record.headers) for records in fetched.values() for record in records
            ]
            if rows:
                await asyncio.to_thread(insert_rows, connection, rows)
                window.add(len(rows))
            if time.monotonic() - committed > 0.5:
                await consumer.commit()
                committed = time.monotonic()
        await consumer.commit()
        result = window.result()
        await consumer.stop()
        return result

    return asyncio.run(main())


def run_quix(bootstrap: str, url: str, total: int) -> dict[str, float]:
    from quixstreams import Application
    from quixstreams.sinks import BatchingSink

    window = Window(total)
    connection = sqlite_of(url)
    stop = []

    class Rows(BatchingSink):
        def write(self, batch):
            insert_rows(connection, [rows_of(item.value, item.headers) for item in batch])
            window.add(batch.size)
            if window.done:
                stop[0]()

    app = Application(
        broker_address=bootstrap,
        consumer_group="quix",
        auto_offset_reset="earliest",
        commit_every=BATCH,
        auto_create_topics=False,
        consumer_extra_config={"session.timeout.ms": 6000},
        loglevel="ERROR",
    )
    stop.append(app.stop)
    frame = app.dataframe(app.topic(TOPIC, value_deserializer="bytes", key_deserializer="bytes"))
    frame.sink(Rows())
    app.run()
    return window.result()


def one_contender(options: argparse.Namespace) -> dict[str, float]:
    match options.contender:
        case "ours" | "ours-plain" as name:
            plain = name == "ours-plain"
            return run_ours(options.bootstrap, options.url, options.key, options.events, plain=plain)
        case "faust-json":
            return run_faust(options.bootstrap, options.events)
        case "aiokafka-rows":
            return run_aiokafka(options.bootstrap, options.url, options.events)
        case "quix-rows":
            return run_quix(options.bootstrap, options.url, options.events)
    raise SystemExit(f"no such contender: {options.contender}")


def measured(
    name: str, bootstrap: str, directory: Path, key: str, options: argparse.Namespace
) -> dict[str, float]:
    path = directory / f"{name}.sqlite3"
    for old in directory.glob(f"{name}.sqlite3*"):
        old.unlink()
    url = prepare_database(path, key, options.tenants, options.users)
    command = [sys.executable, "-W", "ignore", __file__, "--contender", name, "--bootstrap", bootstrap]
    command += ["--url", url, "--key", key, "--events", str(options.events)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{name} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka-libs", type=Path)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3, help="the median is reported")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--json", type=Path)
    for name in ("contender", "bootstrap", "url", "key"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(one_contender(options)))
        return
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.kafka_libs:
            kafka = Kafka(options.kafka_libs, directory / "kafka")
            stack.callback(kafka.stop)
        results: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
        key = new_master_key()
        for _ in range(options.repeats):
            for name in options.only:
                if options.kafka_libs:
                    bootstrap, stop = kafka.bootstrap, None
                else:
                    stop = EmbeddedBroker()
                    bootstrap = stop.start()
                fill(bootstrap, options)
                results[name].append(measured(name, bootstrap, directory, key, options))
                if stop is not None:
                    stop.stop()
    report(results, options)


def fill(bootstrap: str, options: argparse.Namespace) -> None:
    """Make the topic anew and write the events to it."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    if options.kafka_libs and TOPIC in admin.list_topics():
        admin.delete_topics([TOPIC])
        time.sleep(2)
    admin.create_topics({TOPIC: {"num_partitions": PARTITIONS, "replication_factor": 1}})
    admin.close()
    with KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=131_072) as producer:
        for record in made_events(options.events, options.tenants, options.users):
            producer.send(record.topic, value=record.value, key=record.key, headers=record.headers)


def report(results: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    speed = {
        name: statistics.median(result["events_per_cpu_second"] for result in repeats)
        for name, repeats in results.items()
    }
    ratios = {
        f"{ours} / {peer}": speed[ours] / speed[peer]
        for ours in ("ours", "ours-plain")
        for peer in ("faust-json", "aiokafka-rows", "quix-rows")
        if ours in speed and peer in speed
    }
    document = {
        "broker": "Apache Kafka" if options.kafka_libs else "embedded",
        "database": "SQLite",
        "events": options.events,
        "tenants": options.tenants,
        "users": options.users,
        "cpus": os.cpu_count(),
        "events_per_cpu_second": speed,
        "ratios": ratios,
        "runs": results,
    }
    for name, value in speed.items():
        print(f"{name:<14} {value:>9.0f} events per CPU-second")
    for name, value in ratios.items():
        print(f"{name:<28} {value:.2f}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
