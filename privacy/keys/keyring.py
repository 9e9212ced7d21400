"""The keys of tenants and users: master key → tenant key → user key → data.

The master key belongs to the key service (``privacy.keys.service``). It wraps each tenant's keys (some for pseudonyms,
some that wrap user keys); a tenant's key wraps one key per user; a user's text is sealed with that user's key. All
these wrapped keys lie in the key store (``privacy.keys.store``), which is no part of the database that the texts lie
in. Destroying a user's key there makes that user's text unreadable wherever a copy of it lies, from the moment on at
which no backup of the key store holds the key any more.

User keys are cached, least recently used first out. A key enters the cache when the transaction that used it is
committed. Every transaction first reads the erasure counts of its tenants: a count that moved empties that tenant's
part of the cache, so a key that any process destroyed is not used again; and the generation of their keys, so that a
rotation reaches every process. No erasure of a transaction's tenants and no begin of a rotation of theirs goes on
beside it (``privacy.keys.batch_locks``).

Longer than 400 lines, because the cache, what a transaction stages for it and the rules between them are one thing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import event
from sqlmodel import col, select

from privacy.errors import KeyUnavailableError, UnknownTenantError
from privacy.keys.batch_locks import join_batches
from privacy.keys.envelope import Cipher, associated, new_key, new_nonces, sealed_under
from privacy.keys.pseudonyms import TenantHashes
from privacy.keys.store_tables import PSEUDONYMS, WRAPPING, TenantKey, UserKey
from privacy.keys.tables import TenantKeyRow
from privacy.policy.versions import registered_among
from privacy.storage.subjects import Subject, wanted_tenants
from privacy.storage.upserts import insert_ignoring_conflicts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.keys.service import KeyService
    from privacy.keys.store import KeyStore

DEFAULT_CACHED_KEYS: Final = 100_000
_STAGED: Final = "discreet.staged_keys"
_CONTEXTS: Final = {WRAPPING: "tenant-key", PSEUDONYMS: "tenant-pseudonyms"}


class Plaintext(NamedTuple):
    """What is to be sealed.

    Attributes:
        tenant_id: whose tenant.
        pseudonym: whose.
        row: names the row that the value belongs to; it opens in no other.
        value: what to seal.
    """

    tenant_id: str
    pseudonym: str
    row: bytes
    value: bytes


class Sealed(NamedTuple):
    """A sealed value of one user of a tenant, with the row that it stands in."""

    pseudonym: str
    row: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """A tenant's keys, unwrapped.

    Attributes:
        pseudonym_key: the first one, for keyed hashes of the tenant that must never change; 32 bytes.
        hashes: the pseudonyms and ranks of the tenant's users.
        ciphers: what wraps or wrapped the tenant's user keys, by name; the newest is last.
        renaming: rows may still carry names under the pseudonym key before the newest.
    """

    pseudonym_key: bytes = field(repr=False)
    hashes: TenantHashes = field(repr=False)
    ciphers: Mapping[bytes, Cipher] = field(repr=False)
    renaming: bool = False

    @property
    def cipher(self) -> Cipher:
        """What wraps new user keys."""
        return list(self.ciphers.values())[-1]

    def unwrap(self, wrapped: bytes, subject: Subject) -> bytes:
        """Return the user's key.

        Raises:
            KeyUnavailableError: it does not open with a key of this tenant.
        """
        name, context = sealed_under(wrapped), user_key_context(subject)
        if name is None:  # of before keys had names: the tenant's first key wrapped it
            return next(iter(self.ciphers.values())).open(wrapped, context, nameless=context)
        cipher = self.ciphers.get(name)
        if cipher is None:
            raise KeyUnavailableError(
                "a user's key was wrapped by a key that the tenant does not have (any more)"
            )
        return cipher.open(wrapped, context)


@dataclass(slots=True)
class _Tenant:
    """A tenant's keys, with the counters under which they and its user keys were read."""

    keys: TenantKeys
    erasures: int
    generation: tuple[int, int, bool]  # generation, pseudonyms, renaming


