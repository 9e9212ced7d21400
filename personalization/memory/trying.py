"""Try changed documents on a share of the users first, then promote them or abandon them.

A candidate's documents are approved like all others: numbered, sealed, audited. The draw is that of adapters and prompt
templates, so a user is always drawn alike, and who is drawn at one percentage is drawn at every larger one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from personalization.errors import MemoryMoveError, MemoryNotFoundError
from personalization.memory import candidates, versions
from personalization.memory.changing import (
    begin,
    change_of,
    check_room,
    end,
    leave,
    lock,
    noted,
    require_each_once,
    says,
    touch,
    write,
)
from personalization.memory.documents import told
from personalization.memory.queries import listed
from personalization.memory.tables import MemoryCollectionRow
from personalization.memory.values import Fate, State
from personalization.memory.versions import Decision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlmodel import Session

    from personalization.memory.candidates import Candidate
    from personalization.memory.documents import Added, Place, Prepared
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.tables import MemoryDocumentRow


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What trying documents did.

    Attributes:
        candidate: as it is now.
        documents: what became of each that was given.
    """

    candidate: Candidate
    documents: tuple[Added, ...]


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """What promoting a candidate did; documents by names as ``refunds@3``.

    Attributes:
        collection: which.
        candidate: number of what was tried.
        version: the new live one.
        documents: that are live now.
        replaced: that are live no more, kept for going back.
    """

    collection: str
    candidate: int
    version: int
    documents: tuple[str, ...]
    replaced: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "collection": self.collection,
            "candidate": self.candidate,
            "version": self.version,
            "documents": list(self.documents),
            "replaced": list(self.replaced),
        }


def attempt(
    session: Session,
    keys: MemoryKeys,
    place: Place,
    documents: Sequence[Prepared],
    percent: float | None = None,
) -> Tried:
    """Answer a share of the users from changed or new documents; what is tried already stays beside them.

    Args:
        session: the caller's transaction.
        keys: seal the documents and sign the candidate.
        place: whose, which, who and why.
        documents: all of them or none; none to change the share alone.
        percent: share of the users; ``None`` leaves it as it is.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryNotFoundError: there is no such collection.
        MemoryMoveError: the share is none, nothing would change, or what stands is not what was signed.
        MemoryDocumentError: a name stands twice, or the tenant would have too many documents or passages.
    """
    require_each_once(documents)
    begin(session, keys, place, Decision.TRIED)
    row = session.get(MemoryCollectionRow, (place.tenant_id, place.collection))
    if row is None or row.version < 1:
        raise MemoryNotFoundError(
            f"there is no collection {place.collection!r} to change; approve its first documents with "
            "`discreet memory add`"
        )
    before = _standing(session, keys, place)
    share = percent if percent is not None or before is None else before.percent
    if share is None:
        raise MemoryMoveError(
            "nothing is tried yet, and no share of the users is named; name more than 0 and less than 100 % with "
            "--percent"
        )
    if not 0 < share < 100:
        raise MemoryMoveError(
            f"a share of {share:g} % of the users is asked for; allowed are more than 0 and less than 100 %; `discreet "
            "memory promote` gives what is tried to everybody"
        )
    done = _attempted(session, keys, place, documents)
    changed = [one for one in done if one.fate is not Fate.UNCHANGED]
    if not changed and (before is None or share == before.percent):
        if done:
            said = "what is given is live or tried already"
        elif before is None:
            said = "nothing is tried, and no document is given"
        else:
            said = (
                f"{share:g} % of the users are answered from what is tried already, and no document is given"
            )
        raise MemoryMoveError(f"nothing would change: {said}")
    session.flush()
    check_room(session, place.tenant_id)
    made = candidates.tried(
        session,
        keys,
        place.tenant_id,
        place.collection,
        change_of(place, Decision.TRIED),
        version=row.version,
        percent=share,
        salt=secrets.token_hex(16) if before is None else before.salt,
    )
    noted(session, place, "memory.tried", made.number, changed, percent=made.percent)
    return Tried(candidate=made, documents=tuple(done))


