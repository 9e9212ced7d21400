"""The keys of tenants and users: master key → tenant key → user key → data.

The master key comes from the settings and is never stored. It wraps each tenant's two keys (one for
pseudonyms, one that wraps user keys); the tenant's key wraps one key per user; a user's text is sealed with
that user's key. Destroying a user's wrapped key therefore makes that user's text unreadable everywhere,
backups included.

User keys are cached, least recently used first out. A key enters the cache when the transaction that read or
made it is committed, so a key of a rolled-back transaction is never used. Every batch first reads the
erasure counts of its tenants: a count that moved empties that tenant's part of the cache, so a key that any
process destroyed is not used again. No erasure of a batch's tenants goes on beside it
(``privacy.keys.batch_locks``).

Longer than 400 lines, because the cache, what a transaction stages for it and the rules between them are one thing.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson
from sqlalchemy import event
from sqlmodel import col, select

from privacy.errors import KeyUnavailableError, UnknownTenantError
from privacy.keys.batch_locks import join_batches
from privacy.keys.envelope import Cipher, associated, new_key, new_nonces
from privacy.keys.pseudonyms import TenantHashes
from privacy.keys.tables import TenantKeyRow
from privacy.policy.versions import registered_among
from privacy.storage.bulk import insert_missing_rows, moment_writer
from privacy.storage.subjects import PLACED_SUBJECTS, Subject, wanted_tenants
from privacy.storage.upserts import insert_ignoring_conflicts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

DEFAULT_CACHED_KEYS: Final = 100_000
_STAGED: Final = "discreet.staged_keys"

_WRAPPED_KEYS: Final = {
    name: f"SELECT w.place, k.wrapped_key FROM {placed} JOIN subject_keys k"  # noqa: S608  # from code
    " ON k.tenant_id = w.tenant_id AND k.pseudonym = w.pseudonym"
    for name, placed in PLACED_SUBJECTS.items()
}


def new_master_key() -> str:
    """Return a new master key as the base64 text that the settings take."""
    return base64.b64encode(new_key()).decode()


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """A tenant's keys, unwrapped.

    Attributes:
        pseudonym_key: for ``privacy.keys.pseudonyms`` and other keyed hashes of the tenant; 32 bytes.
        cipher: wraps the tenant's user keys.
        hashes: the pseudonyms and ranks of the tenant's users.
    """

    pseudonym_key: bytes = field(repr=False)
    cipher: Cipher = field(repr=False)
    hashes: TenantHashes = field(repr=False)


@dataclass(slots=True)
class _Tenant:
    """A tenant's keys, and its erasure count when they and its user keys were read."""

    keys: TenantKeys
    erasures: int


@dataclass(slots=True)
class _Staged:
    """What one open transaction read or made; it enters the cache at commit."""

    tenants: dict[str, _Tenant] = field(default_factory=dict)
    users: dict[Subject, Cipher] = field(default_factory=dict)


