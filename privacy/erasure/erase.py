"""Carry out erasures inside the caller's transaction: signals, consents, key, certificate, audit record.

Signals live in another package, so the caller passes what deletes them. All but the key is one transaction. The key
lies in a store of its own (``privacy.keys.store``) and is destroyed there, and that is committed, after everything that
could fail was done and before the certificate stands. So a certificate never tells of a key that is still there, and
where the transaction fails after all, nobody can read what it leaves; the request is tried again and counts the key
again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlmodel import col, select

from privacy.anchor.due import mark_due
from privacy.audit import trail as audit_trail
from privacy.consent.statements import delete_statements
from privacy.erasure.certificates import Erasure, ErasureCertificate, ErasureState
from privacy.erasure.tables import ErasureRow
from privacy.keys.batch_locks import lock_out_batches
from privacy.keys.destruction import destroy_key
from privacy.keys.envelope import associated
from privacy.storage.subjects import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.erasure.certificates import BackupRetention
    from privacy.keys.store import KeyStore

    DeleteSignals = Callable[[Session, str, str], int]
    LiveAdapters = Callable[[Session, str], Sequence[str]]


def erase(
    session: Session,
    subject: tuple[str, str],
    *,
    erasure_id: str,
    requested_at: datetime,
    actor: str,
    now: datetime,
    store: KeyStore,
    backups: BackupRetention,
    delete_signals: DeleteSignals,
    live_adapters: LiveAdapters | None = None,
    earlier_names: Sequence[str] = (),
) -> ErasureCertificate:
    """Erase one user and return the certificate.

    A person's request that was carried out before returns its certificate again; another person's request of the same
    id is another request, with a certificate of its own. Afterwards the user's key is
    destroyed for good, signals and consents are deleted, and ``erased_among`` (keys) tells ingest to refuse the
    user. A user of whom nothing was stored is marked too. Whoever erases users of several tenants in one transaction
    calls ``lock_out_batches`` for all of them first.

    Args:
        session: inside the caller's transaction.
        subject: (tenant, pseudonym).
        erasure_id: the product's id of the request, one of this user's.
        requested_at: when the user asked; the legal deadline counts from it.
        actor: who carries it out, for the audit trail.
        now: the clock.
        store: the key store, in which the user's key is destroyed.
        backups: how long backups are kept, for the certificate.
        delete_signals: deletes the stored signals of (tenant, pseudonym) and returns how many there were.
        live_adapters: returns the served names of the tenant's live versions, for the certificate.
        earlier_names: the user's pseudonyms under earlier keys of the tenant.
    """
    tenant_id, pseudonym = subject
    lock_out_batches(session, [tenant_id])
    done = session.get(ErasureRow, (tenant_id, pseudonym, erasure_id))
    if done is not None and done.certificate is not None:
        return ErasureCertificate.from_document(done.certificate)
    erasure = Erasure(tenant_id=tenant_id, erasure_id=erasure_id, requested_at=requested_at).advanced(now)
    names = [Subject(tenant_id, name) for name in (*earlier_names, pseudonym)]
    mark_due(session, tenant_id, pseudonym=pseudonym)
    delete_signals(session, tenant_id, pseudonym)
    delete_statements(session, tenant_id, pseudonym)
    erasure = erasure.advanced(now)
    request = hashlib.sha256(associated("erasure", tenant_id, names[0].pseudonym, erasure_id)).digest()
    keys = destroy_key(session, store, names, request=request, now=now)
    certificate = ErasureCertificate(
        tenant_id=tenant_id,
        erasure_id=erasure_id,
        requested_at=requested_at,
        issued_at=now,
        keys_destroyed=keys,
    ).with_backups(backups)
    certificate = certificate.with_adapters(
        live_adapters(session, tenant_id) if live_adapters is not None else ()
    )
    # How many signals one user had is personal; certificate and trail keep that the erasure happened, and when.
    audited = audit_trail.append(
        session,
        tenant_id,
        actor=actor,
        action="subject.erased",
        detail={"erasure_id": erasure_id, "requested_at": requested_at.isoformat()},
        now=now,
    )
    certificate = replace(certificate, audit_digest=audited.digest)
    session.add(
        ErasureRow(
            tenant_id=tenant_id,
            erasure_id=erasure_id,
            pseudonym=pseudonym,
            state=erasure.state,
            requested_at=requested_at,
            recorded_at=now,
            deadline_at=erasure.deadline_at,
            completed_at=erasure.completed_at,
            certificate=certificate.to_document(),
        )
    )
    session.flush()
    return certificate


def certificates(session: Session, tenant_id: str) -> list[ErasureCertificate]:
    """Return the certificates of a tenant's erasures, oldest first."""
    rows = session.exec(
        select(ErasureRow)
        .where(ErasureRow.tenant_id == tenant_id, ErasureRow.state == ErasureState.COMPLETED)
        .order_by(col(ErasureRow.recorded_at), col(ErasureRow.erasure_id), col(ErasureRow.pseudonym))
    )
    return [ErasureCertificate.from_document(row.certificate) for row in rows if row.certificate is not None]
