"""Makes the database and the key store agree again on who was erased, after one of them was restored from a backup.

A restored key store has keys again that erasures had destroyed: each user whom the database marks as erased loses that
key again. A restored database lacks marks and has rows again: each user of whom the key store has a tombstone is
marked, and that user's rows are deleted. In bounded transactions; running it again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from privacy.erasure.again import destroy_keys_again, erase_again
from privacy.keys.destruction import marked_users
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from privacy.keys.store import KeyStore

AT_ONCE: Final = 500


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What was mended.

    Attributes:
        keys: keys of erased users that were in the key store again.
        users: erased users whom the database did not know as such any more.
    """

    keys: int
    users: int


def reconcile(
    engine: Engine,
    store: KeyStore,
    tenant_id: str,
    *,
    now: datetime,
    delete_signals: Callable[[Session, str, str], int],
) -> Reconciled:
    """Carry out again, for one tenant, what a restored backup has undone of its erasures.

    Args:
        engine: the database.
        store: the key store.
        tenant_id: the tenant.
        now: the clock.
        delete_signals: deletes the stored signals of (tenant, pseudonym) and returns how many there were.
    """
    keys, after = 0, ""
    while marked := _marked(engine, tenant_id, after):
        after = marked[-1]
        keys += destroy_keys_again(store, [Subject(tenant_id, name) for name in marked], now=now)
    users, after = 0, ""
    while names := store.destroyed_users(tenant_id, after, AT_ONCE):
        after = names[-1]
        with transaction(engine) as session:
            subjects = [Subject(tenant_id, name) for name in names]
            users += erase_again(session, store, subjects, now=now, delete_signals=delete_signals)
    return Reconciled(keys=keys, users=users)


def _marked(engine: Engine, tenant_id: str, after: str) -> list[str]:
    with transaction(engine) as session:
        return marked_users(session, tenant_id, after, AT_ONCE)
