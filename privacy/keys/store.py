"""The key store: a database of its own, whose backups end, with every key that text is sealed with.

It is apart from the database of the texts, so that a backup of one is worth nothing without one of the other, and so
that the backups of keys can be few and short. Its transactions are its own as well; whoever uses both keeps this order:

*A key comes before what it seals.* A new key is committed here before the transaction that stores the first ciphertext
under it. A crash in between leaves a key that seals nothing.

*A key goes before the certificate that says so.* A key is destroyed, and that is committed here, before the transaction
that holds the certificate. A crash in between leaves ciphertexts that nobody can read and a request that was not
answered; it comes again, finds what it destroyed by ``request``, and is answered then.

A row whose key is gone stays as a tombstone: no key is ever made for that user again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import (
    bindparam,
    delete,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import make_url

from privacy.errors import StorageError
from privacy.keys.store_tables import (
    FORM,
    METADATA,
    SECRETS,
    STORE,
    TENANT_KEYS,
    USER_KEYS,
    TenantKey,
    UserKey,
)
from privacy.storage.bulk import insert_missing_rows, moment_writer
from privacy.storage.session import open_engine, reading, transaction
from privacy.storage.subjects import PLACED_SUBJECTS, Subject

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine

_WRAPPED_KEYS: Final = {
    name: f"SELECT w.place, k.wrapped_key FROM {placed} JOIN user_keys k"  # noqa: S608  # from code
    " ON k.tenant_id = w.tenant_id AND k.pseudonym = w.pseudonym"
    for name, placed in PLACED_SUBJECTS.items()
}


@dataclass(frozen=True)
class KeyStore:
    """The key store behind one engine; safe to share between threads. Every call is a transaction of its own."""

    engine: Engine

    def prepare(self) -> None:
        """Make the tables where they are missing.

        Raises:
            StorageError: the store cannot be reached, or a newer version of this code made it.
        """
        with transaction(self.engine) as session:
            connection = session.connection()
            if connection.dialect.name == "postgresql":  # two that prepare at once queue up
                session.execute(select(func.pg_advisory_xact_lock(7_243_003)))
            METADATA.create_all(connection)
            insert_missing_rows(session, "key_store", ("form",), [(FORM,)])
        self.check()

    def check(self) -> None:
        """Refuse a store that is not there or has another form.

        Raises:
            StorageError: it is so, or the store cannot be reached.
        """
        with reading(self.engine) as session:
            if not inspect(session.connection()).has_table("key_store"):
                raise StorageError("the key store has no tables yet; run `discreet db upgrade`")
            form = session.execute(select(func.max(STORE.c.form))).scalar_one()
        if form != FORM:
            raise StorageError(
                f"the key store has form {form} and this version needs {FORM}; install the newer one"
            )

    # --- tenants' keys

    def tenant_keys(self, tenant_ids: Collection[str] | None = None) -> list[TenantKey]:
        """Return the keys of these tenants, or of all, oldest first."""
        statement = select(
            TENANT_KEYS.c.tenant_id,
            TENANT_KEYS.c.purpose,
            TENANT_KEYS.c.number,
            TENANT_KEYS.c.wrapped_key,
        ).order_by(TENANT_KEYS.c.tenant_id, TENANT_KEYS.c.purpose, TENANT_KEYS.c.number)
        found: list[TenantKey] = []
        with reading(self.engine) as session:
            for part in [None] if tenant_ids is None else _parts(sorted(tenant_ids)):
                asked = statement if part is None else statement.where(TENANT_KEYS.c.tenant_id.in_(part))
                found += [TenantKey(row[0], row[1], row[2], bytes(row[3])) for row in session.execute(asked)]
        return found

    def add_tenant_keys(self, keys: Sequence[TenantKey], now: datetime) -> None:
        """Store keys; one whose place is taken is left out."""
        with transaction(self.engine) as session:
            at = moment_writer(session)(now)
            columns = ("tenant_id", "purpose", "number", "wrapped_key", "created_at")
            insert_missing_rows(session, "tenant_keys", columns, [(*key, at) for key in sorted(keys)])

    def rewrap_tenant_key(self, key: TenantKey, wrapped: bytes) -> bool:
        """Put ``wrapped`` in the place of what ``key`` holds; say whether that was still there."""
        table = TENANT_KEYS
        statement = (
            update(table)
            .where(
                table.c.tenant_id == key.tenant_id,
                table.c.purpose == key.purpose,
                table.c.number == key.number,
                table.c.wrapped_key == key.wrapped,
            )
            .values(wrapped_key=wrapped)
        )
        with transaction(self.engine) as session:
            return bool(session.connection().execute(statement).rowcount)

    def destroy_tenant_key(self, key: TenantKey) -> None:
        """Destroy a tenant's key that wraps nothing any more."""
        table = TENANT_KEYS
        with transaction(self.engine) as session:
            session.execute(
                delete(table).where(
                    table.c.tenant_id == key.tenant_id,
                    table.c.purpose == key.purpose,
                    table.c.number == key.number,
                )
            )
        self._leave_no_traces()

    # --- users' keys

    def user_keys(self, subjects: Sequence[Subject]) -> dict[Subject, bytes | None]:
        """Return the wrapped key of each of these users that has a row; ``None`` where it was destroyed."""
        if not subjects:
            return {}
        asked = orjson.dumps([[*subject] for subject in subjects]).decode()
        with reading(self.engine) as session:
            connection = session.connection()
            rows = connection.exec_driver_sql(_WRAPPED_KEYS[connection.dialect.name], (asked,)).all()
        return {subjects[place]: None if key is None else bytes(key) for place, key in rows}

    def add_user_keys(self, keys: Sequence[UserKey], now: datetime) -> None:
        """Store users' keys, or tombstones; a user who has a row keeps it. They are committed on return."""
        if not keys:
            return
        with transaction(self.engine) as session:
            at = moment_writer(session)(now)
            columns = ("tenant_id", "pseudonym", "wrapped_key", "wrapped_by", "created_at", "destroyed_at")
            rows = [
                (*key.subject, key.wrapped, key.wrapped_by, at, at if key.wrapped is None else None)
                for key in sorted(keys, key=lambda key: key.subject)
            ]
            insert_missing_rows(session, "user_keys", columns, rows)

    def destroy_user_keys(self, subjects: Sequence[Subject], request: bytes, now: datetime) -> int:
        """Destroy the key of one user, for good and committed on return; leave tombstones.

        Args:
            subjects: all names that the user has or had.
            request: digest of the request; a repeat of it counts what it destroyed before a crash.
            now: the clock.

        Returns:
            1 where this request destroyed the user's key, 0 where there was none.
        """
        table = USER_KEYS
        self.add_user_keys([UserKey(subject, None, None) for subject in subjects], now)
        destroyed = 0
        with transaction(self.engine) as session:
            for tenant_id, pseudonym in sorted(subjects):
                whose = (table.c.tenant_id == tenant_id) & (table.c.pseudonym == pseudonym)
                session.execute(
                    update(table)
                    .where(whose, table.c.wrapped_key.is_not(None))
                    .values(wrapped_key=None, wrapped_by=None, destroyed_at=now, destroyed_for=request)
                )
                counted = select(func.count()).where(whose, table.c.destroyed_for == request)
                destroyed += session.execute(counted).scalar_one()
        self._leave_no_traces()
        return min(destroyed, 1)

    def destroyed_users(self, tenant_id: str, after: str, most: int) -> list[str]:
        """Return up to ``most`` names of the tenant's users whose key was destroyed, from ``after`` on."""
        table = USER_KEYS
        statement = (
            select(table.c.pseudonym)
            .where(
                table.c.tenant_id == tenant_id, table.c.pseudonym > after, table.c.destroyed_at.is_not(None)
            )
            .order_by(table.c.pseudonym)
            .limit(most)
        )
        with reading(self.engine) as session:
            return [row[0] for row in session.execute(statement)]

    def users_wrapped_by(self, tenant_id: str, wrapped_by: bytes, most: int) -> list[UserKey]:
        """Return up to ``most`` users whose key is wrapped by that key of the tenant."""
        table = USER_KEYS
        statement = (
            select(table.c.pseudonym, table.c.wrapped_key)
            .where(table.c.tenant_id == tenant_id, table.c.wrapped_by == wrapped_by)
            .order_by(table.c.pseudonym)
            .limit(most)
        )
        with reading(self.engine) as session:
            return [
                UserKey(Subject(tenant_id, row[0]), bytes(row[1]), wrapped_by)
                for row in session.execute(statement)
            ]

    def rewrap_user_keys(self, keys: Sequence[tuple[UserKey, bytes, bytes]]) -> int:
        """Put (new wrapped key, its wrapper's name) in the place of what each row holds; return how many held it still.

        A key that was destroyed meanwhile stays so.
        """
        table = USER_KEYS
        statement = (
            update(table)
            .where(
                table.c.tenant_id == bindparam("tenant"),
                table.c.pseudonym == bindparam("name"),
                table.c.wrapped_key == bindparam("held"),
            )
            .values(wrapped_key=bindparam("wrapped"), wrapped_by=bindparam("by"))
        )
        rows = [
            {
                "tenant": key.subject.tenant_id,
                "name": key.subject.pseudonym,
                "held": key.wrapped,
                "wrapped": wrapped,
                "by": by,
            }
            for key, wrapped, by in keys
        ]
        with transaction(self.engine) as session:
            return sum(session.connection().execute(statement, row).rowcount for row in rows)

    def users_named(self, tenant_id: str, first: str, last: str, most: int) -> list[UserKey]:
        """Return up to ``most`` rows of the tenant whose name is at least ``first`` and below ``last``."""
        table = USER_KEYS
        statement = (
            select(table.c.pseudonym, table.c.wrapped_key, table.c.wrapped_by)
            .where(table.c.tenant_id == tenant_id, table.c.pseudonym >= first, table.c.pseudonym < last)
            .order_by(table.c.pseudonym)
            .limit(most)
        )
        with reading(self.engine) as session:
            return [
                UserKey(Subject(tenant_id, row[0]), _bytes(row[1]), _bytes(row[2]))
                for row in session.execute(statement)
            ]

    def drop_user_rows(self, subjects: Sequence[Subject]) -> None:
        """Delete rows whose users have another name now."""
        table = USER_KEYS
        statement = delete(table).where(
            table.c.tenant_id == bindparam("tenant"), table.c.pseudonym == bindparam("name")
        )
        if subjects:
            with transaction(self.engine) as session:
                rows = [{"tenant": tenant, "name": name} for tenant, name in sorted(subjects)]
                session.connection().execute(statement, rows)

    def count_users(self) -> list[tuple[str, bytes | None, int]]:
        """Return (tenant, name of the wrapping key or ``None`` of tombstones, rows) of all users' rows."""
        table = USER_KEYS
        columns = (table.c.tenant_id, table.c.wrapped_by)
        with reading(self.engine) as session:
            rows = session.execute(select(*columns, func.count()).group_by(*columns)).all()
        return [(row[0], _bytes(row[1]), row[2]) for row in rows]

    # --- secrets of other kinds

    def secret(self, name: str) -> bytes | None:
        """Return the wrapped secret of that name; ``None`` where there is none."""
        with reading(self.engine) as session:
            return _bytes(session.execute(select(SECRETS.c.wrapped).where(SECRETS.c.name == name)).scalar())

    def secrets(self, beginning: str = "") -> Mapping[str, bytes]:
        """Return every wrapped secret whose name has that beginning."""
        statement = select(SECRETS.c.name, SECRETS.c.wrapped).where(SECRETS.c.name.startswith(beginning))
        with reading(self.engine) as session:
            return {name: bytes(wrapped) for name, wrapped in session.execute(statement)}

    def add_secret(self, name: str, wrapped: bytes, now: datetime) -> bytes:
        """Store a wrapped secret and return what is stored under its name, which may be another's that was first."""
        with transaction(self.engine) as session:
            row = (name, wrapped, moment_writer(session)(now))
            insert_missing_rows(session, "secrets", ("name", "wrapped", "created_at"), [row])
            statement = select(SECRETS.c.wrapped).where(SECRETS.c.name == name)
            return bytes(session.execute(statement).scalar_one())

    def rewrap_secret(self, name: str, held: bytes, wrapped: bytes) -> bool:
        """Put ``wrapped`` in the place of ``held``; say whether that was still there."""
        statement = (
            update(SECRETS).where(SECRETS.c.name == name, SECRETS.c.wrapped == held).values(wrapped=wrapped)
        )
        with transaction(self.engine) as session:
            return bool(session.connection().execute(statement).rowcount)

    def destroy_secrets(self, names: Collection[str]) -> None:
        """Destroy the secrets of these names."""
        if names:
            with transaction(self.engine) as session:
                session.execute(delete(SECRETS).where(SECRETS.c.name.in_(sorted(names))))
            self._leave_no_traces()

    def _leave_no_traces(self) -> None:
        """Let SQLite move its log into the file, where deleted bytes are overwritten, and empty the log.

        A reader may hold this up; whoever destroys the next key does it then. PostgreSQL's vacuum and log have their
        own time.
        """
        if self.engine.dialect.name != "sqlite":
            return
        connection = self.engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.close()
        finally:
            connection.close()


def open_store(url: str, *, busy_timeout_seconds: float = 30.0) -> KeyStore:
    """Return the key store at ``url``; its tables may still be missing (``KeyStore.prepare``).

    A new SQLite file is made for its owner alone; its logs get the same rights.
    """
    file = make_url(url).database if url.startswith("sqlite") else None
    if file and Path(file).parent.is_dir():
        Path(file).touch(mode=0o600)
    return KeyStore(open_engine(url, busy_timeout_seconds=busy_timeout_seconds))


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _parts(names: Sequence[str], size: int = 500) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
