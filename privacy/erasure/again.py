"""Erase again whom a restored backup, of the database or of the key store, has brought back.

By the pseudonym that the register of erasures keeps, or the tombstone in the key store. No certificate is issued here:
the request stands on its topic, is read again with everything else and answered anew.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from privacy.anchor.due import mark_due
from privacy.consent.statements import delete_statements
from privacy.keys.batch_locks import lock_out_batches
from privacy.keys.destruction import destroy_key, erased_among

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.keys.store import KeyStore
    from privacy.storage.subjects import Subject


def erase_again(
    session: Session,
    store: KeyStore,
    subjects: Sequence[Subject],
    *,
    now: datetime,
    delete_signals: Callable[[Session, str, str], int],
) -> int:
    """Destroy the keys of ``subjects``, delete signals and consents of those whom the database does not know as erased.

    Args:
        session: the caller's transaction.
        store: the key store; none of them has a key there on return.
        subjects: users who were erased, of registered tenants.
        now: the clock.
        delete_signals: deletes the stored signals of (tenant, pseudonym) and returns how many there were.

    Returns:
        How many had come back, to the database or with a key.
    """
    lock_out_batches(session, sorted({subject.tenant_id for subject in subjects}))
    erased = erased_among(session, subjects)
    back = [subject for subject in subjects if subject not in erased]
    for subject in back:
        mark_due(session, subject.tenant_id, pseudonym=subject.pseudonym)
        delete_signals(session, *subject)
        delete_statements(session, *subject)
        destroy_key(session, store, [subject], request=request_again(subject), now=now)
    return len(back) + destroy_keys_again(store, sorted(erased), now=now)


def destroy_keys_again(store: KeyStore, subjects: Sequence[Subject], *, now: datetime) -> int:
    """Destroy the keys that erased users have in the key store all the same; return of how many users there were any.

    A user without a row gets a tombstone.
    """
    held = store.user_keys(subjects)
    back = [subject for subject in subjects if held.get(subject) is not None]
    for subject in subjects:
        if subject not in held or held[subject] is not None:
            store.destroy_user_keys([subject], request_again(subject), now)
    return len(back)


def request_again(subject: Subject) -> bytes:
    """Return the digest that stands for a request whose id is not known any more."""
    return hashlib.sha256("\0".join(("reconciled", *subject)).encode()).digest()
