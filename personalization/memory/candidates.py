"""A collection's candidate: changed documents that a share of the subjects is answered from, over what is live.

It is no second set: for those subjects its documents take the place of the live ones of the same names, and everything
else is the live collection, with each change and removal of it. What is signed says which documents those are, and
which share of whose draw gets them; the live collection's own signature says the rest.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import func
from sqlmodel import col, delete, select

from personalization.memory import versions
from personalization.memory.tables import MemoryCandidateRow, MemoryDocumentRow
from personalization.memory.values import State
from personalization.memory.versions import Decision
from privacy.canonical import canonical_json, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlmodel import Session

    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.versions import Change, Leaf

_log = structlog.get_logger(__name__)
FORMAT: Final = "discreet.memory-candidate.v1"
OPEN: Final = (Decision.TRIED.value, Decision.REMOVED.value)  # after one of these it is tried still


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What of a collection is tried, and on whom.

    Attributes:
        collection: which.
        number: of it, among the numbers of the collection's versions.
        version_id: digest of the documents that it changes.
        documents: how many.
        percent: share of the subjects that gets it.
        salt: of their draw.
        key_id: short name of the key that signed it.
        signature: Ed25519 over ``signed_bytes``, base64.
    """

    collection: str
    number: int
    version_id: str
    documents: int
    percent: float
    salt: str
    key_id: str
    signature: str

    @property
    def name(self) -> str:
        """As headers name it: ``default@8``."""
        return f"{self.collection}@{self.number}"


def opens(session: Session, tenant_id: str) -> tuple[Candidate, ...]:
    """Return what is tried of a tenant's collections, by name; whether it is what was signed, ``holds`` says."""
    last = (
        select(MemoryCandidateRow.collection, func.max(MemoryCandidateRow.sequence).label("sequence"))
        .where(MemoryCandidateRow.tenant_id == tenant_id)
        .group_by(col(MemoryCandidateRow.collection))
        .subquery()
    )
    rows = session.exec(
        select(MemoryCandidateRow)
        .join(
            last,
            (last.c.collection == col(MemoryCandidateRow.collection))
            & (last.c.sequence == col(MemoryCandidateRow.sequence)),
        )
        .where(MemoryCandidateRow.tenant_id == tenant_id, col(MemoryCandidateRow.decision).in_(OPEN))
        .order_by(col(MemoryCandidateRow.collection))
    )
    return tuple(
        Candidate(
            collection=row.collection,
            number=row.number,
            version_id=row.version_id,
            documents=row.documents,
            percent=row.percent,
            salt=row.salt,
            key_id=row.key_id,
            signature=row.signature,
        )
        for row in rows
    )


def open_of(session: Session, tenant_id: str, collection: str) -> Candidate | None:
    """Return what is tried of one collection; ``None`` for nothing."""
    return next((one for one in opens(session, tenant_id) if one.collection == collection), None)


def documents_of(session: Session, tenant_id: str, collection: str) -> Sequence[MemoryDocumentRow]:
    """Return the documents that a candidate changes, by name."""
    return session.exec(
        select(MemoryDocumentRow)
        .where(
            MemoryDocumentRow.tenant_id == tenant_id,
            MemoryDocumentRow.collection == collection,
            MemoryDocumentRow.state == State.CANDIDATE,
        )
        .order_by(col(MemoryDocumentRow.document_id))
    ).all()


def holds(keys: MemoryKeys, tenant_id: str, one: Candidate, leaves: Iterable[Leaf]) -> bool:
    """Say whether a key of memory signed that these documents are the candidate, for this share of the subjects."""
    payload = signed_bytes(tenant_id, one.collection, one.number, one.version_id, one.percent, one.salt)
    fine = version_id_of(leaves) == one.version_id and keys.vouched(one.key_id, one.signature, payload)
    if not fine:
        _log.warning(
            "memory_candidate_not_signed",
            tenant=tenant_id,
            collection=one.collection,
            collection_version=one.number,
        )
    return fine


def leaves_of(rows: Iterable[MemoryDocumentRow]) -> list[Leaf]:
    """Return what of documents a signature covers."""
    return [(row.document_id, row.version, versions.leaf_of(row)) for row in rows]


def version_id_of(leaves: Iterable[Leaf]) -> str:
    """Return the ``sha256:`` digest of what a candidate changes."""
    return digest_of({"format": FORMAT, "documents": sorted(leaves)})


