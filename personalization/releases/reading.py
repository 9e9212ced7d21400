"""Up to which events a round's data reach, in the tenant's audit trail, where a story proves it by its chain.

Offsets count the events of all tenants, so they are the operator's own; they stand in no manifest and in no event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.rounds.tables import RoundRow
    from personalization.starts.shop import Position

READ: Final = "round.read"
ACTOR: Final = "trainer"


def note_read(session: Session, row: RoundRow, positions: Sequence[Position], *, now: datetime) -> None:
    """Record how far topics were consumed when a round read its data, in the transaction of the read.

    Every event below an offset had its effect on what was read; some above it may have had theirs too.
    """
    if not positions:
        return
    detail = {
        "round_id": row.round_id,
        "inputs": [
            {"topic": topic, "partition": partition, "next_offset": offset}
            for topic, partition, offset in sorted(positions)
        ],
    }
    audit_trail.append(session, row.tenant_id, actor=ACTOR, action=READ, detail=detail, now=now)


def inputs_of(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the offsets that a story's trail names, the newest read's; none of versions from before they were kept."""
    found = [record["detail"]["inputs"] for record in records if record["action"] == READ]
    return [dict(one) for one in found[-1]] if found else []
