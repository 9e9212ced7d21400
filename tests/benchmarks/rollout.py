"""Rollouts at scale: the tick of many lines, how fast a kill switch is told, what the charged comparison gets wrong.

    python tests/benchmarks/rollout.py --json rollout.json [--lines 10000] [--moving 2000] [--runs 2000]
        [--kafka HOST:PORT] [--only KIND]

SQLite on this machine's disk. Rows:

- ``tick``: lines in rollout of which none is to move, all due at once: seconds of one tick;
- ``moves``: lines that all move in one tick (into their first step): decisions per second, and the lag of the last;
- ``flag``: from the commit of a kill switch to its record at a sender, with the worker's own pause between two looks
  at the outbox: p50 and p99 in seconds;
- ``gateway``: from when a kill switch is sent to the broker to the first request that a gateway answers otherwise
  (broker in memory, or Apache Kafka with ``--kafka HOST:PORT``): p50 and p99 in seconds. A kill switch takes both rows.
- ``comparison``: over seeded simulations, the share of alike candidates that is called better or worse, the power at a
  difference of ten points, and false roll-backs in 1,000 lines. ε is at δ = 10⁻⁶.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import secrets
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import insert
from sqlmodel import select

from personalization.adapters.manifest import AdapterManifest
from personalization.registry import steering
from personalization.registry.announcements import Act
from personalization.registry.tables import AdapterLineRow, AdapterVersionRow
from personalization.rollouts import rows as rollouts
from personalization.rollouts.evidence import Verdict
from personalization.rollouts.tables import RolloutRow
from personalization.rollouts.values import Flag
from privacy.accounting.calibration import comparison_of
from privacy.mechanisms.noisy_comparison import Arms, NoisyComparison
from privacy.policy.values import amended
from privacy.storage.session import open_engine, transaction
from streams.broker import topics
from streams.broker.clients import client_broker
from streams.client.testing import FakeLine
from streams.contracts.adapter import RolloutV1
from streams.contracts.topics import ADAPTERS
from streams.outbox.relay import OutboxRelay
from streams.settings import BrokerSettings, OutboxSettings
from streams.storage import schema
from streams.storage.tables import ServingAckRow
from tests.fakes.engines import engine as fake_engine
from tests.fakes.gateways import GatewayThread, wait_until
from tests.fakes.reactions import shares
from tests.fakes.rollouts import RolloutShop

USERS = {
    (0.5, 0.5): 1_500, (1.0, 0.5): 1_050, (2.0, 0.5): 850, (1.0, 0.25): 1_700, (2.0, 0.25): 1_300,
    (1.0, 0.1): 4_000, (2.0, 0.1): 3_000,
}  # fmt: skip
"""ε and the candidate's share → users who react, of both arms together, with which ten points are found four times in
five. The noise is what the product charges for that ε (``rollout.reaction_epsilon``) at δ = 10⁻⁶."""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    __call__ = now

    def advance(self, *, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def filled(folder: Path, lines: int, clock: Clock) -> RolloutShop:
    """Return a shop of so many lines, each with a version and a candidate."""
    url = f"sqlite:///{folder / 'rollout.db'}"
    engine = open_engine(url)
    schema.upgrade(url)
    shop = RolloutShop(engine, clock, folder)
    for _ in range(2):
        shop.publish()
    with transaction(engine) as session:
        line = session.exec(select(AdapterLineRow)).one()
        versions = session.exec(select(AdapterVersionRow).order_by(AdapterVersionRow.version)).all()
        rollout = session.exec(select(RolloutRow)).one()
        templates = [one.model_dump() for one in versions]
        line_values, rollout_values = line.model_dump(), rollout.model_dump()
    new_lines, new_versions, new_rollouts = [], [], []
    for number in range(1, lines):
        ref = f"{number:012x}"
        ids = []
        for template in templates:
            text = template["manifest_json"].replace(line_values["line_ref"], ref)
            version_id = AdapterManifest.from_bytes(text.encode()).version_id()
            ids.append(version_id)
            new_versions.append(
                {**template, "version_id": version_id, "line_ref": ref, "domain": f"d{number}",
                 "served_name": template["served_name"].replace(line_values["line_ref"], ref), "manifest_json": text}
            )  # fmt: skip
        new_lines.append(
            {**line_values, "line_ref": ref, "domain": f"d{number}", "current_version_id": ids[0]}
        )
        new_rollouts.append({**rollout_values, "line_ref": ref, "candidate_version_id": ids[1]})
    with transaction(engine) as session:
        for model, rows in (
            (AdapterLineRow, new_lines),
            (AdapterVersionRow, new_versions),
            (RolloutRow, new_rollouts),
        ):
            if rows:
                session.connection().execute(insert(model.__table__), rows)
    return shop


def tick_rows(lines: int, moving: int) -> list[dict[str, object]]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        shop = filled(Path(folder), lines, clock)
        started, used = time.perf_counter(), time.process_time()
        ticked = shop.run_tick()  # nothing has been verified: every line is looked at and none moves
        seconds, processor = time.perf_counter() - started, time.process_time() - used
        assert (ticked.looked, ticked.moved) == (lines, 0)
        with transaction(shop.engine) as session:
            candidates = session.exec(select(RolloutRow).limit(moving)).all()
            acks = [
                {"served_name": f"s{number}", "server_id": "one", "line_ref": row.line_ref,
                 "version_id": row.candidate_version_id, "engine": "test", "status": "verified", "epoch": 1,
                 "reason": None, "probe_effect": None, "occurred_at": clock.now()}
                for number, row in enumerate(candidates)
            ]  # fmt: skip
            session.connection().execute(insert(ServingAckRow.__table__), acks)
            rollouts.wake(session, [(one["line_ref"], one["version_id"]) for one in acks], clock.now())
        started, used = time.perf_counter(), time.process_time()
        moved = shop.run_tick()
        moving_seconds, moving_processor = time.perf_counter() - started, time.process_time() - used
        assert moved.moved == len(acks)
        shop.engine.dispose()
    return [
        {"row": "tick", "lines": lines, "seconds": round(seconds, 3), "processor_seconds": round(processor, 3)},
        {"row": "moves", "lines": len(acks), "seconds": round(moving_seconds, 3),
         "processor_seconds": round(moving_processor, 3), "decisions_per_second": round(len(acks) / moving_seconds),
         "decisions_per_processor_second": round(len(acks) / moving_processor)},
    ]  # fmt: skip


class Sender:
    """Notes when a desired state arrives."""

    def __init__(self) -> None:
        self.arrived: list[float] = []

    def send_each(self, records):
        now = time.perf_counter()
        self.arrived += [now for record in records if record.topic == ADAPTERS.name]
        return [None] * len(records)


def flag_row(times: int) -> dict[str, object]:
    """Measure how long a kill switch takes to its sender; the pause between looks is the worker's default."""
    clock, waits, pauses = Clock(), [], random.Random(11)
    pause = OutboxSettings().poll_seconds
    with tempfile.TemporaryDirectory() as folder:
        shop = filled(Path(folder), 1, clock)
        sender = Sender()
        relay = OutboxRelay(shop.engine, sender, batch_rows=200, longest_pause=300.0)
        while relay.relay_once(clock.now()):
            pass
        for number in range(2 * times):
            sender.arrived.clear()
            flag = Flag.OFF if number % 2 == 0 else Flag.ON
            with transaction(shop.engine) as session:
                act = Act(actor="benchmark", reason="a drill", now=clock.now())
                steering.set_flag(session, shop.events, "acme", "default", flag, act)
            committed = time.perf_counter()
            time.sleep(pauses.uniform(0.0, pause))  # wherever in its pause the relay is
            while relay.relay_once(clock.now()):
                pass
            if flag is Flag.OFF:
                waits.append(sender.arrived[-1] - committed)
        shop.engine.dispose()
    waits.sort()
    return {"row": "flag", "times": times, "p50_seconds": round(statistics.median(waits), 3),
            "p99_seconds": round(waits[min(len(waits) - 1, int(0.99 * len(waits)))], 3)}  # fmt: skip


