"""Gives users of a tenant the names that its newest pseudonym key makes, wherever the old ones stand.

Nobody's user id is needed for it, because the new name is made from the old one (``privacy.keys.pseudonyms``). While a
tenant is being renamed, whoever names a user in a transaction first renames that user there (``rename_users``), so each
user has one name at a time; a rotation renames all the others (``privacy.keys.rotation``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from sqlalchemy import func, text
from sqlmodel import SQLModel, select

from privacy.keys.keyring import user_key_context
from privacy.keys.pseudonyms import names_of
from privacy.keys.store_tables import UserKey
from privacy.storage.subjects import Subject

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy import Table
    from sqlmodel import Session

    from privacy.keys.keyring import Keyring, TenantKeys

_PAIRS: Final = {
    "sqlite": "(SELECT key AS old, value AS new FROM json_each(:pairs)) w",
    "postgresql": "(SELECT key AS old, value AS new FROM json_each_text(CAST(:pairs AS json))) w",
}


def tables_of_users() -> list[Table]:
    """Return every table of the database that names users of tenants."""
    return [
        table
        for table in SQLModel.metadata.sorted_tables
        if {"tenant_id", "pseudonym"} <= set(table.columns.keys())
    ]


def hold_names(session: Session, tenant_id: str, *, renames: bool = False) -> None:
    """Let nobody rename users of the tenant until this transaction ends, or be the only one who does (``renames``).

    Take it after ``join_batches``. On SQLite a transaction is alone anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock if renames else func.pg_advisory_xact_lock_shared
        session.exec(select(lock(func.hashtextextended(f"discreet names {tenant_id}", 0))))


def rename_users(
    session: Session,
    keyring: Keyring,
    tenant_id: str,
    keys: TenantKeys,
    names: Collection[str],
    *,
    now: datetime,
) -> None:
    """Rename those of the tenant's users who have one of ``names`` (under the key before the newest).

    Their keys are copied in the key store first, and committed; the old rows there are the rotation's to drop, for
    until the caller's transaction is committed they are the ones that count.

    Args:
        session: inside the caller's transaction, which joined the batches.
        keyring: has the key store.
        tenant_id: whose users.
        keys: the tenant's, as of now.
        names: old names.
        now: the clock.
    """
    if not names:
        return
    hold_names(session, tenant_id, renames=True)
    new = {name: keys.hashes.renamed(name) for name in sorted(names)}
    copied: list[UserKey] = []
    for old, wrapped in keyring.store.user_keys([Subject(tenant_id, name) for name in new]).items():
        subject = Subject(tenant_id, new[old.pseudonym])
        if wrapped is None:
            copied.append(UserKey(subject, None, None))
        else:
            key = keys.unwrap(wrapped, old)
            again = keys.cipher.seal(key, user_key_context(subject))
            copied.append(UserKey(subject, again, keys.cipher.key_id))
    keyring.store.add_user_keys(copied, now)
    _replace(session, tenant_id, new)


def _replace(session: Session, tenant_id: str, new: Mapping[str, str]) -> None:
    pairs = _PAIRS[session.get_bind().dialect.name]
    given = {"tenant": tenant_id, "pairs": orjson.dumps(dict(new)).decode()}
    for table in tables_of_users():
        session.connection().execute(
            text(
                f"UPDATE {table.name} SET pseudonym = w.new FROM {pairs}"  # noqa: S608  # names come from code
                f" WHERE {table.name}.tenant_id = :tenant AND {table.name}.pseudonym = w.old"
            ),
            given,
        )


def names_under(session: Session, tenant_id: str, number: int, most: int) -> list[str]:
    """Return up to ``most`` names of the tenant's users that its pseudonym key ``number`` made, from all tables."""
    first, last = names_of(number)
    found: set[str] = set()
    for table in tables_of_users():
        column = table.c.pseudonym
        found |= set(
            session.connection()
            .execute(
                table.select()
                .with_only_columns(column)
                .where(table.c.tenant_id == tenant_id, column >= first, column < last)
                .distinct()
                .order_by(column)
                .limit(most)
            )
            .scalars()
        )
    return sorted(found)[:most]
