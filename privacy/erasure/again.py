"""Erase again whom a restored backup has brought back, by the pseudonym that the register of erasures keeps.

No certificate is issued here: the request stands on its topic, is read again with everything else and answered anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.anchor.due import mark_due
from privacy.consent.statements import delete_statements
from privacy.keys.batch_locks import lock_out_batches
from privacy.keys.destruction import destroy_key, erased_among

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.storage.subjects import Subject


def erase_again(
    session: Session,
    subjects: Sequence[Subject],
    *,
    now: datetime,
    delete_signals: Callable[[Session, str, str], int],
) -> int:
    """Destroy the keys and delete signals and consents of those of ``subjects`` that are not erased; return how many.

    Args:
        session: the caller's transaction.
        subjects: users who were erased, of registered tenants.
        now: the clock.
        delete_signals: deletes the stored signals of (tenant, pseudonym) and returns how many there were.
    """
    lock_out_batches(session, sorted({subject.tenant_id for subject in subjects}))
    erased = erased_among(session, subjects)
    back = [subject for subject in subjects if subject not in erased]
    for subject in back:
        destroy_key(session, subject, now)
        mark_due(session, subject.tenant_id, pseudonym=subject.pseudonym)
        delete_signals(session, *subject)
        delete_statements(session, *subject)
    return len(back)
