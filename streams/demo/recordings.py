"""Recorded interactions as a scenario: any folder of ``*.jsonl.gz`` files, one tenant per file.

Each line is one JSON object: ``tenant, user, id, at`` (unix seconds)``, prompt, completion``; the completion
is what the user wrote, so it counts as accepted. Times are moved so that the newest event lies just before
now and the whole history fits into ``SPREAD``: an old recording would otherwise be past every retention.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from streams.demo.scenario import Outcome, Person, TenantScenario, Turn, heldout_count
from streams.errors import ScenarioError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

SPREAD = timedelta(days=6)
MARGIN = timedelta(minutes=1)  # the newest event lies this long before now
SUFFIX = ".jsonl.gz"
FIELDS: dict[str, type | tuple[type, ...]] = {
    "tenant": str,
    "user": str,
    "id": str,
    "at": (int, float),
    "prompt": str,
    "completion": str,
}


def recorded_tenants(folder: Path) -> list[str]:
    """Return the names of the tenants that ``folder`` holds, in alphabetical order.

    Raises:
        ScenarioError: there is no such folder, or no recording in it.
    """
    names = sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
    if not names:
        raise ScenarioError(
            f"{folder} holds no *{SUFFIX} file; name a folder of recorded interactions with --data"
        )
    return names


def read_recording(folder: Path, tenant: str, *, max_users: int, now: datetime) -> TenantScenario:
    """Return the scenario of one recorded tenant, its users drawn by a hash of their ids.

    Raises:
        ScenarioError: the file is missing, a line is not in the format, or there are too few users.
    """
    path = folder / f"{tenant}{SUFFIX}"
    if not path.is_file():
        known = ", ".join(recorded_tenants(folder))
        raise ScenarioError(f"{tenant} is not recorded in {folder}; its tenants are {known}")
    by_user: dict[str, list[dict[str, object]]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            record = _parse(line, where=f"{path.name} line {number}")
            by_user[str(record["user"])].append(record)
    wanted = max_users + heldout_count(max_users)
    users = sorted(by_user, key=lambda user: hashlib.sha256(f"{tenant}/{user}".encode()).digest())[:wanted]
    if len(users) < wanted:
        raise ScenarioError(
            f"{tenant} has {len(users)} recorded users and {wanted} are needed ({max_users} to publish and "
            "the rest held out); ask for fewer with --max-users"
        )
    move = _time_shift([record for user in users for record in by_user[user]], now)
    people = [_person(user, by_user[user], move) for user in users]
    return TenantScenario(tenant=tenant, people=tuple(people[:max_users]), heldout=tuple(people[max_users:]))


def _parse(line: str, *, where: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ScenarioError(f"{where} is not JSON; every line must be one JSON object") from error
    wrong = [name for name, kind in FIELDS.items() if not isinstance(record.get(name), kind)]
    if wrong:
        raise ScenarioError(f"{where} lacks a usable {wrong[0]}; needed are {', '.join(FIELDS)}")
    return dict(record)


class _TimeShift:
    """Maps recorded unix seconds onto the days before now, keeping their order."""

    def __init__(self, oldest: float, newest: float, now: datetime) -> None:
        self._oldest, self._span, self._now = oldest, max(newest - oldest, 1.0), now

    def __call__(self, at: float) -> datetime:
        share = (at - self._oldest) / self._span
        return self._now - MARGIN - SPREAD * (1 - share)


def _time_shift(records: list[dict[str, object]], now: datetime) -> _TimeShift:
    times = [float(str(record["at"])) for record in records]
    return _TimeShift(min(times), max(times), now)


def _person(user: str, records: list[dict[str, object]], move: _TimeShift) -> Person:
    turns = [
        Turn(
            event_id=str(record["id"]),
            occurred_at=move(float(str(record["at"]))),
            prompt=str(record["prompt"]),
            shown=str(record["completion"]),
            outcome=Outcome.ACCEPTED,
            final=str(record["completion"]),
        )
        for record in records
    ]
    return Person(user_id=user, turns=tuple(sorted(turns, key=lambda turn: turn.occurred_at)))
