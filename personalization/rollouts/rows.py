"""Read and write rollouts; whoever changes one holds the lock of its line."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, update
from sqlmodel import col, or_, select

from personalization.errors import RolloutError
from personalization.rollouts.deciding import look_at
from personalization.rollouts.evidence import Evidence, Reading, Verdict
from personalization.rollouts.tables import GuardReadingRow, RolloutRow
from personalization.rollouts.values import RUNNING, Flag, Mode, Plan, Rollout, Stage
from privacy.clock import CLOCK_TOLERANCE
from privacy.policy.rollout import GUARDS, MOST_READING
from privacy.storage.upserts import insert_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlmodel import Session

IDS_PER_STATEMENT: Final = 500
_COMPARES: Final = '"comparison"'


def find(session: Session, line_ref: str) -> RolloutRow | None:
    """Return the row of a line, as the database has it now; ``None`` where nothing was ever decided about the line."""
    return session.exec(
        select(RolloutRow).where(RolloutRow.line_ref == line_ref).execution_options(populate_existing=True)
    ).one_or_none()


def value_of(row: RolloutRow | None) -> Rollout:
    """Return the value that a row stands for; a line without a row is free, on, and has no candidate."""
    if row is None:
        return Rollout()
    return Rollout(
        stage=Stage(row.stage),
        step=row.step,
        candidate=row.candidate_version_id,
        salt=row.salt,
        entered_at=row.entered_at,
        mode=Mode(row.mode),
        flag=Flag(row.flag),
        plan=Plan.from_document(json.loads(row.plan_json)),
    )


def shown_at(row: RolloutRow, now: datetime) -> tuple[Rollout, str]:
    """Return how a rollout stands for who must not see a slot before it has come, and the verdict on its candidate.

    A version is registered when its training has ended, and its candidate enters at the public instant of its slot;
    until then the line stands as it stood before. Mode and flag are people's, and hold at once.
    """
    stands = value_of(row)
    if row.entered_at is None or row.entered_at <= now:
        return stands, row.verdict
    before = None if row.before_json is None else json.loads(row.before_json)
    entered_at = None if before is None else datetime.fromisoformat(before["entered_at"])
    if before is None or entered_at is None or entered_at > now:
        return Rollout(mode=stands.mode, flag=stands.flag), Verdict.NONE.value
    stood = Rollout(
        stage=Stage(before["stage"]),
        step=before["step"],
        candidate=before["candidate"],
        entered_at=entered_at,
        mode=stands.mode,
        flag=stands.flag,
        plan=Plan.from_document(before["plan"]),
    )
    return stood, str(before["verdict"])


def store(
    session: Session,
    line_ref: str,
    tenant_id: str,
    rollout: Rollout,
    *,
    now: datetime,
    checks_passed: bool | None = None,
) -> RolloutRow:
    """Make the row of a line say ``rollout``.

    Args:
        session: holds the lock of the line.
        line_ref: which line.
        tenant_id: whose.
        rollout: where it stands now.
        now: the public clock.
        checks_passed: of a new candidate's public checks; ``None`` for a candidate that stays.
    """
    row = find(session, line_ref) or RolloutRow(
        line_ref=line_ref, tenant_id=tenant_id, stage="none", step=-1, salt="", mode="free", flag="on",
        plan_json="{}",
    )  # fmt: skip
    if row.entered_at is not None and row.entered_at != rollout.entered_at:
        row.before_json = json.dumps(_stood(row), sort_keys=True)
    if row.candidate_version_id != rollout.candidate:
        row.verdict = Verdict.NONE.value
    if rollout.plan.comparison is not None or _COMPARES in row.plan_json:
        row.compare_at = now  # it may begin, or must end
    row.stage = rollout.stage.value
    row.step = rollout.step
    row.candidate_version_id = rollout.candidate
    row.salt = rollout.salt
    row.entered_at = rollout.entered_at
    row.mode = rollout.mode.value
    row.flag = rollout.flag.value
    row.plan_json = json.dumps(rollout.plan.to_document(), sort_keys=True)
    row.look_at = look_at(rollout, now, moved=True)
    if checks_passed is not None:
        row.checks_passed = checks_passed
    session.add(row)
    return row


def list_all(session: Session, tenant_id: str | None = None) -> Sequence[RolloutRow]:
    """Return the rollouts of one tenant's lines, or of all."""
    query = select(RolloutRow).order_by(col(RolloutRow.line_ref))
    return session.exec(query if tenant_id is None else query.where(RolloutRow.tenant_id == tenant_id)).all()


