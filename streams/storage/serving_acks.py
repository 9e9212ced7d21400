"""What each server said last about each adapter version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlmodel import col, func, or_, select

from privacy.storage.upserts import insert_for
from streams.contracts.ack import AckStatus
from streams.storage.tables import ServingAckRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlmodel import Session

LINES_PER_STATEMENT = 500
_COLUMNS = tuple(name for name in ServingAckRow.model_fields if name not in {"served_name", "server_id"})


def keep_newest(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store ``rows``, one of each server and version; what is older than the stored one changes nothing.

    Rows of concurrent transactions wait for each other: pass them in the order of (served name, server id).
    """
    if not rows:
        return
    insert = insert_for(session, ServingAckRow)
    given = insert.excluded
    newer = or_(
        given.epoch > col(ServingAckRow.epoch),
        (given.epoch == col(ServingAckRow.epoch)) & (given.occurred_at >= col(ServingAckRow.occurred_at)),
    )
    upsert = insert.on_conflict_do_update(
        index_elements=["served_name", "server_id"],
        set_={name: given[name] for name in _COLUMNS},
        where=newer,
    )
    session.connection().execute(upsert, rows)


def verified_by(session: Session, server_id: str) -> frozenset[str]:
    """Return the served names of the versions that a server said last to have verified."""
    rows = session.exec(
        select(ServingAckRow.served_name).where(
            ServingAckRow.server_id == server_id, ServingAckRow.status == "verified"
        )
    )
    return frozenset(rows)


def said_of(session: Session, version_id: str) -> list[dict[str, Any]]:
    """Return what each server said last about a version, by server, JSON-ready."""
    rows = session.exec(
        select(ServingAckRow)
        .where(ServingAckRow.version_id == version_id)
        .order_by(col(ServingAckRow.server_id))
    )
    return [
        {
            "server_id": row.server_id,
            "engine": row.engine,
            "status": row.status,
            "reason": row.reason,
            "probe_effect": row.probe_effect,
            "at": row.occurred_at.isoformat(),
        }
        for row in rows
    ]


def counts_of(session: Session, line_refs: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return, of each version of these lines that servers spoke of, how many verified it and how many failed to."""
    counts: dict[str, tuple[int, int]] = {}
    refs = sorted(line_refs)
    for first in range(0, len(refs), LINES_PER_STATEMENT):
        statement = (
            select(ServingAckRow.version_id, ServingAckRow.status, func.count())
            .where(
                col(ServingAckRow.line_ref).in_(refs[first : first + LINES_PER_STATEMENT]),
                col(ServingAckRow.status).in_((AckStatus.VERIFIED.value, AckStatus.FAILED.value)),
            )
            .group_by(col(ServingAckRow.version_id), col(ServingAckRow.status))
        )
        for version_id, status, count in session.exec(statement):
            verified, failed = counts.get(version_id, (0, 0))
            counts[version_id] = (count, failed) if status == AckStatus.VERIFIED.value else (verified, count)
    return counts
