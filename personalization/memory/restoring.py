"""Go back to an earlier version of a collection: its documents become a new version, but for what was removed.

A document comes back under its own number, so an old citation still names the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlmodel import select

from personalization.errors import MemoryMoveError
from personalization.memory import candidates, histories, pgvector, versions
from personalization.memory.changing import check_room, end, leave, lock, touch
from personalization.memory.queries import listed, opened, row_name
from personalization.memory.sealing import vectors_of
from personalization.memory.tables import MemoryCollectionRow, MemoryDocumentRow
from personalization.memory.values import State
from personalization.memory.versions import Decision
from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlmodel import Session

    from personalization.memory.documents import Place
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.tables import MemoryEntryRow


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """What going back did; documents by names as ``refunds@3``.

    Attributes:
        collection: which.
        version: the new one.
        restores: the one that it goes back to.
        brought_back: documents that are live again.
        set_aside: documents that are live no more, kept for going forward again.
        removed: documents of the earlier version that were removed since, and do not come back.
        not_kept: documents of it whose text was given up, being too old or too much.
        abandoned: number of the candidate that was tried, and is no more; ``None`` where none was.
    """

    collection: str
    version: int
    restores: int
    brought_back: tuple[str, ...]
    set_aside: tuple[str, ...]
    removed: tuple[str, ...]
    not_kept: tuple[str, ...]
    abandoned: int | None = None

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "collection": self.collection,
            "version": self.version,
            "restores": self.restores,
            "brought_back": list(self.brought_back),
            "set_aside": list(self.set_aside),
            "removed": list(self.removed),
            "not_kept": list(self.not_kept),
            "abandoned": self.abandoned,
        }


def roll_back(session: Session, keys: MemoryKeys, place: Place, to: int | None = None) -> RolledBack:
    """Make the documents of an earlier version live again, as a new version; what is tried is abandoned.

    Args:
        session: the caller's transaction.
        keys: open what comes back, and sign the new version.
        place: whose, which, who and why.
        to: the version to go back to; by default the one before what holds now, and one further back each time.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryNotFoundError: the collection keeps no such version.
        MemoryMoveError: there is nothing to go back to, it would change nothing, or the version's signature does not
            hold.
        MemoryDocumentError: the tenant would have too many documents or passages.
    """
    lock(session, place.tenant_id)
    number = histories.before(session, place.tenant_id, place.collection) if to is None else to
    target = histories.require(session, place.tenant_id, place.collection, number)
    wanted = {
        (one.document_id, one.version): one
        for one in histories.entries_at(session, place.tenant_id, place.collection, number)
    }
    if not versions.holds(
        keys, target, target.domain, [(*name, entry.leaf) for name, entry in wanted.items()]
    ):
        raise MemoryMoveError(
            f"the signature of version {number} of the collection {place.collection!r} does not hold; nothing was "
            "changed"
        )
    collection = session.get(MemoryCollectionRow, (place.tenant_id, place.collection))
    moved = collection is not None and (
        collection.domain != target.domain or not versions.stands(session, keys, collection)
    )
    standing = {
        (row.document_id, row.version): row for row in listed(session, place.tenant_id, place.collection)
    }
    live = {name: row for name, row in standing.items() if name in wanted and _is_signed(row, wanted[name])}
    aside = [standing[name] for name in sorted(standing.keys() - live.keys())]
    for row in aside:
        end(session, row, State.SUPERSEDED, place.now)
    session.flush()
    back: list[MemoryDocumentRow] = []
    lost: list[MemoryEntryRow] = []
    for name in sorted(wanted.keys() - live.keys()):
        kept = session.get(MemoryDocumentRow, (place.tenant_id, place.collection, *name))
        if kept is None or kept.sealed is None or not _is_signed(kept, wanted[name]):
            lost.append(wanted[name])
            continue
        _bring_back(session, keys, kept, accepted=wanted[name].accepted)
        back.append(kept)
    moved = _accept_as(session, live, wanted) or moved
    gone = _removed(session, place, lost)
    if not (aside or back or moved):
        more = f" but for {', '.join(_names(lost)[:5])}, which cannot come back" if lost else ""
        raise MemoryMoveError(
            f"the collection {place.collection!r} holds what its version {number} held{more}; nothing was changed"
        )
    if collection is not None:
        collection.domain = target.domain
        session.add(collection)
    candidate = candidates.open_of(session, place.tenant_id, place.collection)
    if candidate is not None:  # whoever goes back wants one known state for everybody
        leave(session, place, candidate)
    session.flush()
    check_room(session, place.tenant_id)
    version, _ = touch(session, keys, place, Decision.ROLLED_BACK, changed=True, restores=number)
    done = RolledBack(
        collection=place.collection,
        version=version,
        restores=number,
        brought_back=tuple(_names(back)),
        set_aside=tuple(_names(aside)),
        removed=tuple(_names(one for one in lost if one.document_id in gone)),
        not_kept=tuple(_names(one for one in lost if one.document_id not in gone)),
        abandoned=None if candidate is None else candidate.number,
    )
    audit_trail.append(
        session,
        place.tenant_id,
        actor=place.actor.strip(),
        action="memory.rolled_back",
        detail={**done.to_document(), "reason": place.reason},
        now=place.now,
    )
    return done


def _is_signed(row: MemoryDocumentRow, entry: MemoryEntryRow) -> bool:
    """Say whether a document is what the signature of a version covers, but for whether marked passages are sent."""
    return versions.leaf_of(row, accepted=entry.accepted) == entry.leaf


def _bring_back(session: Session, keys: MemoryKeys, row: MemoryDocumentRow, *, accepted: bool) -> None:
    document = opened(row, keys)
    row.state, row.ended_at, row.accepted = State.LIVE, None, accepted
    session.add(row)
    if row.vectors is not None and pgvector.kept_here(session):
        plain = keys.open(row.vectors, row.tenant_id, *row_name(row), "vectors")
        pgvector.put(session, row, document.chunks, vectors_of(plain, row.chunks))


def _accept_as(
    session: Session,
    live: dict[tuple[str, int], MemoryDocumentRow],
    wanted: dict[tuple[str, int], MemoryEntryRow],
) -> bool:
    """Send marked passages of what stays as the earlier version did; return whether that changed anything."""
    moved = [name for name in live.keys() & wanted.keys() if live[name].accepted != wanted[name].accepted]
    for name in moved:
        live[name].accepted = wanted[name].accepted
        session.add(live[name])
    return bool(moved)


def _removed(session: Session, place: Place, lost: Iterable[MemoryEntryRow]) -> set[str]:
    """Return which documents of these were removed by a person; of the others the text was given up."""
    latest = {one.document_id: one.version for one in lost}
    if not latest:
        return set()
    found = session.exec(
        select(MemoryDocumentRow.document_id, MemoryDocumentRow.version).where(
            MemoryDocumentRow.tenant_id == place.tenant_id,
            MemoryDocumentRow.collection == place.collection,
            MemoryDocumentRow.state == State.REMOVED,
        )
    )
    return {name for name, version in found if name in latest and version >= latest[name]}


def _names(rows: Iterable[MemoryDocumentRow | MemoryEntryRow]) -> list[str]:
    return [f"{one.document_id}@{one.version}" for one in rows]