def lowered_flags(session: Session) -> dict[str, Flag]:
    """Return the flag of every line that may not show everything."""
    rows = session.exec(select(RolloutRow.line_ref, RolloutRow.flag).where(RolloutRow.flag != Flag.ON.value))
    return {line_ref: Flag(flag) for line_ref, flag in rows}


def lines_that_stay(session: Session) -> frozenset[str]:
    """Return the lines that are pinned or frozen, or on which a rollout runs: nothing else may be put on them."""
    running = [stage.value for stage in RUNNING]
    return frozenset(
        session.exec(
            select(RolloutRow.line_ref).where(
                or_(col(RolloutRow.mode) != Mode.FREE.value, col(RolloutRow.stage).in_(running))
            )
        )
    )


def due(session: Session, now: datetime, *, most: int) -> Sequence[RolloutRow]:
    """Return rollouts that are to be looked at, those that have waited longest first; nothing is locked."""
    return session.exec(
        select(RolloutRow)
        .where(col(RolloutRow.look_at) <= now)
        .order_by(col(RolloutRow.look_at), col(RolloutRow.line_ref))
        .limit(most)
    ).all()


def looked(session: Session, later: Mapping[str, tuple[datetime, datetime]]) -> None:
    """Put off rollouts that do not move: of each line until when, if nobody has changed that meanwhile.

    Args:
        session: the caller's transaction.
        later: of each line, when it was to be looked at, and when it is to be looked at next.
    """
    if not later:
        return
    table = RolloutRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
    statement = (
        update(table)
        .where(table.c.line_ref == bindparam("of_line"), table.c.look_at == bindparam("of_time"))
        .values(look_at=bindparam("until"))
    )
    rows = [
        {"of_line": line_ref, "of_time": was, "until": until}
        for line_ref, (was, until) in sorted(later.items())
    ]
    session.connection().execute(statement, rows)


def wake(session: Session, told: Collection[tuple[str, str]], now: datetime) -> None:
    """Have rollouts looked at in the next tick, because something was told of their candidates.

    Args:
        session: the caller's transaction.
        told: (line, version id) of each; versions that are no candidates wake nobody.
        now: the clock.
    """
    if not told:
        return
    table = RolloutRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
    statement = (
        update(table)
        .where(
            table.c.line_ref == bindparam("of_line"),
            table.c.candidate_version_id == bindparam("of_version"),
            table.c.look_at > now,
            table.c.entered_at <= now,
        )
        .values(look_at=now)
    )
    # By line, as the tick does it, so that two of them never wait for each other in a circle.
    rows = [{"of_line": line_ref, "of_version": version_id} for line_ref, version_id in sorted(set(told))]
    session.connection().execute(statement, rows)


def comparisons_due(session: Session, now: datetime, *, most: int) -> Sequence[RolloutRow]:
    """Return rollouts whose comparison is to be attended to, those that have waited longest first."""
    return session.exec(
        select(RolloutRow)
        .where(col(RolloutRow.compare_at) <= now)
        .order_by(col(RolloutRow.compare_at), col(RolloutRow.line_ref))
        .limit(most)
    ).all()


def attend(session: Session, row: RolloutRow, at: datetime | None) -> None:
    """Say when a rollout's comparison is to be attended to next; ``None``: never. The caller holds the line's lock."""
    row.compare_at = at
    session.add(row)


