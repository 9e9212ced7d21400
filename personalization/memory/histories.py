"""Look into the versions of a collection: what stood in one, what changed between two, what held when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlmodel import col, select

from personalization.errors import MemoryMoveError, MemoryNotFoundError
from personalization.memory.candidates import OPEN
from personalization.memory.tables import (
    MemoryCandidateRow,
    MemoryCollectionRow,
    MemoryDocumentRow,
    MemoryEntryRow,
    MemoryVersionRow,
)
from personalization.memory.versions import KEPT, Decision, find, holds, oldest_kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.memory.sealing import MemoryKeys

MOST_TOLD: Final = 20  # versions in the story of an adapter version


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What changes from one version of a collection to another, by names as ``refunds@3``."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...]
    accepted: tuple[str, ...]  # marked passages are sent in one of the two alone
    domain: tuple[str, str] | None = None


def versions_of(session: Session, tenant_id: str, collection: str) -> Sequence[MemoryVersionRow]:
    """Return every version of a collection that was signed, oldest first."""
    return session.exec(
        select(MemoryVersionRow)
        .where(MemoryVersionRow.tenant_id == tenant_id, MemoryVersionRow.collection == collection)
        .order_by(col(MemoryVersionRow.number))
    ).all()


def require(session: Session, tenant_id: str, collection: str, number: int) -> MemoryVersionRow:
    """Return a version that one can still look into.

    Raises:
        MemoryNotFoundError: there is none of that number, or it is too old.
    """
    row = find(session, tenant_id, collection, number)
    there = session.get(MemoryCollectionRow, (tenant_id, collection)) is not None
    if row is None or not there or number < oldest_kept(session, tenant_id, collection):
        raise MemoryNotFoundError(
            f"the collection {collection!r} keeps no version {number}; `discreet memory versions` shows what it keeps "
            f"(the newest and {KEPT} before it)"
        )
    return row


def entries_at(session: Session, tenant_id: str, collection: str, number: int) -> Sequence[MemoryEntryRow]:
    """Return what stood in a version of a collection, by name."""
    until = col(MemoryEntryRow.until)
    return session.exec(
        select(MemoryEntryRow)
        .where(
            MemoryEntryRow.tenant_id == tenant_id,
            MemoryEntryRow.collection == collection,
            MemoryEntryRow.since <= number,
            until.is_(None) | (until > number),
        )
        .order_by(col(MemoryEntryRow.document_id))
    ).all()


def before(session: Session, tenant_id: str, collection: str) -> int:
    """Return the version before what holds now; each roll-back goes one further back, and none comes forward.

    Raises:
        MemoryMoveError: there is none.
    """
    rows = {row.number: row for row in versions_of(session, tenant_id, collection)}
    if not rows:
        raise MemoryMoveError(
            f"the collection {collection!r} has no signed version; there is nothing to go back to"
        )
    now = rows[max(rows)]
    while now.restores is not None and now.restores in rows:
        now = rows[now.restores]
    earlier = max((number for number in rows if number < now.number), default=None)
    if earlier is None:
        raise MemoryMoveError(
            f"the collection {collection!r} held nothing before; there is nothing to go back to"
        )
    return earlier


def difference(session: Session, tenant_id: str, collection: str, one: int, other: int) -> Difference:
    """Return what changes from one version of a collection to another.

    Raises:
        MemoryNotFoundError: one of the two is not kept.
    """
    first, second = (require(session, tenant_id, collection, number) for number in (one, other))
    old, new = (
        {entry.document_id: entry for entry in entries_at(session, tenant_id, collection, row.number)}
        for row in (first, second)
    )
    both = sorted(old.keys() & new.keys())
    return Difference(
        added=tuple(_name(new[name]) for name in sorted(new.keys() - old.keys())),
        removed=tuple(_name(old[name]) for name in sorted(old.keys() - new.keys())),
        replaced=tuple(
            (_name(old[name]), _name(new[name])) for name in both if old[name].version != new[name].version
        ),
        accepted=tuple(
            _name(new[name])
            for name in both
            if old[name].version == new[name].version and old[name].accepted != new[name].accepted
        ),
        domain=None if first.domain == second.domain else (first.domain or "*", second.domain or "*"),
    )


def facts_of(session: Session, keys: MemoryKeys, row: MemoryVersionRow, *, kept: bool) -> dict[str, Any]:
    """Return a version as JSON has it, with its list of sources where it is kept; never what they say."""
    facts: dict[str, Any] = {
        "collection": row.collection,
        "version": row.number,
        "version_id": row.version_id,
        "domain": row.domain or "*",
        "documents": row.documents,
        "decision": row.decision,
        "restores": row.restores,
        "approved_by": row.actor,
        "reason": row.reason,
        "at": row.at.isoformat(),
        "signed_by": row.key_id,
        "signature_holds": None,
        "sources": None,
    }
    if not kept:
        return facts
    entries = entries_at(session, row.tenant_id, row.collection, row.number)
    facts["signature_holds"] = holds(
        keys, row, row.domain, [(one.document_id, one.version, one.leaf) for one in entries]
    )
    facts["sources"] = [_source(session, entry) for entry in entries]
    return facts


def held_between(
    session: Session, tenant_id: str, domain: str, since: datetime, until: datetime | None
) -> list[dict[str, Any]]:
    """Return the versions of collections that a domain's questions were answered from in a time, with what was tried.

    Oldest first; of a decision about a candidate, ``percent`` is the share of the users that it was tried on since.

    Args:
        session: the caller's transaction.
        tenant_id: whose.
        domain: of the line.
        since: the version that held then comes first, of each collection.
        until: no later ones; ``None`` for no end.
    """
    query = select(MemoryVersionRow).where(
        MemoryVersionRow.tenant_id == tenant_id, col(MemoryVersionRow.domain).in_(("", domain))
    )
    if until is not None:
        query = query.where(MemoryVersionRow.at <= until)
    rows = session.exec(query.order_by(col(MemoryVersionRow.collection), col(MemoryVersionRow.number))).all()
    begun = {row.collection: row.number for row in rows if row.at <= since}
    held = [row for row in rows if row.number >= begun.get(row.collection, 0)]
    told = [_held(row, row.restores, None) for row in held]
    told += [
        _held(row, None, row.percent) for row in _tried_between(session, tenant_id, domain, since, until)
    ]
    told.sort(key=lambda one: (one["at"], one["collection"], one["version"]))
    return told[-MOST_TOLD:]


def _held(
    row: MemoryVersionRow | MemoryCandidateRow, restores: int | None, percent: float | None
) -> dict[str, Any]:
    return {
        "collection": row.collection,
        "version": row.number,
        "version_id": row.version_id,
        "decision": row.decision,
        "restores": restores,
        "percent": percent,
        "documents": row.documents,
        "by": row.actor,
        "reason": row.reason,
        "at": row.at.isoformat(),
    }


def _tried_between(
    session: Session, tenant_id: str, domain: str, since: datetime, until: datetime | None
) -> list[MemoryCandidateRow]:
    """Return what was decided about candidates in a time, and what was tried already when it began."""
    query = (
        select(MemoryCandidateRow)
        .join(
            MemoryCollectionRow,
            (col(MemoryCollectionRow.tenant_id) == col(MemoryCandidateRow.tenant_id))
            & (col(MemoryCollectionRow.collection) == col(MemoryCandidateRow.collection)),
        )
        .where(
            MemoryCandidateRow.tenant_id == tenant_id,
            MemoryCollectionRow.tenant_id == tenant_id,
            col(MemoryCollectionRow.domain).in_(("", domain)),
        )
    )
    if until is not None:
        query = query.where(MemoryCandidateRow.at <= until)
    rows = session.exec(
        query.order_by(col(MemoryCandidateRow.collection), col(MemoryCandidateRow.sequence))
    ).all()
    begun = {row.collection: row for row in rows if row.at <= since}
    standing = [row for row in begun.values() if row.decision in OPEN]
    later = [row for row in rows if row.at > since and row.decision != Decision.PROMOTED]
    return [*standing, *later]  # that one was promoted, the version that it became tells


def _source(session: Session, entry: MemoryEntryRow) -> dict[str, Any]:
    row = session.get(
        MemoryDocumentRow, (entry.tenant_id, entry.collection, entry.document_id, entry.version)
    )
    return {
        "id": entry.document_id,
        "version": entry.version,
        "sha256": None if row is None or not row.digest else row.digest.removeprefix("sha256:"),
        "approved_by": "" if row is None else row.approved_by,
        "valid_from": None if row is None else row.added_at.isoformat(),
        "valid_until": row.valid_until.isoformat() if row is not None and row.valid_until else None,
        "marked_accepted": entry.accepted,
        "kept": row is not None and row.sealed is not None,
    }


def _name(entry: MemoryEntryRow) -> str:
    return f"{entry.document_id}@{entry.version}"
