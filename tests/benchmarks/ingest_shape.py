"""How the cost of an event changes with scale, how long an event takes, and whether memory stays flat.

    python tests/benchmarks/ingest_shape.py cost      CPU per event from 10 to 10,000 tenants, 10^3 to 10^6 users
    python tests/benchmarks/ingest_shape.py latency   from publishing to the committed signal, at half of saturation
    python tests/benchmarks/ingest_shape.py soak      1,000,000 events, resident memory at every tenth

All on the whole path (``ours`` of ``ingest.py``), on the embedded broker and SQLite.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer

from privacy.keyring import new_master_key
from streams.contracts.topics import INTERACTIONS
from streams.embedded_broker import EmbeddedBroker
from tests.benchmarks import ingest

SCALES = ((10, 1_000), (10, 100_000), (10, 1_000_000), (1_000, 10_000), (10_000, 10_000))


def resident_mebibytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def options_for(events: int, tenants: int, users: int) -> argparse.Namespace:
    return argparse.Namespace(events=events, tenants=tenants, users=users, kafka_libs=None)


def cost(events: int) -> list[dict]:
    """CPU per event at each scale."""
    found = []
    for tenants, users in SCALES:
        options, key = options_for(events, tenants, users), new_master_key()
        with tempfile.TemporaryDirectory() as directory, EmbeddedBroker() as broker:
            ingest.fill(broker.bootstrap, options)
            result = ingest.measured("ours", broker.bootstrap, Path(directory), key, options)
        found.append({"tenants": tenants, "users": users, **result})
        print(found[-1], flush=True)
    return found


def latency(events: int, rate: float) -> dict:
    """Latency of each event while ``rate`` events a second are published."""
    seen: list[float] = []

    def on_batch(works) -> None:
        now = time.time()
        seen.extend(now - work.record.timestamp / 1000 for work in works)

    with tempfile.TemporaryDirectory() as directory, EmbeddedBroker() as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        topic = {"num_partitions": ingest.PARTITIONS, "replication_factor": 1}
        admin.create_topics({INTERACTIONS.name: topic})
        admin.close()
        key = new_master_key()
        url = ingest.prepare_database(Path(directory) / "latency.sqlite3", key, 10, 1_000)

        def publish() -> None:
            time.sleep(8)  # until the partitions are assigned
            with KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=5) as producer:
                began = time.monotonic()
                for number, record in enumerate(ingest.made_events(events, 10, 1_000)):
                    producer.send(record.topic, value=record.value, key=record.key, headers=record.headers)
                    time.sleep(max(0.0, began + number / rate - time.monotonic()))

        publishing = threading.Thread(target=publish)
        publishing.start()
        ingest.run_ours(broker.bootstrap, url, key, events, plain=False, on_batch=on_batch)
        publishing.join()
    seen.sort()
    return {"rate": rate, "p50": seen[len(seen) // 2], "p99": seen[len(seen) * 99 // 100], "worst": seen[-1]}


def soak(events: int) -> dict:
    """Resident memory at every tenth of ``events``."""
    samples: list[float] = []
    count = [0]

    def on_batch(works) -> None:
        count[0] += len(works)
        if count[0] * 10 // events >= len(samples):
            samples.append(round(resident_mebibytes(), 1))
            print(f"{count[0]} events, {samples[-1]} MiB", flush=True)

    options, key = options_for(events, 10, 5_000), new_master_key()
    with tempfile.TemporaryDirectory() as directory, EmbeddedBroker() as broker:
        ingest.fill(broker.bootstrap, options)
        url = ingest.prepare_database(Path(directory) / "soak.sqlite3", key, options.tenants, options.users)
        result = ingest.run_ours(broker.bootstrap, url, key, events, plain=False, on_batch=on_batch)
    return {"mebibytes_at_each_tenth": samples, **result}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "latency", "soak"))
    parser.add_argument("--events", type=int)
    parser.add_argument("--rate", type=float, default=1_500.0, help="events a second, for latency")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    match options.what:
        case "cost":
            document = cost(options.events or 20_000)
        case "latency":
            document = latency(options.events or 30_000, options.rate)
        case _:
            document = soak(options.events or 1_000_000)
    print(json.dumps(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
