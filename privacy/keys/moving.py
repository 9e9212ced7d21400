"""Moves wrapped keys of before the key store out of the database; ``discreet db upgrade`` does it.

In bounded transactions: each key is committed in the store before it leaves the database, so a crash loses none, and
the next attempt goes on. The marks of erased users stay, and get tombstones in the store. Backups that were made before
hold the keys beside the texts still; a rotation of the master key, after which the old one is destroyed, makes those
worthless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, update
from sqlmodel import col, select

from privacy.keys.store_tables import PSEUDONYMS, WRAPPING, TenantKey, UserKey
from privacy.keys.tables import SubjectKeyRow, TenantKeyRow
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from privacy.keys.store import KeyStore

USERS_AT_ONCE: Final = 1_000
NAMELESS_WRAPPER: Final = b"unnamed"
"""Stands where the name of the wrapping key does: the tenant's first one, of before keys had names."""


def move_keys(engine: Engine, store: KeyStore, *, now: datetime) -> int:
    """Move every wrapped key from the database into the store and return how many users' keys there were.

    Raises:
        StorageError: one of the two cannot be reached; what was moved is, and the rest is still where it was.
    """
    moved = 0
    while (tenant := _next_tenant(engine)) is not None:
        store.add_tenant_keys(
            [
                TenantKey(tenant.tenant_id, WRAPPING, 1, bytes(tenant.wrapped_key or b"")),
                TenantKey(tenant.tenant_id, PSEUDONYMS, 1, bytes(tenant.wrapped_pseudonym_key or b"")),
            ],
            now,
        )
        after = ""
        while users := _users(engine, tenant.tenant_id, after):
            after = users[-1].subject.pseudonym
            store.add_user_keys(users, now)
            moved += _forget(engine, users)
        with transaction(engine) as session:
            session.connection().execute(
                update(TenantKeyRow)
                .where(col(TenantKeyRow.tenant_id) == tenant.tenant_id)
                .values(wrapped_key=None, wrapped_pseudonym_key=None)
            )
    return moved


def _next_tenant(engine: Engine) -> TenantKeyRow | None:
    with transaction(engine) as session:
        return session.exec(
            select(TenantKeyRow)
            .where(col(TenantKeyRow.wrapped_key).is_not(None))
            .order_by(TenantKeyRow.tenant_id)
            .limit(1)
        ).first()


def _users(engine: Engine, tenant_id: str, after: str) -> list[UserKey]:
    statement = (
        select(SubjectKeyRow.pseudonym, SubjectKeyRow.wrapped_key)
        .where(SubjectKeyRow.tenant_id == tenant_id, SubjectKeyRow.pseudonym > after)
        .order_by(SubjectKeyRow.pseudonym)
        .limit(USERS_AT_ONCE)
    )
    with transaction(engine) as session:
        return [
            UserKey(
                Subject(tenant_id, name),
                None if key is None else bytes(key),
                None if key is None else NAMELESS_WRAPPER,
            )
            for name, key in session.exec(statement)
        ]


def _forget(engine: Engine, users: list[UserKey]) -> int:
    names = [user.subject.pseudonym for user in users]
    with transaction(engine) as session:
        done = session.connection().execute(
            delete(SubjectKeyRow).where(
                col(SubjectKeyRow.tenant_id) == users[0].subject.tenant_id,
                col(SubjectKeyRow.pseudonym).in_(names),
                col(SubjectKeyRow.wrapped_key).is_not(None),
            )
        )
    return int(done.rowcount)