def judge(session: Session, row: RolloutRow, verdict: Verdict, now: datetime) -> None:
    """Store what a comparison says, and have the rollout looked at. The caller holds the line's lock."""
    row.verdict = verdict.value
    if row.look_at is not None:
        row.look_at = now
    session.add(row)


def read_guard(session: Session, line_ref: str, version_id: str, reading: Reading) -> None:
    """Keep the newest reading of a guard, and have the rollout looked at.

    Raises:
        RolloutError: the value is none that the guard can have, or it is no guard.
    """
    most = MOST_READING.get(reading.name)
    if most is None or not (math.isfinite(reading.value) and 0 <= reading.value <= most):
        raise RolloutError(
            f"the reading of guard {reading.name[:63]!r} is {reading.value}; allowed are "
            f"{', '.join(GUARDS)}, each a finite number of 0 or more, and rates at most 1"
        )
    insert = insert_for(session, GuardReadingRow)
    statement = insert.on_conflict_do_update(
        index_elements=["version_id", "name"],
        set_={"value": insert.excluded.value, "measured_at": insert.excluded.measured_at},
        # A reading from the future was taken by a clock that was wrong: what comes now replaces it.
        where=or_(
            insert.excluded.measured_at >= col(GuardReadingRow.measured_at),
            col(GuardReadingRow.measured_at) > reading.at + CLOCK_TOLERANCE,
        ),
    )
    row = {
        "version_id": version_id,
        "name": reading.name,
        "value": reading.value,
        "measured_at": reading.at,
    }
    session.connection().execute(statement, row)
    wake(session, [(line_ref, version_id)], reading.at)


def reading_of(session: Session, version_id: str, name: str) -> Reading | None:
    """Return the newest reading of one guard of a version, ``None`` where there is none."""
    row = session.get(GuardReadingRow, (version_id, name), populate_existing=True)
    return None if row is None else Reading(name=row.name, value=row.value, at=row.measured_at)


def readings_of(session: Session, version_id: str) -> list[Reading]:
    """Return the newest reading of each guard of a version, by name."""
    rows = session.exec(
        select(GuardReadingRow)
        .where(GuardReadingRow.version_id == version_id)
        .order_by(col(GuardReadingRow.name))
    )
    return [Reading(name=row.name, value=row.value, at=row.measured_at) for row in rows]


def evidence_of(
    session: Session, rows: Iterable[RolloutRow], acks: Mapping[str, tuple[int, int]]
) -> dict[str, Evidence]:
    """Return the evidence of each line's candidate.

    Args:
        session: the caller's transaction.
        rows: the rollouts.
        acks: of each candidate's version id, how many servers verified it and how many failed.
    """
    rows = list(rows)
    ids = sorted({row.candidate_version_id for row in rows if row.candidate_version_id is not None})
    readings: dict[str, list[Reading]] = {}
    for part in _parts(ids):
        for one in session.exec(select(GuardReadingRow).where(col(GuardReadingRow.version_id).in_(part))):
            found = Reading(name=one.name, value=one.value, at=one.measured_at)
            readings.setdefault(one.version_id, []).append(found)
    evidence = {}
    for row in rows:
        version_id = row.candidate_version_id or ""
        verified, failed = acks.get(version_id, (0, 0))
        evidence[row.line_ref] = Evidence(
            checks_passed=row.checks_passed,
            verified=verified,
            failed=failed,
            readings=tuple(readings.get(version_id, ())),
            verdict=Verdict(row.verdict),
        )
    return evidence


def _stood(row: RolloutRow) -> dict[str, object]:
    return {
        "stage": row.stage,
        "step": row.step,
        "candidate": row.candidate_version_id,
        "entered_at": None if row.entered_at is None else row.entered_at.isoformat(),
        "plan": json.loads(row.plan_json),
        "verdict": row.verdict,
    }


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[first : first + IDS_PER_STATEMENT] for first in range(0, len(ids), IDS_PER_STATEMENT))
