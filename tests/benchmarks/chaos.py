"""Kill, stop, freeze and restart random parts under load, then count: every event has one effect or one dead letter.

    python tests/benchmarks/chaos.py --kafka-libs DIR --runs 200 --seed 1 --json chaos.json

starts its own Apache Kafka (jars in DIR, see ``.ci/services.sh``) and PostgreSQL, real worker processes, and real
signals. One run publishes a seeded mix of events (good, repeated, malformed, of unknown tenants, of users who never
consent), does a seeded series of faults meanwhile, waits until everything is accounted for, and checks it by counting.
Without ``--kafka-libs`` it runs on the embedded broker and SQLite, whose parts are not restarted.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from sqlalchemy import create_engine, text

from privacy.keyring import new_master_key
from privacy.services import policies
from privacy.storage.session import open_engine, transaction
from streams import database
from streams.contracts.codec import encode
from streams.contracts.consent import ConsentV1, Purpose
from streams.contracts.dead_letter import DeadLetter
from streams.contracts.envelope import new_envelope
from streams.contracts.interaction import Accepted, InteractionV1
from streams.contracts.topics import CONSENT_GRANTED, DEAD_LETTERS, INTERACTION_RECORDED, TOPICS
from streams.embedded_broker import EmbeddedBroker, answers

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "urn:chaos"
PARTITIONS = 4
KAFKA_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={directory}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=8000000
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Kafka:
    """One Apache Kafka broker (KRaft) that can be killed and started again on its data."""

    def __init__(self, libs: Path, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._port = free_port()
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._java = ["java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        self._java += [f"-Dkafka.logs.dir={directory}", "-cp", f"{libs}/*"]
        self._config = directory / "server.properties"
        properties = KAFKA_PROPERTIES.format(controller=free_port(), port=self._port, directory=directory)
        self._config.write_text(properties)
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(self._config)]
        subprocess.run([*self._java, *tool], check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        command = [*self._java, "kafka.Kafka", str(self._config)]
        with (self._directory / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: answers("127.0.0.1", self._port), 120, "Kafka did not start")

    def restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Postgres:
    """One PostgreSQL cluster that can be restarted, and whose connections can be cut."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        self._bin = binaries[-1] if binaries else Path(shutil.which("initdb") or "").parent
        self._port = free_port()
        if os.getuid() == 0:
            shutil.chown(directory, "postgres")
            for parent in directory.parents:
                if parent == Path(tempfile.gettempdir()):
                    break
                parent.chmod(0o755)
        self._run("initdb", "-D", f"{directory}/data", "-U", "discreet", "-A", "trust", "--no-sync")
        self._control("start")
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "discreet", "discreet")
        self.url = f"postgresql+psycopg://discreet@127.0.0.1:{self._port}/discreet"

    def _run(self, tool: str, *arguments: str) -> None:
        command = [str(self._bin / tool), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _control(self, verb: str, *extra: str) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self._port} -k {self._directory} -c max_connections=100"
        self._run(
            "pg_ctl",
            "-D",
            f"{self._directory}/data",
            "-l",
            f"{self._directory}/log",
            "-w",
            "-o",
            options,
            verb,
            *extra,
        )

    def restart(self) -> None:
        self._control("restart", "-m", "immediate")

    def cut_connections(self) -> None:
        engine = create_engine(self.url)
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            )
        engine.dispose()

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", f"{self._directory}/data", "-m", "immediate", "stop")


