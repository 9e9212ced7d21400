"""Append to and read the stored audit chains, inside the caller's transaction."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import func
from sqlmodel import col, select

from privacy.audit.records import GENESIS, AuditRecord, sealed
from privacy.audit.tables import AuditRow

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlmodel import Session


def append(
    session: Session, chain: str, *, actor: str, action: str, detail: Mapping[str, Any], now: datetime
) -> AuditRecord:
    """Append one record to ``chain`` (a tenant id or ``OPERATOR_CHAIN``) and return it.

    Writers of one chain queue up until the transaction ends: on SQLite by its write lock, on PostgreSQL by
    an advisory lock. Whoever appends to several chains in one transaction does so in sorted order of names.
    """
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(b"audit:" + chain.encode()).digest()[:8], signed=True)
        session.exec(select(func.pg_advisory_xact_lock(number)))
    newest = session.exec(
        select(AuditRow.sequence, AuditRow.digest)
        .where(AuditRow.chain == chain)
        .order_by(col(AuditRow.sequence).desc())
        .limit(1)
    ).first()
    sequence, previous = (newest[0] + 1, newest[1]) if newest else (1, GENESIS)
    record = sealed(
        chain=chain,
        sequence=sequence,
        previous_digest=previous,
        at=now,
        actor=actor,
        action=action,
        detail=detail,
    )
    session.add(AuditRow(**record.__dict__))
    session.flush()
    return record


def read(session: Session, chain: str) -> list[AuditRecord]:
    """Return all records of ``chain`` in order, ready for ``privacy.audit.records.verify``."""
    rows = session.exec(select(AuditRow).where(AuditRow.chain == chain).order_by(col(AuditRow.sequence)))
    return [AuditRecord(**row.model_dump()) for row in rows]


def records_of(session: Session, chain: str, *, actor: str, action: str) -> list[AuditRecord]:
    """Return what one actor did of one kind, in order; records that came between are left out."""
    rows = session.exec(
        select(AuditRow)
        .where(AuditRow.chain == chain, AuditRow.action == action, AuditRow.actor == actor)
        .order_by(col(AuditRow.sequence))
    )
    return [AuditRecord(**row.model_dump()) for row in rows]
