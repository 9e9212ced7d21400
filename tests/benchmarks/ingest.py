"""Events per CPU-second from Kafka to stored signals, against bare loops on the same broker and database.

    python tests/benchmarks/ingest.py --json ingest.json                      embedded broker, SQLite
    python tests/benchmarks/ingest.py --kafka-libs DIR --json ingest.json     Apache Kafka (jars in DIR)
    … --postgres URL                                                          PostgreSQL, a new database for each run

Contenders, each in a process of its own that reads the same preloaded events once:

- ``ours``: the worker's whole path: decode, validate, deduplicate, consent, bound, redact, encrypt, store, commit;
- ``ours-plain``: the same without redaction and encryption;
- ``faust-json``: (a) a bare Faust agent that only decodes JSON;
- ``aiokafka-rows``: (b) a bare aiokafka loop that decodes JSON and inserts the same rows in batches;
- ``quix-rows``: (c) Quix Streams decoding JSON and inserting the same rows in batches.

CPU is that of the contender's process (SQLite included, a PostgreSQL server not), from its first events to its last
commit. Ratios are of events per CPU-second within one run of this script; wall times on a shared machine say little.

The peers are tuned: orjson, the worker's settings of SQLite and of the garbage collector, as many events in a
transaction, prepared statements (PostgreSQL: COPY). They write rows of the same widths into the same tables with the
same durability; what ours computes by keyed hashes and encryption they fill in the cheapest way.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import os
import platform
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import orjson
from kafka import KafkaAdminClient, KafkaProducer

from privacy.consent import statements as consents
from privacy.consent.admission import Consent
from privacy.consent.statements import ConsentStatement
from privacy.keys.keyring import Keyring
from privacy.keys.pseudonyms import pseudonym
from privacy.keys.service import new_master_key
from privacy.policy import versions as policies
from privacy.policy.cache import TenantPolicies
from privacy.redaction import redact_texts
from privacy.storage.session import SQLITE_PRAGMAS, open_engine, transaction
from privacy.storage.subjects import Subject
from streams.broker.app import make_app
from streams.broker.embedded import EmbeddedBroker
from streams.contracts.codec import encode
from streams.contracts.envelope import new_envelope
from streams.contracts.interaction import Accepted, InteractionV1
from streams.contracts.topics import INTERACTION_RECORDED, INTERACTIONS
from streams.ingest.intake import Intake
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.processes.worker import COLLECTOR_THRESHOLDS
from streams.settings import BrokerSettings, IngestSettings
from streams.storage import schema as database
from tests.benchmarks.ledger import Postgres
from tests.fakes.keys import keyring_of
from tests.fakes.services import Kafka
from tests.fakes.stream_records import FakeSender

PARTITIONS = 4
BATCH = IngestSettings().batch_events
IDLE_SECONDS = 15.0
SEAL_BYTES = 29  # version, nonce and tag around a sealed text
MUSTS = {  # of the path without redaction and encryption, and of everything
    "ours-plain": {"faust-json": 0.8, "aiokafka-rows": 0.5, "quix-rows": 1.0},
    "ours": {"faust-json": 0.5},
}
CONTENDERS = ("ours", "ours-plain", "faust-json", "aiokafka-rows", "quix-rows")
TOPIC = INTERACTIONS.name
ROWS = (
    "INSERT INTO processed_events (event_digest, processed_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
    (
        "INSERT INTO signals (event_digest, tenant_id, pseudonym, domain, period_index, rank, occurred_at, ciphertext) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    ),
)


COPIES = (
    "COPY processed_events (event_digest, processed_at) FROM STDIN",
    "COPY signals (event_digest, tenant_id, pseudonym, domain, period_index, rank, occurred_at, ciphertext) FROM STDIN",
)


class Window:
    """CPU and wall time from the first events seen to the last."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self._first: tuple[int, float, float] | None = None
        self._last = (0.0, 0.0)
        self._made = time.perf_counter()
        self.marks: list[tuple[float, int]] = []  # when, and how many until then

    def add(self, events: int) -> None:
        self.count += events
        if self._first is None:
            gc.collect()
            gc.freeze()  # as the worker does, for every contender
            gc.set_threshold(*COLLECTOR_THRESHOLDS)
            self._first = (self.count, time.process_time(), time.perf_counter())
        self._last = (time.process_time(), time.perf_counter())
        self.marks.append((self._last[1], self.count))

    @property
    def done(self) -> bool:
        return self.count >= self.total or self.idle

    @property
    def idle(self) -> bool:
        """Whether nothing came for so long that another worker must have taken the rest."""
        since, patience = (self._last[1], IDLE_SECONDS) if self.count else (self._made, 4 * IDLE_SECONDS)
        return time.perf_counter() - since > patience

    def result(self) -> dict[str, float]:
        if self._first is None:
            raise RuntimeError("not a single event came")
        first, cpu, wall = self._first
        # What happens after the last batch (commit of the offset) belongs to it.
        cpu_seconds, wall_seconds = time.process_time() - cpu, self._last[1] - wall
        events = self.count - first
        return {
            "events": events,
            "cpu_seconds": cpu_seconds,
            "events_per_cpu_second": events / cpu_seconds,
            "events_per_second": events / wall_seconds,
            "marks": self.marks,
        }