def gateway_row(times: int, bootstrap: str | None) -> dict[str, object]:
    """Measure how long a gateway takes to keep to a flag once its record is at the broker."""
    waits = []
    with tempfile.TemporaryDirectory() as folder, fake_engine("vllm") as behind:
        gateway = GatewayThread(Path(folder), url=behind.url)
        if bootstrap is not None:
            settings = BrokerSettings(bootstrap=bootstrap)
            with topics.open_admin({"bootstrap_servers": bootstrap}) as admin:
                topics.create_topics(admin, partitions=2)
            gateway.broker = client_broker(settings)
        with gateway:
            token = gateway.token("acme")
            line = FakeLine(
                Path(folder), line_ref=secrets.token_hex(6), signer=gateway.signer
            )  # the broker may be old
            gateway.lines["acme"] = {"default": line.line_ref}
            version = line.version(1)
            behind.control(names=[version.served_name])
            gateway.verified.add(version.served_name)

            def reason() -> str:
                raw = gateway.client(token).chat.completions.with_raw_response.create(
                    model="discreet", messages=[{"role": "user", "content": "a question"}]
                )
                return raw.headers["x-discreet-reason"]

            line.publish(gateway.broker, version)
            wait_until(lambda: reason() == "applied")
            for number in range(times):
                flag, wanted = ("off", "switched_off") if number % 2 == 0 else ("on", "applied")
                started = time.perf_counter()
                line.publish(gateway.broker, version, rollout=RolloutV1(flag=flag))
                while reason() != wanted:
                    time.sleep(0.005)
                waits.append(time.perf_counter() - started)
    waits.sort()
    return {"row": "gateway", "times": times, "broker": "kafka" if bootstrap else "memory",
            "p50_seconds": round(statistics.median(waits), 3),
            "p99_seconds": round(waits[min(len(waits) - 1, int(0.99 * len(waits)))], 3)}  # fmt: skip


