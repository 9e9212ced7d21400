"""How often readings of drift alarm for nothing, how soon they notice a change, and what a reading costs in time.

    python tests/benchmarks/drift.py --json drift.json
    python tests/benchmarks/drift.py --parts peers      # river's detectors beside, where river is installed

Simulated lines: each week every user falls into one bin of each family (the most that users can vary), the sums get the
noise that a policy of the stated users and budget charges, and what is released is judged as the product does. The load
of the machine stands beside the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from personalization.drift.detection import judge, noticed_share
from personalization.drift.features import FAMILIES, UNIT, sum_of
from personalization.drift.values import Histogram
from personalization.training.jobs.job import Example, ExampleKind, UserExamples
from privacy.accounting.calibration import calibrate_policy, drift_reading
from privacy.policy.values import TenantPrivacyPolicy, amended

BEGAN, WEEK = datetime(2026, 1, 5, tzinfo=UTC), timedelta(days=7)
WEEKS, CHANGE_AT, LEVEL = 26, 6, 0.001
USERS = (500, 1_000, 2_000, 5_000)
USUAL = (
    (0.3, 0.3, 0.2, 0.15, 0.05),
    (0.5, 0.05, 0.1, 0.25, 0.1),
    (0.9, 0.04, 0.02, 0.02, 0.02),
    (1 / 12,) * 12,
    (0.7, 0.15, 0.1, 0.05),
)


def policy_of(users: int, share: float = 0.1) -> TenantPrivacyPolicy:
    """Return the defaults for so many users, with 52 weekly readings."""
    return amended(TenantPrivacyPolicy(declared_users=users), {"drift.share": share})


def moved(family: int, share: float) -> tuple[tuple[float, ...], ...]:
    """Return habits of which ``share`` of the users went from a family's largest bin to its smallest."""
    shares = list(USUAL[family])
    shares[shares.index(max(shares))] -= share
    shares[-1] += share
    return (*USUAL[:family], tuple(shares), *USUAL[family + 1 :])


def reading(
    rng: np.random.Generator, week: int, users: int, noise: float, habits: tuple[tuple[float, ...], ...]
) -> Histogram:
    """Return what one week releases."""
    sums = []
    for family, shares in zip(FAMILIES, habits, strict=True):
        counts = rng.multinomial(users, shares) * family.weight
        sums += [round((count + rng.normal(0.0, noise)) * UNIT) for count in counts]
    since = BEGAN + week * WEEK
    return Histogram(sums=tuple(sums), noise_multiplier=noise, since=since, until=since + WEEK)


def alarm_week(
    seed: int, users: int, noise: float, *, level: float, habits: tuple[tuple[float, ...], ...] = USUAL
) -> int | None:
    """Return the week of a line's first alarm."""
    rng, readings = np.random.default_rng(seed), []
    for week in range(WEEKS):
        readings.append(reading(rng, week, users, noise, USUAL if week < CHANGE_AT else habits))
        if judge(readings, level=level).drifted:
            return week
    return None


def false_alarms(lines: int) -> dict[str, Any]:
    """Count lines that alarm within half a year though nothing changes, at a level high enough to see some."""
    level, users = 0.01, 500
    noise = drift_reading(policy_of(users))
    assert noise is not None
    alarmed = sum(
        alarm_week(seed, users, noise.noise_multiplier, level=level) is not None for seed in range(lines)
    )
    allowed = level * (WEEKS - 1)
    return {
        "lines": lines,
        "alarmed": alarmed,
        "targets": {
            "false_alarms_per_line": (round(alarmed / lines, 4), allowed, alarmed / lines <= allowed)
        },
    }


def delays(lines: int) -> dict[str, Any]:
    """Say in how many weeks changes of different sizes are noticed, by how many users there are."""
    table = []
    for users in USERS:
        mechanism = drift_reading(policy_of(users))
        assert mechanism is not None
        noise = mechanism.noise_multiplier
        for name, family, share in (
            ("prompts longer", 0, 0.1), ("prompts longer", 0, 0.25), ("answers changed more", 4, 0.25),
            ("form", 1, 0.4),
        ):  # fmt: skip
            found = [
                alarm_week(seed, users, noise, level=LEVEL, habits=moved(family, share))
                for seed in range(lines)
            ]
            seen = [week - CHANGE_AT + 1 for week in found if week is not None and week >= CHANGE_AT]
            table.append(
                {
                    "users": users,
                    "noise_multiplier": noise,
                    "change": f"{name} for {share:.0%}",
                    "median_readings": statistics.median(seen) if len(seen) * 2 > lines else None,
                    "missed_in_20": lines - len(seen),
                    "false": sum(week is not None and week < CHANGE_AT for week in found),
                }
            )
    quick = next(one for one in table if one["users"] == 2_000 and one["change"] == "prompts longer for 25%")
    return {
        "lines": lines,
        "table": table,
        "targets": {
            "median_readings_to_notice": (
                quick["median_readings"], 2, quick["median_readings"] is not None and quick["median_readings"] <= 2,
            )
        },
    }  # fmt: skip