class NoKeyring:
    """The keyring's part in ``ours-plain``: pseudonyms as ever, text as it is."""

    def __init__(self, keyring: Keyring) -> None:
        self.keys_of_tenants = keyring.keys_of_tenants

    def encrypt_many(self, _session, items, *, of=None, now):
        del of, now
        return [item.value for item in items]

    def destroyed_among(self, _session, _subjects):
        return frozenset()


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


def prepare_database(place: Path | str, key: str, tenants: int, users: int) -> str:
    """Make the tables, tenants and consents in a new SQLite file or an empty database; return its URL."""
    url = place if isinstance(place, str) else f"sqlite:///{place}"
    database.upgrade(url)
    engine, now = open_engine(url), datetime.now(UTC)
    keyring = keyring_of(engine, key)
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
    engine = open_engine(url)
    keyring = keyring_of(engine, key)
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
            datadir=tempfile.mkdtemp(prefix="bare-faust-"),
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
                orjson.loads(value)
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


def rows_of(value: bytes, headers, now: str) -> tuple[tuple, tuple]:
    """Return two rows like those that our path writes for an event, computed in the cheapest way."""
    data = orjson.loads(value)
    found = dict(headers)
    digest = hashlib.sha256(found["ce_source"] + found["ce_id"]).digest()
    text = orjson.dumps([data["prompt"], data["completion"], data["outcome"]])
    return (digest, now), (
        digest,
        data["tenant_id"],
        hashlib.sha256(data["user_id"].encode()).hexdigest(),
        "default",
        0,
        digest,
        data["occurred_at"][:26].replace("T", " "),
        text + bytes(SEAL_BYTES),
    )