def comparison_rows(runs: int) -> list[dict[str, object]]:
    rows = []
    for (epsilon, share), users in USERS.items():
        mechanism, arms = charged_at(epsilon), Arms(share=share)
        alike = shares(7, mechanism, arms, runs=runs, users=users)
        better = shares(8, mechanism, arms, runs=runs, users=users, effect=0.1)
        worse = shares(9, mechanism, arms, runs=runs, users=users, effect=-0.1)
        rows.append(
            {"row": "comparison", "epsilon": epsilon, "share": share, "users": users, "runs": runs,
             "noise_multiplier": mechanism.noise_multiplier,
             "type_i": round(alike[Verdict.BETTER] + alike[Verdict.WORSE], 4),
             "power_better": round(better[Verdict.BETTER], 4), "power_worse": round(worse[Verdict.WORSE], 4),
             "false_roll_backs_per_1000_lines": round(1000 * alike[Verdict.WORSE], 1)}
        )  # fmt: skip
    return rows


def charged_at(epsilon: float) -> NoisyComparison:
    """The comparison that a policy with this ``rollout.reaction_epsilon`` charges."""
    policy = amended(
        None,
        {
            "declared_users": 1_000,
            "period_epsilon": 8.0,
            "purposes": ["training", "evaluation"],
            "rollout.steps": [50],
            "rollout.decide": "reactions",
            "rollout.reaction_epsilon": epsilon,
        },
    )
    return comparison_of(policy)


def judged_row(name: str, value: float, unit: str, must: str | None = None) -> dict[str, object]:
    """Return one row in the form of every benchmark here; ``must`` is ``<= number`` or ``>= number``."""
    sign, _, limit = (must or "").partition(" ")
    ok = None if must is None else value <= float(limit) if sign == "<=" else value >= float(limit)
    return {"name": name, "value": value, "unit": unit, "must": must, "ok": ok}


def judged(rows: list[dict]) -> list[dict[str, object]]:
    """Return one row for each figure that is asked for: what was measured, what it must be, and whether it is."""
    by_kind = {row["row"]: row for row in rows}
    told = []
    if "tick" in by_kind:
        told.append(judged_row("tick of lines of which none moves", by_kind["tick"]["seconds"], "s", "<= 5"))
    if "moves" in by_kind:
        moves = by_kind["moves"]
        told.append(judged_row("lines that all move: decisions", moves["decisions_per_second"], "1/s"))
        told.append(judged_row("lines that all move: lag of the last", moves["seconds"], "s"))
    ways = [by_kind[kind]["p99_seconds"] for kind in ("flag", "gateway") if kind in by_kind]
    if len(ways) == 2:
        # Each part takes longer in one case of a hundred, so both together take longer than this in two at most.
        told.append(
            judged_row("kill switch to gateway: both parts' p99, added", round(sum(ways), 3), "s", "<= 1")
        )
    for row in rows:
        if row["row"] == "comparison":
            name = f"comparison at epsilon {row['epsilon']:g}, {row['users']} users, candidate {row['share']:.0%}"
            power = ">= 0.8"
            told.append(judged_row(f"{name}: type I error", row["type_i"], "share", "<= 0.05"))
            told.append(judged_row(f"{name}: power, better", row["power_better"], "share", power))
            told.append(judged_row(f"{name}: power, worse", row["power_worse"], "share", power))
            told.append(
                judged_row(
                    f"{name}: false roll-backs", row["false_roll_backs_per_1000_lines"], "per 1,000 lines"
                )
            )
    return told


def main() -> int:
    """Measure what is asked for; the status is 1 where a must was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--moving", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--flags", type=int, default=100)
    parser.add_argument("--kafka", help="HOST:PORT of Apache Kafka, for the row of the gateway")
    parser.add_argument("--only", help="one kind of rows: tick, flag, gateway or comparison")
    asked = parser.parse_args()
    kinds = {
        "tick": lambda: tick_rows(asked.lines, asked.moving),
        "flag": lambda: [flag_row(asked.flags)],
        "gateway": lambda: [gateway_row(asked.flags, asked.kafka)],
        "comparison": lambda: comparison_rows(asked.runs),
    }
    rows = [row for name, measured in kinds.items() if asked.only in {None, name} for row in measured()]
    for row in rows:
        print(json.dumps(row))
    told = judged(rows)
    for row in told:
        verdict = f" (must {row['must']}: {'yes' if row['ok'] else 'NO'})" if row["must"] else ""
        print(f"{row['name']}: {row['value']} {row['unit']}{verdict}")
    if asked.json is not None:
        machine = {
            "cpu_count": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "load_average": round(os.getloadavg()[0], 1),
        }
        settings = {name: value for name, value in vars(asked).items() if name != "json"} | {"measured": rows}
        document = {"machine": machine, "settings": settings, "rows": told}
        asked.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return 1 if any(row["ok"] is False for row in told) else 0


if __name__ == "__main__":
    sys.exit(main())