def signed_bytes(
    tenant_id: str, collection: str, number: int, version_id: str, percent: float, salt: str
) -> bytes:
    """Return what is signed: the documents together with whose and which candidate they are, and who gets it."""
    return canonical_json(
        {
            "format": FORMAT,
            "tenant_id": tenant_id,
            "collection": collection,
            "number": number,
            "version_id": version_id,
            "percent": percent,
            "salt": salt,
        }
    )


def next_number(session: Session, tenant_id: str, collection: str, version: int) -> int:
    """Return the next number of a collection: no version and no candidate had it before."""
    of = (MemoryCandidateRow.tenant_id == tenant_id, MemoryCandidateRow.collection == collection)
    tried = session.exec(select(func.max(MemoryCandidateRow.number)).where(*of)).one()
    return max(version, tried or 0) + 1


def moves_of(session: Session, tenant_id: str, collection: str) -> Sequence[MemoryCandidateRow]:
    """Return every decision about the candidates of a collection, oldest first."""
    return session.exec(
        select(MemoryCandidateRow)
        .where(MemoryCandidateRow.tenant_id == tenant_id, MemoryCandidateRow.collection == collection)
        .order_by(col(MemoryCandidateRow.sequence))
    ).all()


def facts_of(
    session: Session,
    keys: MemoryKeys,
    tenant_id: str,
    collection: str,
    moves: Sequence[MemoryCandidateRow],
) -> list[dict[str, Any]]:
    """Return decisions as JSON has them; whether a signature holds is known of what is tried now."""
    now = open_of(session, tenant_id, collection)
    newest = max((row.sequence for row in moves), default=0)
    facts = []
    for row in moves:
        fine = None
        if now is not None and row.sequence == newest:
            fine = holds(keys, tenant_id, now, leaves_of(documents_of(session, tenant_id, collection)))
        facts.append(
            {
                "candidate": row.number,
                "version_id": row.version_id,
                "decision": row.decision,
                "percent": row.percent,
                "documents": row.documents,
                "approved_by": row.actor,
                "reason": row.reason,
                "at": row.at.isoformat(),
                "signed_by": row.key_id,
                "signature_holds": fine,
            }
        )
    return facts


def tried(
    session: Session,
    keys: MemoryKeys,
    tenant_id: str,
    collection: str,
    change: Change,
    *,
    version: int,
    percent: float,
    salt: str,
) -> Candidate:
    """Sign the documents of a collection's candidate as they are now, and store that.

    Args:
        session: the caller's transaction, which locked the tenant.
        keys: sign.
        tenant_id: whose.
        collection: which.
        change: who, why, and what was decided.
        version: the live one's number.
        percent: share of the subjects.
        salt: of their draw.
    """
    rows = documents_of(session, tenant_id, collection)
    for row in rows:
        if not row.salt:
            row.salt = secrets.token_hex(versions.SALT_BYTES)
            session.add(row)
    version_id = version_id_of(leaves_of(rows))
    before = open_of(session, tenant_id, collection)
    same = before is not None and before.version_id == version_id
    number = before.number if before and same else next_number(session, tenant_id, collection, version)
    percent = float(percent)
    signature = keys.sign(signed_bytes(tenant_id, collection, number, version_id, percent, salt))
    made = Candidate(
        collection=collection,
        number=number,
        version_id=version_id,
        documents=len(rows),
        percent=percent,
        salt=salt,
        key_id=signature.key_id,
        signature=signature.signature,
    )
    decided(session, tenant_id, made, change)
    return made


def decided(session: Session, tenant_id: str, one: Candidate, change: Change) -> None:
    """Append a decision about a candidate."""
    of = (MemoryCandidateRow.tenant_id == tenant_id, MemoryCandidateRow.collection == one.collection)
    newest = session.exec(select(func.max(MemoryCandidateRow.sequence)).where(*of)).one()
    session.add(
        MemoryCandidateRow(
            tenant_id=tenant_id,
            sequence=(newest or 0) + 1,
            decision=change.decision.value,
            actor=change.actor,
            reason=change.reason,
            at=change.now,
            **vars(one),
        )
    )
    session.flush()


def forget(session: Session, tenant_id: str) -> None:
    """Delete every decision about candidates of a tenant that leaves."""
    session.connection().execute(
        delete(MemoryCandidateRow).where(col(MemoryCandidateRow.tenant_id) == tenant_id)
    )