def now_text() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def connection_of(url: str):
    if not url.startswith("sqlite"):
        import psycopg

        return psycopg.connect(url.replace("+psycopg", ""))
    connection = sqlite3.connect(
        url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    for pragma in ("journal_mode=WAL", *SQLITE_PRAGMAS):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def insert_rows(connection, rows: list[tuple[tuple, tuple]]) -> None:
    if not isinstance(connection, sqlite3.Connection):
        with connection.transaction(), connection.cursor() as cursor:
            for statement, part in zip(COPIES, zip(*rows, strict=True), strict=True):
                with cursor.copy(statement) as copy:
                    for row in part:
                        copy.write_row(row)
        return
    connection.execute("BEGIN IMMEDIATE")
    for statement, part in zip(ROWS, zip(*rows, strict=True), strict=True):
        connection.executemany(statement, part)
    connection.execute("COMMIT")


def run_aiokafka(bootstrap: str, url: str, total: int) -> dict[str, float]:
    from aiokafka import AIOKafkaConsumer

    window = Window(total)
    connection = connection_of(url)

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
            now = now_text()
            rows = [
                rows_of(record.value, record.headers, now)
                for records in fetched.values()
                for record in records
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
    from quixstreams.sinks import BaseSink

    window = Window(total)
    connection = connection_of(url)
    stop = []

    class Rows(BaseSink):
        """Keeps what comes and writes all of it, whichever partition it is of, in one transaction per checkpoint."""

        def __init__(self):
            super().__init__()
            self.events = []

        def add(self, value, key, timestamp, headers, topic, partition, offset):
            self.events.append((value, headers))

        def flush(self):
            if not self.events:
                return
            now = now_text()
            insert_rows(connection, [rows_of(value, headers, now) for value, headers in self.events])
            window.add(len(self.events))
            self.events = []
            if window.done:
                stop[0]()

    app = Application(
        broker_address=bootstrap,
        consumer_group="quix",
        auto_offset_reset="earliest",
        commit_every=BATCH,
        auto_create_topics=False,
        # By default librdkafka fetches up to 100,000 events ahead, that is all of them before the first is counted.
        consumer_extra_config={"session.timeout.ms": 6000, "queued.min.messages": BATCH},
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


@contextmanager
def fresh_place(name: str, directory: Path, postgres: str | None):
    """Yield a path for a SQLite file, or the URL of an empty database that is dropped afterwards."""
    if postgres is None:
        for old in directory.glob(f"{name}.sqlite3*"):
            old.unlink()
        yield directory / f"{name}.sqlite3"
        return
    server = Postgres(postgres)
    made, url = server.create()
    yield url
    server.drop(made)


def started(name: str, bootstrap: str, url: str, key: str, events: int) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", __file__, "--contender", name, "--bootstrap", bootstrap]
    command += ["--url", url, "--key", key, "--events", str(events)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(name: str, process: subprocess.Popen) -> dict[str, float]:
    output, errors = process.communicate(timeout=900)
    if process.returncode != 0:
        raise SystemExit(f"{name} failed:\n{errors[-2000:]}")
    return json.loads(output.strip().splitlines()[-1])


def measured(
    name: str, bootstrap: str, directory: Path, key: str, options: argparse.Namespace
) -> dict[str, float]:
    with fresh_place(name, directory, options.postgres) as place:
        url = prepare_database(place, key, options.tenants, options.users)
        return result_of(name, started(name, bootstrap, url, key, options.events))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka-libs", type=Path)
    parser.add_argument("--postgres", help="SQLAlchemy URL of a server where databases may be made")
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3, help="the median is reported")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--json", type=Path)
    for name in ("contender", "bootstrap", "url", "key"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.postgres:
        options.only = [name for name in options.only if name != "quix-rows"]
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
                print(f"{name}: {results[name][-1]['events_per_cpu_second']:.0f} a CPU-second", flush=True)
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
    rows = [
        {
            "name": f"{name}: events per CPU-second",
            "value": round(value),
            "unit": "1/s",
            "must": None,
            "ok": None,
        }
        for name, value in speed.items()
    ]
    rows += [
        ratio(f"{ours} ÷ {peer}, events per CPU-second", speed[ours] / speed[peer], MUSTS[ours].get(peer))
        for ours in ("ours", "ours-plain")
        for peer in ("faust-json", "aiokafka-rows", "quix-rows")
        if ours in speed and peer in speed
    ]
    settings = {
        "broker": "Apache Kafka" if options.kafka_libs else "embedded",
        "database": "PostgreSQL" if options.postgres else "SQLite",
        "batch_events": BATCH,
        "partitions": PARTITIONS,
        **{name: getattr(options, name) for name in ("events", "tenants", "users", "repeats")},
        "runs": [
            {"contender": name, **{part: value for part, value in run.items() if part != "marks"}}
            for name, runs in results.items()
            for run in runs
        ],
    }
    write(options.json, settings, rows)


def ratio(name: str, value: float, least: float | None) -> dict:
    must = None if least is None else f">= {least}"
    return {
        "name": name,
        "value": round(value, 3),
        "unit": "ratio",
        "must": must,
        "ok": None if least is None else value >= least,
    }


def write(path: Path | None, settings: dict, rows: list[dict]) -> None:
    """Show the rows, and write the whole document when a path is given."""
    machine = {
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }
    for row in rows:
        met = {None: "", True: f"   (must be {row['must']})", False: f"   MISSED (must be {row['must']})"}[
            row["ok"]
        ]
        print(f"{row['name']:<56} {row['value']:>10} {row['unit']}{met}", flush=True)
    if path:
        path.write_text(
            json.dumps({"machine": machine, "settings": settings, "rows": rows}, indent=1, ensure_ascii=False)
        )


if __name__ == "__main__":
    main()