def promote(session: Session, keys: MemoryKeys, place: Place) -> Promoted:
    """Make what is tried live for everybody, as a new version of the collection.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryMoveError: nothing is tried, or what is tried or live is not what was signed; nothing was changed.
    """
    begin(session, keys, place, Decision.PROMOTED)
    candidate = _require(_standing(session, keys, place), place)
    rows = candidates.documents_of(session, place.tenant_id, place.collection)
    live = _by_name(listed(session, place.tenant_id, place.collection))
    replaced = [live[row.document_id] for row in rows if row.document_id in live]
    for one in replaced:
        end(session, one, State.SUPERSEDED, place.now)
    session.flush()
    for row in rows:
        row.state = State.LIVE
        session.add(row)
    session.flush()
    candidates.decided(session, place.tenant_id, candidate, change_of(place, Decision.PROMOTED))
    version, _ = touch(session, keys, place, Decision.PROMOTED, changed=True)
    noted(
        session,
        place,
        "memory.promoted",
        version,
        [told(row, Fate.ADDED) for row in rows],
        candidate=candidate.number,
    )
    return Promoted(
        collection=place.collection,
        candidate=candidate.number,
        version=version,
        documents=tuple(f"{one.document_id}@{one.version}" for one in rows),
        replaced=tuple(f"{one.document_id}@{one.version}" for one in replaced),
    )


def abandon(session: Session, place: Place) -> Candidate:
    """Answer nobody from what is tried any more, and delete what it says; it needs no signature to hold.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryMoveError: nothing is tried.
    """
    lock(session, place.tenant_id)
    candidate = _require(candidates.open_of(session, place.tenant_id, place.collection), place)
    gone = [
        told(row, Fate.ADDED) for row in candidates.documents_of(session, place.tenant_id, place.collection)
    ]
    leave(session, place, candidate)
    noted(session, place, "memory.abandoned", candidate.number, gone)
    return candidate


def _standing(session: Session, keys: MemoryKeys, place: Place) -> Candidate | None:
    """Return what is tried.

    Raises:
        MemoryMoveError: it is not what was signed.
    """
    candidate = candidates.open_of(session, place.tenant_id, place.collection)
    rows = candidates.documents_of(session, place.tenant_id, place.collection)
    if candidate is None:
        for row in rows:  # nobody decided to try it
            end(session, row, State.SUPERSEDED, place.now)
            versions.emptied(session, row)
        session.flush()
        return None
    if not candidates.holds(keys, place.tenant_id, candidate, candidates.leaves_of(rows)):
        raise MemoryMoveError(
            f"the candidate of the collection {place.collection!r} does not hold what was signed, so nothing was "
            "changed; `discreet memory abandon` it, then try the documents again"
        )
    return candidate


def _require(candidate: Candidate | None, place: Place) -> Candidate:
    if candidate is None:
        raise MemoryMoveError(f"nothing of the collection {place.collection!r} is tried; nothing was changed")
    return candidate


def _attempted(
    session: Session, keys: MemoryKeys, place: Place, documents: Sequence[Prepared]
) -> list[Added]:
    live = _by_name(listed(session, place.tenant_id, place.collection))
    held = _by_name(candidates.documents_of(session, place.tenant_id, place.collection))
    done = []
    for one in documents:
        before = held.get(one.draft.document_id)
        standing = before or live.get(one.draft.document_id)
        if standing is not None and says(standing, one):
            done.append(told(standing, Fate.UNCHANGED))
            continue
        if before is not None:  # nobody goes back to it
            end(session, before, State.SUPERSEDED, place.now)
            versions.emptied(session, before)
            session.flush()
        row = write(session, keys, place, one, State.CANDIDATE)
        done.append(told(row, Fate.ADDED if standing is None else Fate.SUPERSEDED))
    return done


def _by_name(rows: Sequence[MemoryDocumentRow]) -> Mapping[str, MemoryDocumentRow]:
    return {row.document_id: row for row in rows}