def wait_until(done, seconds: float, problem: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(problem)
        time.sleep(0.1)


class Workers:
    """Real worker processes."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._number = 0
        self.running: list[subprocess.Popen] = []
        self.exits: Counter[str] = Counter()

    def start(self) -> None:
        self._number += 1
        command = [sys.executable, "-m", "streams.cli.main", "worker"]
        with (self._logs / f"worker-{self._number}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        self.running.append(process)

    def reap(self) -> None:
        """Start again what ended by itself, as a supervisor would."""
        for process in list(self.running):
            if process.poll() is not None:
                self.exits[f"ended with {process.returncode}"] += 1
                self.running.remove(process)
                self.start()

    def end(self, process: subprocess.Popen, number: signal.Signals) -> None:
        self.running.remove(process)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        if number is signal.SIGTERM:
            try:
                status = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                status = "timeout"
            self.exits[f"asked to stop: {status}"] += 1
        process.wait()

    def stop(self) -> None:
        for process in list(self.running):
            process.kill()
            process.wait()


@dataclass
class Run:
    """What one run did and found."""

    seed: int
    published: int = 0
    acceptable: int = 0
    effects: int = 0
    letters: int = 0
    repeated_letters: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    late_consents: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.lost == self.doubled == self.wrong == 0


class World:
    """Broker, database and workers, and what was published so far."""

    def __init__(self, directory: Path, kafka_libs: Path | None) -> None:
        self.kafka = Kafka(kafka_libs, directory / "kafka") if kafka_libs else None
        self.postgres = Postgres(directory / "postgres") if kafka_libs else None
        self._embedded = None if kafka_libs else EmbeddedBroker()
        self.bootstrap = self.kafka.bootstrap if self.kafka else self._embedded.start()
        self.url = self.postgres.url if self.postgres else f"sqlite:///{directory / 'chaos.sqlite3'}"
        database.upgrade(self.url)
        self.engine = open_engine(self.url)
        now = datetime.now(UTC)
        with transaction(self.engine) as session:
            policies.register_tenant(session, "acme", actor="chaos", now=now)
            changes = {"declared_users": 1000, "contribution_bound": 1000}
            policies.set_policy(session, "acme", changes, actor="chaos", reason="chaos", now=now)
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_topics(
            {topic.name: {"num_partitions": PARTITIONS, "replication_factor": 1} for topic in TOPICS}
        )
        admin.close()
        logs = directory / "logs"
        logs.mkdir()
        self.workers = Workers(self._environment(directory), logs)
        self.letters = Letters(self.bootstrap)

    def _environment(self, directory: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISCREET_")}
        return {
            **kept,
            "DISCREET_STATE": str(directory),
            "DISCREET_MASTER_KEY": new_master_key(),
            "DISCREET_DATABASE__URL": self.url,
            "DISCREET_BROKER__BOOTSTRAP": self.bootstrap,
            "DISCREET_BROKER__EMBEDDED": "false" if self.kafka else "true",
            "DISCREET_BROKER__SESSION_TIMEOUT_SECONDS": "4",
            "DISCREET_BROKER__HEARTBEAT_SECONDS": "0.7",
            "DISCREET_BROKER__REBALANCE_TIMEOUT_SECONDS": "10",
            "DISCREET_INGEST__CONSENT_WAIT_SECONDS": "4",
            "DISCREET_INGEST__BATCH_EVENTS": "200",
            "DISCREET_INGEST__POISON_SHARE": "2",
            "DISCREET_INGEST__RETRY_MAX_SECONDS": "1",
            "DISCREET_HTTP__PORT": "0",
        }

    def close(self) -> None:
        self.workers.stop()
        self.letters.close()
        self.engine.dispose()
        for part in (self.kafka, self.postgres, self._embedded):
            if part is not None:
                part.stop()


class Letters:
    """Reads the dead-letter topic in the background: which event ids, from which origins."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self.origins: dict[str, set[tuple[int, int]]] = {}
        self.copies: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        positions = dict.fromkeys(range(PARTITIONS), 0)
        while not self._stop.is_set():
            consumer = None
            try:
                consumer = KafkaConsumer(bootstrap_servers=self._bootstrap, bootstrap_timeout_ms=3000)
                consumer.assign([TopicPartition(DEAD_LETTERS.name, number) for number in positions])
                for number, offset in positions.items():
                    consumer.seek(TopicPartition(DEAD_LETTERS.name, number), offset)
                while not self._stop.is_set():
                    for records in consumer.poll(300).values():
                        for record in records:
                            self._note(record)
                            positions[record.partition] = record.offset + 1
            except KafkaError:
                time.sleep(0.3)
            finally:
                if consumer is not None:
                    consumer.close()

    def _note(self, record) -> None:
        headers = dict(record.headers)
        letter = DeadLetter.from_headers(record.headers)
        name = headers.get("chaos_id", b"").decode()
        self.origins.setdefault(name, set()).add((letter.partition, letter.offset))
        self.copies[name] += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


def consents(seed: int, users: list[str]):
    now = datetime.now(UTC)
    for user in users:
        data = ConsentV1(
            tenant_id="acme", user_id=user, purpose=Purpose.TRAINING, notice_version="1", occurred_at=now
        )
        envelope = new_envelope(
            event_id=f"{seed}-consent-{user}", source=SOURCE, event_type=CONSENT_GRANTED, time=now
        )
        yield encode(data, envelope)


def events(seed: int, count: int, choice: random.Random):
    """Yield (name, accepted, record); a repeated event comes under the same name."""
    now = datetime.now(UTC)
    for number in range(count):
        name = f"{seed}-{number}"
        # Only every third run has users who never consent: each of their events waits for its whole time.
        kind = choice.choices(("good", "malformed", "tenant", "consent"), (90, 4, 3, 3 * (seed % 3 == 0)))[0]
        user = f"user-{seed}-{choice.randrange(50)}" if kind != "consent" else f"stranger-{seed}-{number}"
        data = InteractionV1(
            tenant_id="nobody" if kind == "tenant" else "acme",
            user_id=user,
            interaction_id=name,
            prompt="How do I reset it?",
            completion="Hold the button for ten seconds.",
            outcome=Accepted(),
            notice_version="1",
            occurred_at=now,
        )
        record = encode(
            data, new_envelope(event_id=name, source=SOURCE, event_type=INTERACTION_RECORDED, time=now)
        )
        value = choice.randbytes(40) if kind == "malformed" else record.value
        record = record._replace(value=value, headers=[*record.headers, ("chaos_id", name.encode())])
        yield name, kind == "good", record
        if kind == "good" and choice.random() < 0.05:
            yield name, True, record


def faults(world: World, choice: random.Random) -> list[tuple[str, float]]:
    kinds = ["kill", "kill", "terminate", "join", "freeze"]
    if world.kafka is not None:
        kinds += ["broker restart", "broker freeze", "database restart", "database cut"]
    return [(choice.choice(kinds), choice.uniform(0.2, 1.5)) for _ in range(choice.randint(2, 4))]


def strike(world: World, kind: str, choice: random.Random) -> None:
    workers = world.workers
    workers.reap()
    victim = choice.choice(workers.running) if workers.running else None
    match kind:
        case "kill" if victim is not None:
            workers.end(victim, signal.SIGKILL)
            workers.start()
        case "terminate" if victim is not None:
            workers.start()
            workers.end(victim, signal.SIGTERM)
        case "join":
            workers.start()
            if len(workers.running) > 3:
                workers.end(workers.running[0], signal.SIGKILL)
        case "freeze" if victim is not None:
            victim.send_signal(signal.SIGSTOP)
            time.sleep(choice.uniform(0.5, 6))  # the longer ones outlast the session
            victim.send_signal(signal.SIGCONT)
        case "broker restart":
            world.kafka.restart()
        case "broker freeze":
            world.kafka.process.send_signal(signal.SIGSTOP)
            time.sleep(choice.uniform(0.5, 5))
            world.kafka.process.send_signal(signal.SIGCONT)
        case "database restart":
            world.postgres.restart()
        case "database cut":
            world.postgres.cut_connections()


def run(world: World, seed: int, *, events_per_run: int, patience_seconds: float) -> Run:
    choice = random.Random(seed)
    result = Run(seed)
    started = time.monotonic()
    expected: dict[str, bool] = {}
    digests: dict[str, bytes] = {}
    plan = faults(world, choice)
    users = [f"user-{seed}-{number}" for number in range(50)]

    def publish() -> None:
        load = random.Random(seed + 1)
        with KafkaProducer(bootstrap_servers=world.bootstrap, delivery_timeout_ms=180_000) as producer:
            late = consents(seed, users)
            for position, (name, accepted, record) in enumerate(events(seed, events_per_run, load)):
                expected[name] = accepted
                digests[name] = new_envelope(
                    event_id=name, source=SOURCE, event_type=INTERACTION_RECORDED, time=datetime.now(UTC)
                ).digest()
                producer.send(record.topic, value=record.value, key=record.key, headers=record.headers)
                result.published += 1
                if position % 3 == 0:
                    for consent in (next(late, None),):
                        if consent is not None:
                            producer.send(
                                consent.topic, value=consent.value, key=consent.key, headers=consent.headers
                            )
                if position % 100 == 0:
                    time.sleep(0.1)
            producer.flush(180)

    publishing = threading.Thread(target=publish)
    publishing.start()
    for kind, pause in plan:
        time.sleep(pause)
        result.faults.append(kind)
        strike(world, kind, choice)
    publishing.join()

    names = {digest: name for name, digest in digests.items()}

    def effects() -> set[str]:
        with transaction(world.engine) as session:
            stored = session.connection().execute(text("SELECT event_digest FROM signals"))
            return {names[bytes(row[0])] for row in stored if bytes(row[0]) in names}

    def accounted() -> bool:
        world.workers.reap()
        with suppress(Exception):  # the database may be on its way up
            return len(effects()) + sum(name in world.letters.origins for name in expected) >= len(expected)
        return False

    try:
        wait_until(accounted, patience_seconds, "not everything was accounted for")
    except TimeoutError:
        result.faults.append("TIMED OUT")
    time.sleep(0.3)
    found = effects()
    lettered = {name for name in expected if name in world.letters.origins}
    acceptable = {name for name, accepted in expected.items() if accepted}
    result.acceptable = len(acceptable)
    result.wrong = len(found - acceptable)
    # A consent that came after the wait was over: its interaction was dead-lettered, as it should be.
    result.late_consents = len(acceptable & lettered)
    result.effects, result.letters = len(found), len(lettered)
    result.repeated_letters = sum(world.letters.copies[name] - 1 for name in lettered)
    result.lost = sum(name not in found and name not in lettered for name in expected)
    # Two letters of one event are one when they name the same origin.
    result.doubled = len(found & lettered) + sum(len(world.letters.origins[name]) > 1 for name in lettered)
    result.seconds = time.monotonic() - started
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka-libs", type=Path, help="directory of Apache Kafka's jars")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run")
    parser.add_argument("--events", type=int, default=1000, help="events in one run")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after this long")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    started = time.monotonic()
    runs: list[Run] = []
    world = World(directory, options.kafka_libs)
    try:
        for _ in range(2):
            world.workers.start()
        for seed in range(options.seed, options.seed + options.runs):
            if time.monotonic() - started > options.minutes * 60:
                break
            result = run(world, seed, events_per_run=options.events, patience_seconds=180)
            runs.append(result)
            print("ok  " if result.good else "BAD ", json.dumps(asdict(result)), flush=True)
    finally:
        world.close()
    good = sum(result.good for result in runs)
    tally = Counter(fault for result in runs for fault in result.faults)
    print(f"{good} of {len(runs)} runs good; events {sum(r.published for r in runs)}; faults {dict(tally)}")
    print(f"worker exits {dict(world.workers.exits)}")
    if options.json:
        document = {
            "runs": [asdict(result) | {"good": result.good} for result in runs],
            "faults": tally,
            "worker_exits": world.workers.exits,
            "broker": "Apache Kafka" if options.kafka_libs else "embedded",
        }
        options.json.write_text(json.dumps(document, indent=1))
    if good == len(runs):
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"logs are kept in {directory}")
    return 0 if good == len(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
