"""How long a vote on style takes: from the texts of many users to a style card, terms included.

    python tests/benchmarks/styles.py --users 10000 --repeats 3 --json styles.json

Four made-up texts a user, in four frames and none, with edits in a third of them; the noise is what a policy of so many
users and ε = 2 charges. The median of the repetitions, of wall and processor time, and the process's largest memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from personalization.styles.contents import content_of
from personalization.styles.discovery import discover
from personalization.styles.families import PUBLIC, Feature
from personalization.styles.votes import StyleText, UserTexts
from privacy.accounting.calibration import style_vote_of
from privacy.policy.values import TenantPrivacyPolicy

FRAMES = (
    "AREA-{n}: {what} (#{n})",
    "{name}: {what}",
    "[{name}] {what}.",
    "Dear {name}, {what}. Kind regards",
    "{what}",
)
TEXTS, EDITED, MOST_SECONDS = 4, 0.33, 5.0


def user(rng: random.Random) -> UserTexts:
    """Return the texts of one user, who has a frame that most of them are in."""
    usual, texts = rng.choice(FRAMES), []
    for _ in range(TEXTS):
        content = content_of(rng.choice(PUBLIC[Feature.PROMPT_KIND]), rng)
        frame = usual if rng.random() < 0.8 else rng.choice(FRAMES)
        final = frame.format(n=rng.randrange(20_000), what=content.answer, name=content.names[0])
        shown = final.replace("the", "teh") if rng.random() < EDITED else None
        texts.append(StyleText(prompt=content.prompt, final=final, shown=shown))
    return UserTexts(texts=tuple(texts))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    rng = random.Random(0)
    users = [user(rng) for _ in range(given.users)]
    policy = TenantPrivacyPolicy(
        declared_users=given.users, period_epsilon=2, lifetime_epsilon=2, planned_releases=1, terms=True
    )
    vote = style_vote_of(policy)
    if vote is None:
        print(f"no vote fits a policy of {given.users} users and ε = 2", file=sys.stderr)
        return 2
    wall, processor, entries = [], [], 0
    for repeat in range(given.repeats):
        began, spent = time.perf_counter(), time.process_time()
        card = discover(
            users, vote, bytes([repeat]) * 32, declared_users=given.users, voters=given.users, terms=True
        )
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - spent)
        entries = len(card.entries)
    what, memory = (
        f"{given.users} users, {TEXTS} texts each",
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    seconds = statistics.median(wall)
    rows = [
        {"name": f"discovery, {what}: wall time", "value": seconds, "unit": "s",
         "must": f"<= {MOST_SECONDS:g}", "ok": seconds <= MOST_SECONDS},
        {"name": f"discovery, {what}: processor time", "value": statistics.median(processor), "unit": "s",
         "must": None, "ok": None},
        {"name": "largest memory, texts included", "value": memory, "unit": "MiB", "must": None, "ok": None},
        {"name": "entries of the card", "value": entries, "unit": "entries", "must": None, "ok": None},
    ]  # fmt: skip
    for row in rows:
        print(
            f"{row['name']}: {row['value']:.2f} {row['unit']}" + (f" ({row['must']})" if row["must"] else "")
        )
    document = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[0]:.1f}",
        "settings": {
            "users": given.users,
            "repeats": given.repeats,
            "seed": 0,
            "noise": vote.noise_multiplier,
        },
        "rows": rows,
    }
    if given.json is not None:
        given.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return 0 if all(row["ok"] is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
