"""The audit trail as values: records chained by hashes, so that a change, a gap or a cut in the middle shows.

A record names an actor (an operator or a service), an action and what it touched; never a user, a pseudonym
or text of a person. A chain proves order and integrity up to its newest record; whoever keeps that record's
digest elsewhere (a printed statement, a release manifest) can also prove that nothing was cut off the end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from privacy.canonical import digest_of
from privacy.errors import LedgerIntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OPERATOR_CHAIN: Final = "_operator"
GENESIS: Final = "sha256:" + "0" * 64


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One thing that somebody did, with the digest of what came before."""

    chain: str
    sequence: int
    at: datetime
    actor: str
    action: str
    detail: Mapping[str, Any]
    previous_digest: str
    digest: str

    def recomputed_digest(self) -> str:
        """Return the digest that this record should have."""
        return digest_of(
            [
                self.chain,
                self.sequence,
                self.at.astimezone(UTC).isoformat(timespec="microseconds"),
                self.actor,
                self.action,
                self.detail,
                self.previous_digest,
            ]
        )

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy for export; ``from_document`` reads it back to an equal record."""
        return {
            "chain": self.chain,
            "sequence": self.sequence,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "actor": self.actor,
            "action": self.action,
            "detail": dict(self.detail),
            "previous_digest": self.previous_digest,
            "digest": self.digest,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AuditRecord:
        """Read a record back from ``to_document``'s form."""
        return cls(**{**document, "at": datetime.fromisoformat(document["at"])})


def sealed(
    *,
    chain: str,
    sequence: int,
    previous_digest: str,
    at: datetime,
    actor: str,
    action: str,
    detail: Mapping[str, Any],
) -> AuditRecord:
    """Return the record that follows ``previous_digest`` in ``chain``, with its digest.

    ``detail`` goes through JSON first, so that what is hashed is what a database or an export gives back.
    """
    plain = json.loads(json.dumps(detail, default=str))
    record = AuditRecord(
        chain=chain,
        sequence=sequence,
        at=at.astimezone(UTC),
        actor=actor,
        action=action,
        detail=plain,
        previous_digest=previous_digest,
        digest="",
    )
    return AuditRecord(**{**record.__dict__, "digest": record.recomputed_digest()})


def verify(records: Iterable[AuditRecord], *, expected_head: str | None = None) -> int:
    """Check one chain from its first record on and return how many records it has.

    Args:
        records: the chain in order of sequence, all of it.
        expected_head: digest of the newest record, kept elsewhere; finds records cut off the end.

    Raises:
        LedgerIntegrityError: a record was changed, left out, inserted or moved; the text names the place.
    """
    count = 0
    head = GENESIS
    chain: str | None = None
    for record in records:
        count += 1
        chain = record.chain if chain is None else chain
        where = f"audit chain {chain!r}, record {count}"
        if record.chain != chain:
            raise LedgerIntegrityError(
                f"{where}: the record belongs to another chain; verify one chain at a time"
            )
        if record.sequence != count:
            raise LedgerIntegrityError(
                f"{where}: the sequence is {record.sequence}; records are missing or moved"
            )
        if record.previous_digest != head:
            raise LedgerIntegrityError(f"{where}: it does not follow the record before it; restore the trail")
        if record.digest != record.recomputed_digest():
            raise LedgerIntegrityError(f"{where}: its content does not match its digest; restore the trail")
        head = record.digest
    if expected_head is not None and head != expected_head:
        raise LedgerIntegrityError(
            f"audit chain {chain!r} ends at {head}, not at {expected_head}; its end was cut off"
        )
    return count