class Keyring:
    """Seals and opens what belongs to users, for one master key; safe to share between threads.

    Args:
        master_key: 32 bytes, or their base64 text.
        cached_keys: most user keys held in memory.
    """

    def __init__(self, master_key: bytes | str, *, cached_keys: int = DEFAULT_CACHED_KEYS) -> None:
        self._master = Cipher(_decoded(master_key))
        self._limit = cached_keys
        self._lock = threading.Lock()
        self._tenants: dict[str, _Tenant] = {}
        self._users: OrderedDict[Subject, Cipher] = OrderedDict()

    def wrap(self, secret: bytes, purpose: str) -> bytes:
        """Return ``secret`` sealed with the master key for ``purpose`` (such as a round's noise seed)."""
        return self._master.seal(secret, associated("wrapped", purpose))

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        """Return the secret that ``wrap`` sealed for the same ``purpose``.

        Raises:
            KeyUnavailableError: it was wrapped by another master key or for another purpose.
        """
        return self._master.open(wrapped, associated("wrapped", purpose))

    def tenant_keys(self, session: Session, tenant_id: str, *, now: datetime) -> TenantKeys:
        """Return the keys of a tenant, made at first use.

        Raises:
            UnknownTenantError: no such tenant is registered.
            KeyUnavailableError: the master key is not the one that the tenant's keys were wrapped with.
        """
        return self.keys_of_tenants(session, [tenant_id], now=now)[tenant_id]

    def keys_of_tenants(
        self, session: Session, tenant_ids: Collection[str], *, now: datetime
    ) -> Mapping[str, TenantKeys]:
        """Return the keys of each of ``tenant_ids``, made at first use, with at most a few statements for all.

        Raises:
            UnknownTenantError: one of them is not registered.
            KeyUnavailableError: the master key is not the one that a tenant's keys were wrapped with.
        """
        staged = self._staged(session).tenants
        with self._lock:
            found = {name: self._tenants.get(name) or staged.get(name) for name in tenant_ids}
        missing = [name for name, tenant in found.items() if tenant is None]
        if missing:
            found |= self._read_tenants(session, missing, make_at=now)
        return {name: tenant.keys for name, tenant in found.items() if tenant is not None}

    def encrypt_many(
        self, session: Session, items: Sequence[tuple[str, str, bytes]], *, now: datetime
    ) -> list[bytes]:
        """Seal each (tenant, pseudonym, plaintext) with its user's key; users without a key get one.

        Whole batches are meant: the number of statements does not grow with the number of items.

        Raises:
            KeyUnavailableError: a user of the batch was erased (ask ``erasures.erased_among`` first); nothing
                is sealed.
            UnknownTenantError: a tenant of the batch is not registered.
        """
        subjects = [item[:2] for item in items]
        users = self._ciphers(session, [Subject(*user) for user in dict.fromkeys(subjects)], make_at=now)
        bound = {subject: (cipher.seal, _of_user(subject)) for subject, cipher in users.items()}
        sealed: list[bytes] = []
        for item, user, nonce in zip(items, subjects, new_nonces(len(items)), strict=True):
            seal, associated_data = bound[user]  # type: ignore[index]  # a Subject equals the plain pair
            sealed.append(seal(item[2], associated_data, nonce))
        return sealed

    def decrypt_many(
        self, session: Session, tenant_id: str, items: Sequence[tuple[str, bytes]]
    ) -> list[bytes | None]:
        """Open each (pseudonym, ciphertext) of one tenant; ``None`` where the user's key was destroyed.

        Raises:
            KeyUnavailableError: a value does not open although its key exists (it was changed or moved),
                or the tenant has no keys at all.
        """
        subjects = [Subject(tenant_id, pseudonym) for pseudonym, _ in items]
        ciphers = self._ciphers(session, subjects, make_at=None)
        return [
            None if (cipher := ciphers.get(subject)) is None else cipher.open(item[1], _of_user(subject))
            for subject, item in zip(subjects, items, strict=True)
        ]

    def decrypt(self, session: Session, tenant_id: str, pseudonym: str, ciphertext: bytes) -> bytes:
        """Open one value.

        Raises:
            KeyUnavailableError: the user's key was destroyed by an erasure, or the value does not open.
        """
        plaintext = self.decrypt_many(session, tenant_id, [(pseudonym, ciphertext)])[0]
        if plaintext is None:
            raise KeyUnavailableError(
                "the user's key was destroyed by an erasure; the value cannot be read again"
            )
        return plaintext

    def _ciphers(
        self, session: Session, subjects: Sequence[Subject], *, make_at: datetime | None
    ) -> Mapping[Subject, Cipher]:
        """Return the ciphers of ``subjects``; without ``make_at`` those whose key is gone are left out."""
        if not subjects:
            return {}
        staged = self._staged(session)
        tenants = self._synchronized(session, {subject.tenant_id for subject in subjects}, make_at)
        found: dict[Subject, Cipher] = {}
        missing: list[Subject] = []
        with self._lock:
            cached, used_last = self._users.get, self._users.move_to_end
            for subject in dict.fromkeys(subjects):
                cipher = cached(subject)
                if cipher is not None:
                    used_last(subject)
                else:
                    cipher = staged.users.get(subject)
                if cipher is None:
                    missing.append(subject)
                else:
                    found[subject] = cipher
        if not missing:
            return found
        wrapped = _wrapped_keys(session, missing)
        made: Mapping[Subject, tuple[bytes, bytes]] = {}
        if make_at is not None:
            absent = sorted(subject for subject in missing if subject not in wrapped)
            made = self._make_users(session, absent, tenants, make_at)
            # Another process may have been first: whichever row is there counts.
            wrapped |= _wrapped_keys(session, absent)
            if None in wrapped.values():
                raise KeyUnavailableError(
                    "a user of the batch was erased, so nothing can be sealed for that user; "
                    "leave erased users out"
                )
        for subject, key in wrapped.items():
            if key is None:
                continue
            stored, plain = made.get(subject, (None, b""))
            if stored != key:
                plain = tenants[subject.tenant_id].keys.cipher.open(key, _user_key(subject))
            found[subject] = staged.users[subject] = Cipher(plain)
        return found

    def _make_users(
        self, session: Session, subjects: Sequence[Subject], tenants: Mapping[str, _Tenant], now: datetime
    ) -> Mapping[Subject, tuple[bytes, bytes]]:
        """Store a new key for each of ``subjects`` that has none; return what was offered, wrapped and plain."""
        made: dict[Subject, tuple[bytes, bytes]] = {}
        for subject in subjects:
            key = new_key()
            made[subject] = tenants[subject.tenant_id].keys.cipher.seal(key, _user_key(subject)), key
        at = moment_writer(session)(now)
        rows = [(*subject, wrapped, at, None) for subject, (wrapped, _) in made.items()]
        columns = ("tenant_id", "pseudonym", "wrapped_key", "created_at", "destroyed_at")
        insert_missing_rows(session, "subject_keys", columns, rows)
        return made

    def _synchronized(
        self, session: Session, tenant_ids: Iterable[str], make_at: datetime | None
    ) -> Mapping[str, _Tenant]:
        """Return these tenants as of now, having dropped cached user keys of those with a new erasure."""
        names = sorted(tenant_ids)
        join_batches(session, names)
        asked = wanted_tenants(session, names)
        counts = dict(
            session.exec(
                select(TenantKeyRow.tenant_id, TenantKeyRow.erasures).join(
                    asked, col(TenantKeyRow.tenant_id) == asked.c.tenant_id
                )
            ).all()
        )
        staged = self._staged(session)
        tenants: dict[str, _Tenant] = {}
        with self._lock:
            for name in names:
                count = counts.get(name)
                known = staged.tenants.get(name) or self._tenants.get(name)
                if known is None or count is None:
                    continue
                if known.erasures != count:
                    self._forget_users(name)
                    for subject in [subject for subject in staged.users if subject.tenant_id == name]:
                        del staged.users[subject]
                    known = _Tenant(known.keys, count)
                # Staged even when cached: at commit it says under which count the user keys were read.
                tenants[name] = staged.tenants[name] = known
        unknown = [name for name in names if name not in tenants]
        return {**tenants, **self._read_tenants(session, unknown, make_at=make_at)}

    def _read_tenants(
        self, session: Session, names: Sequence[str], *, make_at: datetime | None
    ) -> dict[str, _Tenant]:
        """Return the stored keys of tenants, making those that are missing when ``make_at`` is given."""
        asked = wanted_tenants(session, names)
        statement = select(TenantKeyRow).join(asked, col(TenantKeyRow.tenant_id) == asked.c.tenant_id)
        statement = statement.execution_options(populate_existing=True)
        rows = {row.tenant_id: row for row in session.exec(statement)} if names else {}
        absent = [name for name in names if name not in rows]
        if absent:
            if make_at is None:
                raise KeyUnavailableError(
                    f"tenant {absent[0][:80]!r} has no keys; nothing was sealed for it yet"
                )
            self._make_tenants(session, absent, make_at)
            # Another process may have been first: whichever row is there counts.
            rows |= {row.tenant_id: row for row in session.exec(statement)}
        read = {name: _Tenant(self._unwrapped(row), row.erasures) for name, row in rows.items()}
        self._staged(session).tenants.update(read)
        return read

    def _make_tenants(self, session: Session, names: Sequence[str], now: datetime) -> None:
        registered = registered_among(session, names)
        for name in names:
            if name not in registered:
                raise UnknownTenantError(
                    f"tenant {name[:80]!r} is not registered; register it with `discreet tenants add`"
                )
        rows = [
            {
                "tenant_id": name,
                "wrapped_pseudonym_key": self._master.seal(new_key(), associated("tenant-pseudonyms", name)),
                "wrapped_key": self._master.seal(new_key(), associated("tenant-key", name)),
                "erasures": 0,
                "created_at": now,
            }
            for name in names
        ]
        insert_ignoring_conflicts(session, TenantKeyRow, rows)

    def _unwrapped(self, row: TenantKeyRow) -> TenantKeys:
        name = row.tenant_id
        pseudonym_key = self._master.open(row.wrapped_pseudonym_key, associated("tenant-pseudonyms", name))
        return TenantKeys(
            pseudonym_key=pseudonym_key,
            hashes=TenantHashes(pseudonym_key, name),
            cipher=Cipher(self._master.open(row.wrapped_key, associated("tenant-key", name))),
        )

    def _staged(self, session: Session) -> _Staged:
        """Return what ``session``'s transaction has staged for this keyring, promoted at commit."""
        by_keyring: dict[int, _Staged] = session.info.setdefault(_STAGED, {})
        staged = by_keyring.get(id(self))
        if staged is None:
            staged = by_keyring[id(self)] = _Staged()
            event.listen(session, "after_commit", lambda _session: self._promote(staged))
            event.listen(session, "after_soft_rollback", lambda _session, _previous: _clear(staged))
        return staged

    def _promote(self, staged: _Staged) -> None:
        with self._lock:
            for name, read in staged.tenants.items():
                known = self._tenants.get(name)
                if known is None:
                    self._tenants[name] = read  # so far no key of its users can have been kept
                elif known.erasures < read.erasures:
                    self._forget_users(name)
                    self._tenants[name] = read
            for subject, cipher in staged.users.items():
                read_under = staged.tenants[subject.tenant_id].erasures
                # A thread that saw a newer erasure has the say: this key may be the destroyed one.
                if read_under == self._tenants[subject.tenant_id].erasures:
                    self._users[subject] = cipher
            while len(self._users) > self._limit:
                self._users.popitem(last=False)
        _clear(staged)

    def _forget_users(self, tenant_id: str) -> None:
        for subject in [subject for subject in self._users if subject.tenant_id == tenant_id]:
            del self._users[subject]


def _clear(staged: _Staged) -> None:
    staged.tenants.clear()
    staged.users.clear()


def _wrapped_keys(session: Session, subjects: Sequence[Subject]) -> dict[Subject, bytes | None]:
    """Return the stored key of each subject that has a row; ``None`` where it was destroyed."""
    if not subjects:
        return {}
    connection = session.connection()
    asked = orjson.dumps([[*subject] for subject in subjects]).decode()
    rows = connection.exec_driver_sql(_WRAPPED_KEYS[connection.dialect.name], (asked,)).all()
    return {subjects[place]: None if key is None else bytes(key) for place, key in rows}


def _user_key(subject: Subject) -> bytes:
    return associated("user-key", *subject)


def _of_user(subject: Subject) -> bytes:
    return associated("user-data", *subject)


def _decoded(master_key: bytes | str) -> bytes:
    if isinstance(master_key, bytes):
        return master_key
    try:
        return base64.b64decode(master_key, validate=True)
    except binascii.Error as error:
        raise KeyUnavailableError("the master key is not base64; give 32 random bytes in base64") from error
