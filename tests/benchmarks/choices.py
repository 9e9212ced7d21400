"""How often the best of several prompt templates is drawn, by users and ε, what it costs, and how long votes take.

    python tests/benchmarks/choices.py --json choices.json
    python tests/benchmarks/choices.py --parts votes --base DIR     # with a real base model instead of a tiny one

Simulated users vote for one candidate each, the best of them leads each other one by a share of all votes, and the draw
is the product's own. The load of the machine stands beside the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from personalization.choices.ballots import MOST_TOKENS, ballots_of, tally
from personalization.choices.forecast import CERTAINTY, NOTICED_LEAD, users_needed
from personalization.planning.plan import PerformanceFlags
from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import PromptTemplate
from personalization.training.jobs.job import Example, UserExamples
from privacy.accounting.composition import best_epsilon, curve_of
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.noise.choice import exponential_choice
from privacy.noise.keystream import PURPOSE_CHOICE, SecretStream

USERS = (25, 50, 100, 200, 500)
EPSILONS = (0.25, 0.5, 1.0)
CANDIDATES = (2, 3, 8)
DELTA = 1e-6
TEMPLATES = (
    "{{ prompt }}",
    "Answer calmly and in full sentences.\n\n{{ prompt }}",
    "Answer in one line.\n\n{{ prompt }}",
)


def best_drawn(draws: int, *, users: int, candidates: int, epsilon: float, lead: float) -> float:
    """Return how often the best candidate is drawn; with an ε of 0, how often it has most votes, of ties its share."""
    rng, stream = np.random.default_rng(7), SecretStream(secrets.token_bytes(32))
    shares = [(1 - lead) / candidates + lead, *[(1 - lead) / candidates] * (candidates - 1)]
    found = 0
    for step in range(draws):
        counts = [int(one) for one in rng.multinomial(users, shares)]
        if epsilon:
            found += exponential_choice(stream, PURPOSE_CHOICE, step, counts, epsilon) == 0
        else:
            found += (counts[0] == max(counts)) / counts.count(max(counts))
    return found / draws


def accuracy(told: argparse.Namespace) -> dict[str, Any]:
    """Say how often the best is drawn by users, candidates and ε, and whether the forecast keeps its word."""
    table = [
        {
            "candidates": candidates,
            "users": users,
            **{
                f"epsilon {epsilon:g}" if epsilon else "no noise": round(
                    best_drawn(
                        told.draws, users=users, candidates=candidates, epsilon=epsilon, lead=NOTICED_LEAD
                    ),
                    3,
                )
                for epsilon in (*EPSILONS, 0.0)
            },
        }
        for candidates in CANDIDATES
        for users in USERS
    ]
    needed = [
        {
            "candidates": candidates,
            "epsilon": epsilon,
            "users": users_needed(candidates=candidates, epsilon=epsilon),
        }
        for candidates in CANDIDATES
        for epsilon in EPSILONS
    ]
    kept = [
        best_drawn(
            told.draws,
            users=one["users"],
            candidates=one["candidates"],
            epsilon=one["epsilon"],
            lead=NOTICED_LEAD,
        )
        for one in needed
    ]
    worst = min(kept)
    least = round(
        CERTAINTY - 3 * math.sqrt(CERTAINTY * (1 - CERTAINTY) / told.draws), 3
    )  # what chance allows for
    return {
        "draws": told.draws,
        "lead": NOTICED_LEAD,
        "table": table,
        "needed": [{**one, "best_drawn": round(share, 3)} for one, share in zip(needed, kept, strict=True)],
        "targets": {"best_drawn_with_the_users_that_are_asked_for": (round(worst, 3), least, worst >= least)},
    }


def cost(_told: argparse.Namespace) -> dict[str, Any]:
    """Say what one choice costs, alone and ten of them together."""
    table = []
    for epsilon in (*EPSILONS, 2.0):
        curve = curve_of(ExponentialChoice(epsilon=epsilon, candidates=3))
        table.append(
            {
                "epsilon": epsilon,
                "zcdp": epsilon**2 / 8,
                "epsilon_of_one_at_delta": round(best_epsilon(curve, DELTA)[0], 3),
                "epsilon_of_ten_at_delta": round(best_epsilon(curve * 10, DELTA)[0], 3),
            }
        )
    return {"delta": DELTA, "table": table, "targets": {}}


def votes(told: argparse.Namespace) -> dict[str, Any]:
    """Take the votes of made-up users with a base model, and say how long one takes."""
    from personalization.training.jobs.job import VoteJob
    from personalization.training.run.ballots import vote_of
    from tests.fakes.tiny_models import write_tiny_base

    users = [
        UserExamples(
            examples=tuple(
                Example(
                    prompt=f"When does parcel {number * 4 + one} arrive?",
                    completion="It arrives on Monday."
                    if number % 2
                    else "Dear customer, thank you for asking. It "
                    "will be with you on Monday, and we are sorry that you had to wait.",
                )
                for one in range(4)
            )
        )
        for number in range(told.users)
    ]
    with tempfile.TemporaryDirectory() as folder:
        base = told.base or write_tiny_base(Path(folder) / "base")
        job = VoteJob(
            base_model=str(base),
            ballots=ballots_of(users, [rendering_of(PromptTemplate(source=one)) for one in TEMPLATES]),
            max_tokens=MOST_TOKENS,
            flags=PerformanceFlags(device=told.device, threads=1),
        )
        vote_of(job.ballots[0], Path(base), job.max_tokens, job.flags)  # loads the base
        began = time.perf_counter()
        given = [vote_of(one, Path(base), job.max_tokens, job.flags) for one in job.ballots]
        seconds = (time.perf_counter() - began) / len(users)
    short, long = tally(given[1::2], len(TEMPLATES)), tally(given[::2], len(TEMPLATES))
    return {
        "base": "tiny, random weights" if told.base is None else Path(told.base).name,
        "users": told.users,
        "seconds_a_user": round(seconds, 4),
        "templates": list(TEMPLATES),
        "votes_of_users_with_short_answers": short,
        "votes_of_users_with_long_answers": long,
        "targets": {},
    }


PARTS = {"accuracy": accuracy, "cost": cost, "votes": votes}


def judged(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each figure that has a target: what was measured, what it must be, and whether it is."""
    return [
        {
            "name": f"{part}: {target.replace('_', ' ')}",
            "value": value,
            "unit": "share",
            "must": f">= {limit:g}",
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
    parser.add_argument("--draws", type=int, default=2_000, help="of each row")
    parser.add_argument("--users", type=int, default=20, help="whose votes are taken")
    parser.add_argument("--base", type=Path, help="a local base model")
    parser.add_argument("--device", default="cpu", help="that the base runs on")
    parser.add_argument("--json", type=Path, help="write the results here")
    told = parser.parse_args()
    results = {part: PARTS[part](told) for part in told.parts}
    for name, result in results.items():
        for row in (*result.get("table", ()), *result.get("needed", ())):
            print(f"{name}: {', '.join(f'{key} {value}' for key, value in row.items())}")
        for key in (
            "base",
            "seconds_a_user",
            "votes_of_users_with_short_answers",
            "votes_of_users_with_long_answers",
        ):
            if key in result:
                print(f"{name}.{key}: {result[key]}")
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