@dataclass(slots=True)
class _Staged:
    """What one open transaction read or made; it enters the cache at commit."""

    tenants: dict[str, _Tenant] = field(default_factory=dict)
    users: dict[Subject, Cipher] = field(default_factory=dict)
    found: dict[Subject, Cipher] = field(default_factory=dict)  # those, and what the cache had
    keyless: set[Subject] = field(default_factory=set)


class Keyring:
    """Seals and opens what belongs to users; safe to share between threads.

    Args:
        service: has the master key.
        store: has the wrapped keys.
        cached_keys: most user keys held in memory.
    """

    def __init__(
        self, service: KeyService, store: KeyStore, *, cached_keys: int = DEFAULT_CACHED_KEYS
    ) -> None:
        self.service = service
        self.store = store
        self._limit = cached_keys
        self._lock = threading.Lock()
        self._tenants: dict[str, _Tenant] = {}
        self._users: OrderedDict[Subject, Cipher] = OrderedDict()

    def close(self) -> None:
        """Close the connections to the key service and the key store."""
        self.service.close()
        self.store.engine.dispose()

    def wrap(self, secret: bytes, purpose: str, *, now: datetime) -> bytes:
        """Return ``secret`` sealed for ``purpose`` (such as a round's noise seed) with a key of its own.

        That key lies in the key store, until ``forget``.
        """
        context = associated("secret", purpose)
        wrapped = self.store.add_secret(purpose, self.service.wrap(new_key(), context), now)
        return Cipher(self.service.unwrap(wrapped, context)).seal(secret, associated("wrapped", purpose))

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        """Return the secret that ``wrap`` sealed for the same ``purpose``.

        Raises:
            KeyUnavailableError: its key was destroyed, or it was sealed by another installation or for another purpose.
        """
        context = associated("wrapped", purpose)
        if sealed_under(wrapped) is None:  # of before the key store: the master key itself wrapped it
            return self.service.unwrap(wrapped, context)
        key = self.store.secret(purpose)
        if key is None:
            raise KeyUnavailableError(
                "the key of a secret is gone from the key store; it cannot be opened again"
            )
        return Cipher(self.service.unwrap(key, associated("secret", purpose))).open(wrapped, context)

    def forget(self, purposes: Collection[str]) -> None:
        """Destroy the keys of what was wrapped for these purposes."""
        self.store.destroy_secrets(purposes)

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

        The transaction has joined the batches afterwards: no rotation takes these keys' place before it ends.

        Raises:
            UnknownTenantError: one of them is not registered.
            KeyUnavailableError: the master key is not the one that a tenant's keys were wrapped with.
        """
        tenants = self._synchronized(session, tenant_ids, make_at=now)
        return {name: tenant.keys for name, tenant in tenants.items()}

    def encrypt_many(
        self,
        session: Session,
        items: Iterable[Plaintext],
        *,
        of: Collection[Subject] | None = None,
        now: datetime,
    ) -> list[bytes]:
        """Seal each item with its user's key; users without a key get one, committed in the key store at once.

        Whole batches are meant: the number of statements does not grow with the number of items.

        Args:
            session: inside the caller's transaction.
            items: what to seal; where ``of`` says whose, each may be made when it is asked for.
            of: the users of all items; by default they are taken from the items.
            now: the clock.

        Raises:
            KeyUnavailableError: a user of the batch was erased (ask ``destroyed_among`` first); nothing is sealed.
            UnknownTenantError: a tenant of the batch is not registered.
        """
        if of is None:
            items = list(items)
            of = [Subject(*user) for user in dict.fromkeys(item[:2] for item in items)]
        users = self._ciphers(session, list(dict.fromkeys(of)), make_at=now)
        heads = {tenant_id: _row_head(tenant_id) for tenant_id in {subject[0] for subject in users}}
        bound = {subject: (cipher.seal, heads[subject[0]]) for subject, cipher in users.items()}
        nonces = new_nonces()
        sealed: list[bytes] = []
        for tenant_id, name, row, value in items:
            seal, head = bound[tenant_id, name]  # type: ignore[index]  # a Subject equals the plain pair
            sealed.append(seal(value, head + row, next(nonces)))
        return sealed

    def decrypt_many(self, session: Session, tenant_id: str, items: Sequence[Sealed]) -> list[bytes | None]:
        """Open each value of one tenant; ``None`` where the user's key was destroyed.

        Raises:
            KeyUnavailableError: a value does not open although its key exists (it was changed or moved),
                or the tenant has no keys at all.
        """
        subjects = [Subject(tenant_id, item[0]) for item in items]
        ciphers = self._ciphers(session, subjects, make_at=None)
        head = _row_head(tenant_id)
        return [
            None
            if (cipher := ciphers.get(subject)) is None
            else cipher.open(value, head + row, nameless=associated("user-data", *subject))
            for subject, (_, row, value) in zip(subjects, items, strict=True)
        ]

    def decrypt(self, session: Session, tenant_id: str, item: Sealed) -> bytes:
        """Open one value.

        Raises:
            KeyUnavailableError: the user's key was destroyed by an erasure, or the value does not open.
        """
        plaintext = self.decrypt_many(session, tenant_id, [item])[0]
        if plaintext is None:
            raise KeyUnavailableError(
                "the user's key was destroyed by an erasure; the value cannot be read again"
            )
        return plaintext

    def destroyed_among(self, session: Session, subjects: Iterable[Subject]) -> frozenset[Subject]:
        """Return which of these users have a tombstone in the key store.

        That is so of erased users, and of those whose erasure is not in the database: it crashed before its commit and
        will be repeated, or the database was restored from a backup.
        """
        asked = list(dict.fromkeys(subjects))
        found = self._found(session, asked, make_at=None)[0]
        if len(found) == len(asked):
            return frozenset()
        staged = self._staged(session)
        return frozenset(
            subject for subject in asked if subject not in found and subject not in staged.keyless
        )

    def _found(
        self, session: Session, subjects: Iterable[Subject], *, make_at: datetime | None
    ) -> tuple[dict[Subject, Cipher], list[Subject]]:
        """Return the ciphers of those that have a key, and the users whose key was destroyed; the others are noted."""
        asked = list(dict.fromkeys(subjects))
        staged = self._staged(session)
        if asked and all(subject in staged.found for subject in asked):
            return {subject: staged.found[subject] for subject in asked}, []
        tenants = self._synchronized(session, {subject.tenant_id for subject in asked}, make_at=make_at)
        found: dict[Subject, Cipher] = {}
        missing: list[Subject] = []
        with self._lock:
            cached, used_last = self._users.get, self._users.move_to_end
            for subject in asked:
                cipher = cached(subject)
                if cipher is not None:
                    used_last(subject)
                else:
                    cipher = staged.users.get(subject)
                if cipher is not None:
                    found[subject] = cipher
                elif subject not in staged.keyless:
                    missing.append(subject)
        gone: list[Subject] = []
        wrapped = self.store.user_keys(missing)
        for subject in missing:
            if subject not in wrapped:
                staged.keyless.add(subject)
            elif (key := wrapped[subject]) is None:
                gone.append(subject)
            else:
                found[subject] = staged.users[subject] = Cipher(
                    tenants[subject.tenant_id].keys.unwrap(key, subject)
                )
        staged.found.update(found)
        return found, gone

    def _ciphers(
        self, session: Session, subjects: Sequence[Subject], *, make_at: datetime | None
    ) -> Mapping[Subject, Cipher]:
        """Return the ciphers of ``subjects``; without ``make_at`` those without a key are left out."""
        if not subjects:
            return {}
        found, gone = self._found(session, subjects, make_at=make_at)
        if make_at is None:
            return found
        keyless = self._staged(session).keyless
        absent = sorted({subject for subject in subjects if subject in keyless})
        made = self._make_users(session, absent, make_at)
        found |= made
        if gone or len(made) < len(absent):
            raise KeyUnavailableError(
                "a user of the batch was erased, so nothing can be sealed for that user; leave erased users out"
            )
        return found

    def _make_users(
        self, session: Session, subjects: Sequence[Subject], now: datetime
    ) -> dict[Subject, Cipher]:
        """Store a new key for each of ``subjects``; return the ciphers of those that have a key now."""
        if not subjects:
            return {}
        staged = self._staged(session)
        made: dict[Subject, tuple[bytes, bytes]] = {}
        rows: list[UserKey] = []
        for subject in subjects:
            cipher = staged.tenants[subject.tenant_id].keys.cipher
            key = new_key()
            wrapped = cipher.seal(key, user_key_context(subject))
            made[subject] = wrapped, key
            rows.append(UserKey(subject, wrapped, cipher.key_id))
        self.store.add_user_keys(rows, now)
        ciphers: dict[Subject, Cipher] = {}
        # Another process may have been first: whichever row is there counts.
        for subject, stored in self.store.user_keys(subjects).items():
            offered, plain = made[subject]
            if stored is None:
                continue
            if stored != offered:
                plain = staged.tenants[subject.tenant_id].keys.unwrap(stored, subject)
            ciphers[subject] = staged.users[subject] = Cipher(plain)
            staged.keyless.discard(subject)
        return ciphers

    def _synchronized(
        self, session: Session, tenant_ids: Collection[str], *, make_at: datetime | None
    ) -> Mapping[str, _Tenant]:
        """Return these tenants as of now, having dropped what was cached before a new erasure or rotation.

        Nothing is asked of the database about a tenant that this transaction knows already: it holds off both.
        """
        staged = self._staged(session)
        names = sorted(name for name in tenant_ids if name not in staged.tenants)
        if names:
            join_batches(session, names)
            counters = _counters(session, names)
            with self._lock:
                for name in names:
                    known, now = self._tenants.get(name), counters.get(name)
                    if known is None or now is None or known.generation != now[1:]:
                        continue
                    if known.erasures != now[0]:
                        self._forget_users(name)
                        known = _Tenant(known.keys, now[0], known.generation)
                    staged.tenants[name] = known
            unknown = [name for name in names if name not in staged.tenants]
            staged.tenants.update(self._read_tenants(session, unknown, counters, make_at=make_at))
        return {name: staged.tenants[name] for name in tenant_ids}

    def _read_tenants(
        self,
        session: Session,
        names: Sequence[str],
        counters: Mapping[str, tuple[int, int, int, bool]],
        *,
        make_at: datetime | None,
    ) -> dict[str, _Tenant]:
        """Return the stored keys of tenants, making those that are missing when ``make_at`` is given."""
        if not names:
            return {}
        absent = [name for name in names if name not in counters]
        if absent:
            if make_at is None:
                raise KeyUnavailableError(
                    f"tenant {absent[0][:80]!r} has no keys; nothing was sealed for it yet"
                )
            self._make_tenants(session, absent, make_at)
            counters = {**counters, **_counters(session, absent)}
        stored: dict[str, list[TenantKey]] = {name: [] for name in names}
        for key in self.store.tenant_keys(names):
            stored[key.tenant_id].append(key)
        return {
            name: _Tenant(
                self.opened(name, stored[name], pseudonyms=counters[name][2], renaming=counters[name][3]),
                counters[name][0],
                counters[name][1:],
            )
            for name in names
        }

    def _make_tenants(self, session: Session, names: Sequence[str], now: datetime) -> None:
        registered = registered_among(session, names)
        for name in names:
            if name not in registered:
                raise UnknownTenantError(
                    f"tenant {name[:80]!r} is not registered; register it with `discreet tenants add`"
                )
        stored = self.store.tenant_keys(names)
        had = {(key.tenant_id, key.purpose) for key in stored}
        self.store.add_tenant_keys(
            [
                self.new_tenant_key(name, purpose, 1)
                for name in names
                for purpose in _CONTEXTS
                if (name, purpose) not in had
            ],
            now,
        )
        # Some are there where the database is a backup of before the tenant had any: the newest names count.
        newest = {key.tenant_id: key.number for key in stored if key.purpose == PSEUDONYMS}
        rows = [
            {"tenant_id": name, "erasures": 0, "pseudonyms": newest.get(name, 1), "created_at": now}
            for name in names
        ]
        insert_ignoring_conflicts(session, TenantKeyRow, rows)

    def new_tenant_key(self, tenant_id: str, purpose: str, number: int) -> TenantKey:
        """Return a new key of a tenant, wrapped, to be stored."""
        wrapped = self.service.wrap(new_key(), tenant_key_context(tenant_id, purpose, number))
        return TenantKey(tenant_id, purpose, number, wrapped)

    def opened(
        self, tenant_id: str, stored: Sequence[TenantKey], *, pseudonyms: int = 1, renaming: bool = False
    ) -> TenantKeys:
        """Return the keys of a tenant from the key store, unwrapped; so many of them for pseudonyms as are in use.

        Raises:
            KeyUnavailableError: the master key is not the one that they were wrapped with, or some are missing.
        """
        plain: dict[str, list[bytes]] = {purpose: [] for purpose in _CONTEXTS}
        for key in stored:
            plain[key.purpose].append(
                self.service.unwrap(key.wrapped, tenant_key_context(tenant_id, key.purpose, key.number))
            )
        if not plain[WRAPPING] or len(plain[PSEUDONYMS]) < pseudonyms:
            raise KeyUnavailableError(
                f"the key store has no keys of tenant {tenant_id[:80]!r}, which the database knows; check that "
                "DISCREET_KEYS__URL names the store that belongs to this database, and run `discreet db upgrade`"
            )
        ciphers = [Cipher(key) for key in plain[WRAPPING]]
        first, *later = plain[PSEUDONYMS][:pseudonyms]
        return TenantKeys(
            pseudonym_key=first,
            hashes=TenantHashes(first, tenant_id, later),
            ciphers={cipher.key_id: cipher for cipher in ciphers},
            renaming=renaming,
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
                elif known.erasures < read.erasures or known.generation < read.generation:
                    self._forget_users(name)
                    self._tenants[name] = read
            for subject, cipher in staged.users.items():
                read_under = staged.tenants.get(subject.tenant_id)
                # A thread that saw a newer erasure has the say: this key may be the destroyed one.
                if (
                    read_under is not None
                    and read_under.erasures == self._tenants[subject.tenant_id].erasures
                ):
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
    staged.found.clear()
    staged.keyless.clear()


def _counters(session: Session, names: Sequence[str]) -> dict[str, tuple[int, int, int, bool]]:
    """Return (erasures, generation, pseudonyms, renaming) of each tenant that has keys."""
    asked = wanted_tenants(session, names)
    row = TenantKeyRow
    statement = select(row.tenant_id, row.erasures, row.generation, row.pseudonyms, row.renaming).join(  # type: ignore[call-overload]  # no overload for five columns
        asked, col(row.tenant_id) == asked.c.tenant_id
    )
    return {
        found[0]: (found[1], found[2], found[3], bool(found[4])) for found in session.exec(statement).all()
    }


def tenant_key_context(tenant_id: str, purpose: str, number: int) -> bytes:
    """Return what a tenant's wrapped key is bound to; the first ones to what they were when there was one of each."""
    parts = (_CONTEXTS[purpose], tenant_id)
    return associated(*parts) if number == 1 else associated(*parts, str(number))


def user_key_context(subject: tuple[str, str]) -> bytes:
    """Return what a user's wrapped key is bound to."""
    return associated("user-key", *subject)


def _row_head(tenant_id: str) -> bytes:
    return associated("user-row", tenant_id)