def cost(_lines: int) -> dict[str, Any]:
    """Say what training pays for readings, and how long parts and judgements take."""
    paid = []
    for users in USERS:
        policy = policy_of(users)
        mechanism = drift_reading(policy)
        assert mechanism is not None
        before = calibrate_policy(amended(policy, {"drift.share": 0.0}))
        paid.append(
            {
                "users": users,
                "reading_noise": mechanism.standard_deviation,
                "training_noise_without": before,
                "training_noise_with": calibrate_policy(policy),
                "noticed_share": round(noticed_share(mechanism.noise_multiplier, users, LEVEL), 3),
            }
        )
    rng = np.random.default_rng(1)
    people = [
        UserExamples(
            examples=tuple(
                Example(
                    prompt=f"please tell customer {rng.integers(10**6)} when the parcel arrives and why it is late",
                    completion="Dear customer, it will be there on Monday; we are sorry for the delay.",
                    kind=ExampleKind.PREFERENCE,
                    shown="Hello, your parcel will arrive on Monday.",
                )
                for _ in range(4)
            )
        )
        for _ in range(2_000)
    ]
    began = time.process_time()
    sum_of(people)
    parts = len(people) / (time.process_time() - began)
    readings = [reading(rng, week, 500, 15.0, USUAL) for week in range(WEEKS)]
    began = time.process_time()
    for _ in range(50):
        judge(readings, level=LEVEL)
    judged_in = (time.process_time() - began) / 50 * 1000
    return {
        "paid": paid,
        "users_per_second": round(parts),
        "targets": {"judgement_ms": (round(judged_in, 2), 20.0, judged_in <= 20.0)},
    }


def peers(lines: int) -> dict[str, Any]:
    """Show what river's detectors see in the most telling share of the same lines.

    They are given what suits few numbers, and the last one the shares' known standard deviation too.
    """
    try:
        from river import drift  # type: ignore[import-not-found,unused-ignore]  # a peer, installed for this alone
    except ImportError:
        return {"skipped": "river is not installed", "targets": {}}
    users, family, share = 2_000, 0, 0.25
    mechanism = drift_reading(policy_of(users))
    assert mechanism is not None
    deviation = mechanism.noise_multiplier / FAMILIES[family].weight / users
    table = []
    for name, make, scale in (
        ("ADWIN", lambda: drift.ADWIN(clock=1), 1.0),
        ("KSWIN", lambda: drift.KSWIN(window_size=12, stat_size=4, seed=1), 1.0),
        ("PageHinkley", lambda: drift.PageHinkley(min_instances=3), 1.0),
        (
            "PageHinkley, standardised",
            lambda: drift.PageHinkley(min_instances=3, delta=0.5, threshold=5.0, alpha=1.0),
            deviation,
        ),
    ):
        false, seen = 0, []
        for seed in range(lines):
            rng, detector = np.random.default_rng(seed), make()
            for week in range(WEEKS):
                habits = USUAL if week < CHANGE_AT else moved(family, share)
                counts = reading(rng, week, users, mechanism.noise_multiplier, habits).users_of(family)
                detector.update(counts[-1] / sum(counts) / scale)
                if detector.drift_detected:
                    false += week < CHANGE_AT
                    seen += [week - CHANGE_AT + 1] if week >= CHANGE_AT else []
                    break
        table.append(
            {
                "detector": name,
                "false": false,
                "noticed": len(seen),
                "of": lines,
                "median_readings": statistics.median(seen) if seen else None,
            }
        )
    return {"users": users, "table": table, "targets": {}}


PARTS = {"false_alarms": false_alarms, "delays": delays, "cost": cost, "peers": peers}


def judged(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each figure that has a target: what was measured, what it must be, and whether it is."""
    return [
        {
            "name": f"{part}: {target.replace('_', ' ')}",
            "value": value,
            "unit": {"judgement_ms": "ms", "median_readings_to_notice": "readings"}.get(target, "share"),
            "must": f"<= {limit:g}",
            "ok": met,
        }
        for part, result in results.items()
        for target, (value, limit, met) in result["targets"].items()
    ]


def main() -> int:
    """Run the parts that are asked for; the status is 1 where a target was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--lines", type=int, default=60, help="simulated lines of each row")
    parser.add_argument("--json", type=Path, help="write the results here")
    told = parser.parse_args()
    results = {name: PARTS[name](told.lines) for name in told.parts}
    for name, result in results.items():
        for row in result.get("table", result.get("paid", [])):
            print(f"{name}: {', '.join(f'{key} {value}' for key, value in row.items())}")
        for target, (value, limit, met) in result["targets"].items():
            print(f"{name}.{target}: {value} (target {limit}) {'met' if met else 'MISSED'}")
    machine = {
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(f"load of the machine: {machine['load_average']}")
    if told.json is not None:
        document = {"machine": machine, "settings": {"measured": results}, "rows": judged(results)}
        told.json.write_text(json.dumps(document, indent=2, default=str) + "\n", "utf-8")
    return 0 if all(met for one in results.values() for _, _, met in one["targets"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
