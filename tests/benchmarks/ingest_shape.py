"""How the cost of an event changes with scale, how long an event takes, and whether memory stays flat.

    python tests/benchmarks/ingest_shape.py cost      CPU per event from 10 to 10,000 tenants, 10^3 to 10^6 users
    python tests/benchmarks/ingest_shape.py latency   from publishing to the committed signal, at half of saturation
    python tests/benchmarks/ingest_shape.py workers   events a second of two worker processes against one
    python tests/benchmarks/ingest_shape.py soak      1,000,000 events, resident memory at every tenth

All on the whole path (``ours`` of ``ingest.py``), on the embedded broker and SQLite unless ``--kafka-libs DIR`` and
``--postgres URL`` name others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kafka import KafkaAdminClient, KafkaProducer

from privacy.keys.service import new_master_key
from streams.broker.embedded import EmbeddedBroker
from streams.contracts.topics import INTERACTIONS
from tests.benchmarks import ingest
from tests.fakes.services import Kafka

SCALES = ((10, 1_000), (10, 10_000), (10, 100_000), (10, 1_000_000), (1_000, 10_000), (10_000, 10_000))
ASSIGNED_SECONDS = 15.0  # by then the worker has its partitions
FLAT = 2.0  # the dearest event costs at most so many times the cheapest
LATENCY_SECONDS = 2.0
TWO_WORKERS = 1.7
MEMORY_GROWTH = 1.1  # from the second tenth to the last


def resident_mebibytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


@contextmanager
def broker_of(options: argparse.Namespace, directory: Path):
    if options.kafka_libs is None:
        with EmbeddedBroker() as broker:
            yield broker
        return
    kafka = Kafka(options.kafka_libs, directory / "kafka")
    try:
        yield kafka
    finally:
        kafka.stop()


def with_scale(options: argparse.Namespace, events: int, tenants: int, users: int) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(options), "events": events, "tenants": tenants, "users": users})


def row(name: str, value: float, unit: str, must: str | None = None, ok: bool | None = None) -> dict:
    return {"name": name, "value": round(value, 3), "unit": unit, "must": must, "ok": ok}


def cost(options: argparse.Namespace) -> list[dict]:
    """CPU per event at each scale."""
    rows = []
    for tenants, users in SCALES:
        scaled = with_scale(options, options.events or 40_000, tenants, users)
        with tempfile.TemporaryDirectory() as directory, broker_of(options, Path(directory)) as broker:
            ingest.fill(broker.bootstrap, scaled)
            result = ingest.measured("ours", broker.bootstrap, Path(directory), new_master_key(), scaled)
        microseconds = 1e6 / result["events_per_cpu_second"]
        rows.append(row(f"CPU per event, {tenants:,} tenants, {users:,} users", microseconds, "µs"))
        print(rows[-1], flush=True)
    spread = max(each["value"] for each in rows) / min(each["value"] for each in rows)
    return [*rows, row("dearest ÷ cheapest scale", spread, "ratio", f"<= {FLAT}", spread <= FLAT)]


def publish(bootstrap: str, events: int, rate: float, start: float) -> None:
    records = list(ingest.made_events(events, 10, 1_000))
    time.sleep(max(0.0, start - time.monotonic()))
    with KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5) as producer:
        began = time.monotonic()
        for number, record in enumerate(records):
            producer.send(record.topic, value=record.value, key=record.key, headers=record.headers)
            if number % 20 == 0:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
        print(f"published {events / (time.monotonic() - began):.0f} a second", flush=True)


def make_topic(bootstrap: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    if INTERACTIONS.name in admin.list_topics():
        admin.delete_topics([INTERACTIONS.name])
        time.sleep(2)
    admin.create_topics({INTERACTIONS.name: {"num_partitions": ingest.PARTITIONS, "replication_factor": 1}})
    admin.close()


def latency(options: argparse.Namespace) -> list[dict]:
    """Latency of each event while half of what a preloaded topic is read at is published from another process."""
    events = options.events or 60_000
    scaled, seen = with_scale(options, events, 10, 1_000), []

    def on_batch(works) -> None:
        now = time.time()
        seen.extend(now - work.record.timestamp / 1000 for work in works)

    with tempfile.TemporaryDirectory() as directory, broker_of(options, Path(directory)) as broker:
        key = new_master_key()
        ingest.fill(broker.bootstrap, scaled)
        saturated = ingest.measured("ours", broker.bootstrap, Path(directory), key, scaled)[
            "events_per_second"
        ]
        rate = options.rate or saturated / 2
        make_topic(broker.bootstrap)
        with ingest.fresh_place("latency", Path(directory), options.postgres) as place:
            url = ingest.prepare_database(place, key, 10, 1_000)
            publishing = multiprocessing.get_context("spawn").Process(
                target=publish, args=(broker.bootstrap, events, rate, time.monotonic() + ASSIGNED_SECONDS)
            )
            publishing.start()
            ingest.run_ours(broker.bootstrap, url, key, events, plain=False, on_batch=on_batch)
            publishing.join()
    seen.sort()
    p99 = seen[len(seen) * 99 // 100]
    return [
        row("saturation, one worker", saturated, "1/s"),
        row("published", rate, "1/s"),
        row("event to signal, p50", seen[len(seen) // 2], "s"),
        row("event to signal, p99", p99, "s", f"<= {LATENCY_SECONDS}", p99 <= LATENCY_SECONDS),
        row("event to signal, longest", seen[-1], "s"),
    ]


def workers(options: argparse.Namespace) -> list[dict]:
    """Events a second of one and of two processes of one group, while all of them had work."""
    scaled = with_scale(options, options.events or 120_000, 10, 2_000)
    found = {}
    for count in (1, 2):
        key = new_master_key()
        with tempfile.TemporaryDirectory() as directory, broker_of(options, Path(directory)) as broker:
            ingest.fill(broker.bootstrap, scaled)
            with ingest.fresh_place("workers", Path(directory), options.postgres) as place:
                url = ingest.prepare_database(place, key, scaled.tenants, scaled.users)
                running = [
                    ingest.started("ours", broker.bootstrap, url, key, scaled.events) for _ in range(count)
                ]
                marks = [ingest.result_of("ours", process)["marks"] for process in running]
        began, ended = max(each[0][0] for each in marks), min(each[-1][0] for each in marks)
        done = sum(
            max(total for at, total in each if at <= ended) - max(total for at, total in each if at <= began)
            for each in marks
        )
        found[count] = done / (ended - began)
        print(f"{count}: {done} events in {ended - began:.1f} s", flush=True)
    ratio = found[2] / found[1]
    return [
        row("one worker", found[1], "1/s"),
        row("two workers", found[2], "1/s"),
        row(
            f"two workers ÷ one on {os.cpu_count()} cores",
            ratio,
            "ratio",
            f">= {TWO_WORKERS}",
            ratio >= TWO_WORKERS,
        ),
    ]


def soak(options: argparse.Namespace) -> list[dict]:
    """Resident memory at every tenth of the events."""
    events = options.events or 1_000_000
    samples: list[float] = []
    count = [0]

    def on_batch(works) -> None:
        count[0] += len(works)
        if count[0] * 10 // events > len(samples):
            samples.append(resident_mebibytes())
            print(f"{count[0]} events, {samples[-1]:.1f} MiB", flush=True)

    scaled, key = with_scale(options, events, 10, 5_000), new_master_key()
    with tempfile.TemporaryDirectory() as directory, broker_of(options, Path(directory)) as broker:
        ingest.fill(broker.bootstrap, scaled)
        with ingest.fresh_place("soak", Path(directory), options.postgres) as place:
            url = ingest.prepare_database(place, key, scaled.tenants, scaled.users)
            result = ingest.run_ours(broker.bootstrap, url, key, events, plain=False, on_batch=on_batch)
    growth = samples[-1] / samples[1]
    return [
        *(row(f"resident after {tenth} tenths", size, "MiB") for tenth, size in enumerate(samples, 1)),
        row("resident, last ÷ second tenth", growth, "ratio", f"<= {MEMORY_GROWTH}", growth <= MEMORY_GROWTH),
        row("events per CPU-second", result["events_per_cpu_second"], "1/s"),
    ]


MEASUREMENTS = {"cost": cost, "latency": latency, "workers": workers, "soak": soak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--kafka-libs", type=Path)
    parser.add_argument("--postgres", help="SQLAlchemy URL of a server where databases may be made")
    parser.add_argument("--events", type=int)
    parser.add_argument(
        "--rate", type=float, help="events a second, for latency; by default half of saturation"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = MEASUREMENTS[options.what](options)
    settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
    ingest.write(options.json, {**settings, "batch_events": ingest.BATCH}, rows)


if __name__ == "__main__":
    main()
