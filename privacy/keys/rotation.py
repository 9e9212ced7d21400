"""Rotation of keys while everything runs: the master key, the keys that wrap a tenant's user keys, its pseudonym keys.

Each begins by making a new key, from which moment on everything new uses it, and goes on by bringing what is older
under it, in bounded transactions. What is not there yet stays readable. A rotation that was interrupted is taken up
where it stands by the same command, which then makes no further key.

*Why nothing is lost.* A tenant's new key is committed in the key store before the database tells anybody of it. The
telling (``generation``) locks batches out, so no transaction goes on with the keys of before, and every later one reads
them anew. A user's key is replaced only where it still is what was read, so one that an erasure destroyed in between
stays destroyed. An old wrapping key is destroyed when nothing is wrapped by it any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import update
from sqlmodel import col, select

from privacy.audit import trail as audit_trail
from privacy.errors import KeyRotationError
from privacy.keys.batch_locks import lock_out_batches
from privacy.keys.envelope import associated
from privacy.keys.keyring import tenant_key_context, user_key_context
from privacy.keys.moving import NAMELESS_WRAPPER
from privacy.keys.pseudonyms import names_of
from privacy.keys.renaming import names_under, rename_users
from privacy.keys.store_tables import PSEUDONYMS, WRAPPING, TenantKey
from privacy.keys.tables import TenantKeyRow
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from privacy.keys.keyring import Keyring

AT_ONCE: Final = 500
"""Most users in one transaction."""


@dataclass(frozen=True, kw_only=True)
class Rotated:
    """What one rotation did.

    Attributes:
        key: name of the key that is the newest now: of a master key its version, of a tenant's its number.
        resumed: an earlier rotation was taken up; no new key was made.
        moved: keys or users that were brought under the newest key.
    """

    key: str
    resumed: bool
    moved: int


def rotate_master(keyring: Keyring, *, new_version: bool = True) -> Rotated:
    """Wrap everything in the key store with the newest master key, having had a new version of it made.

    A key service that gets its key from the settings makes none; for such a one this wraps with the settings' newest.

    Args:
        keyring: has the key service and the key store.
        new_version: have a new version made, unless something is still wrapped by an older one.

    Raises:
        KeyUnavailableError: something is wrapped by a key that the service does not have.
        KeyServiceError: the service does not answer; what was wrapped anew is.
    """
    service, store = keyring.service, keyring.store
    newest = service.newest()
    behind = any(service.wrapped_by(held) != newest for held in _wrapped(keyring))
    if new_version and not behind:
        newest = service.rotate()
    moved = 0
    for key in store.tenant_keys():
        if service.wrapped_by(key.wrapped) != newest:
            context = tenant_key_context(key.tenant_id, key.purpose, key.number)
            moved += store.rewrap_tenant_key(key, service.wrap(service.unwrap(key.wrapped, context), context))
    for name, held in store.secrets().items():
        if service.wrapped_by(held) != newest:
            context = associated("secret", name)
            moved += store.rewrap_secret(name, held, service.wrap(service.unwrap(held, context), context))
    return Rotated(key=newest, resumed=behind, moved=moved)


def _wrapped(keyring: Keyring) -> list[bytes]:
    return [key.wrapped for key in keyring.store.tenant_keys()] + list(keyring.store.secrets().values())


def rotate_tenant(engine: Engine, keyring: Keyring, tenant_id: str, *, actor: str, now: datetime) -> Rotated:
    """Give a tenant a new key that wraps its users' keys, wrap them with it, and destroy the old one.

    Raises:
        KeyRotationError: the tenant has no keys yet.
    """
    keys = _stored(keyring, tenant_id, WRAPPING)
    resumed = len(keys) > 1
    if not resumed:
        keyring.store.add_tenant_keys([keyring.new_tenant_key(tenant_id, WRAPPING, keys[-1].number + 1)], now)
        keys = _stored(keyring, tenant_id, WRAPPING)
    with transaction(engine) as session:
        _tell(session, tenant_id, {})
        _record(session, tenant_id, WRAPPING, keys[-1].number, actor=actor, now=now)
    opened = keyring.opened(tenant_id, [*keys, *_stored(keyring, tenant_id, PSEUDONYMS)])
    older = list(opened.ciphers)[:-1]
    moved = 0
    for name in [NAMELESS_WRAPPER, *older]:
        while users := keyring.store.users_wrapped_by(tenant_id, name, AT_ONCE):
            moved += keyring.store.rewrap_user_keys(
                [
                    (
                        user,
                        opened.cipher.seal(
                            opened.unwrap(user.wrapped or b"", user.subject), user_key_context(user.subject)
                        ),
                        opened.cipher.key_id,
                    )
                    for user in users
                ]
            )
    for key in keys[:-1]:
        keyring.store.destroy_tenant_key(key)
    return Rotated(key=str(keys[-1].number), resumed=resumed, moved=moved)


def rotate_pseudonyms(
    engine: Engine, keyring: Keyring, tenant_id: str, *, actor: str, now: datetime
) -> Rotated:
    """Give a tenant a new pseudonym key and rename all its users.

    What was sealed before values named their row is bound to the old name: bring it up to date first
    (``personalization.signals.resealing``). The earlier keys stay, for the names of the newest are made through them;
    alone they link nobody to what is stored.

    Raises:
        KeyRotationError: the tenant has no keys yet.
    """
    keys = _stored(keyring, tenant_id, PSEUDONYMS)
    row = _row(engine, tenant_id)
    resumed = row.renaming
    if not resumed:
        number = row.pseudonyms + 1
        if keys[-1].number < number:
            keyring.store.add_tenant_keys([keyring.new_tenant_key(tenant_id, PSEUDONYMS, number)], now)
        with transaction(engine) as session:
            _tell(session, tenant_id, {"pseudonyms": number, "renaming": True}, unless_renaming=True)
            _record(session, tenant_id, PSEUDONYMS, number, actor=actor, now=now)
    number = _row(engine, tenant_id).pseudonyms
    moved = 0
    while True:
        renamed = _rename_some(engine, keyring, tenant_id, number, now)
        moved += renamed
        if not renamed and _finished(engine, keyring, tenant_id, number):
            return Rotated(key=str(number), resumed=resumed, moved=moved)


def finish_renaming(engine: Engine, keyring: Keyring, *, actor: str, now: datetime) -> list[str]:
    """Bring the users of every tenant under the newest pseudonym key that the key store has; return whose those were.

    After a restore of the database the key store is ahead of it: it has the users' keys under the newest names alone.
    """
    done = []
    for row in _rows(engine):
        newest = max(key.number for key in _stored(keyring, row.tenant_id, PSEUDONYMS))
        if row.renaming or row.pseudonyms < newest:
            done.append(row.tenant_id)
        while row.renaming or row.pseudonyms < newest:
            rotate_pseudonyms(engine, keyring, row.tenant_id, actor=actor, now=now)
            row = _row(engine, row.tenant_id)  # noqa: PLW2901  # as the rotation left it
    return done


def _rename_some(engine: Engine, keyring: Keyring, tenant_id: str, number: int, now: datetime) -> int:
    first, last = names_of(number - 1)
    with transaction(engine) as session:
        keys = keyring.tenant_keys(session, tenant_id, now=now)
        names = set(names_under(session, tenant_id, number - 1, AT_ONCE))
        keyed = keyring.store.users_named(tenant_id, first, last, AT_ONCE)
        names |= {key.subject.pseudonym for key in keyed}
        rename_users(session, keyring, tenant_id, keys, names, now=now)
    # The old rows count no longer: every name in the database that could ask for them is gone.
    keyring.store.drop_user_rows([Subject(tenant_id, name) for name in sorted(names)])
    return len(names)


def _finished(engine: Engine, keyring: Keyring, tenant_id: str, number: int) -> bool:
    """End the renaming if nobody has an old name any more; batches that could give one are locked out meanwhile."""
    with transaction(engine) as session:
        lock_out_batches(session, [tenant_id])
        left = names_under(session, tenant_id, number - 1, 1)
        if left or keyring.store.users_named(tenant_id, *names_of(number - 1), 1):
            return False
        _tell(session, tenant_id, {"renaming": False})
    return True


def _stored(keyring: Keyring, tenant_id: str, purpose: str) -> list[TenantKey]:
    found = [key for key in keyring.store.tenant_keys([tenant_id]) if key.purpose == purpose]
    if not found:
        raise KeyRotationError(f"tenant {tenant_id[:80]!r} has no keys yet; there is nothing to rotate")
    return found


def _rows(engine: Engine) -> list[TenantKeyRow]:
    with transaction(engine) as session:
        return list(session.exec(select(TenantKeyRow).order_by(TenantKeyRow.tenant_id)))


def _row(engine: Engine, tenant_id: str) -> TenantKeyRow:
    with transaction(engine) as session:
        row = session.exec(select(TenantKeyRow).where(TenantKeyRow.tenant_id == tenant_id)).one_or_none()
    if row is None:
        raise KeyRotationError(f"tenant {tenant_id[:80]!r} has no keys yet; there is nothing to rotate")
    return row


def _tell(
    session: Session, tenant_id: str, changes: dict[str, object], *, unless_renaming: bool = False
) -> None:
    """Make every later transaction read the tenant's keys anew; those under way are waited for."""
    lock_out_batches(session, [tenant_id])
    statement = update(TenantKeyRow).where(col(TenantKeyRow.tenant_id) == tenant_id)
    if unless_renaming:
        statement = statement.where(
            ~col(TenantKeyRow.renaming)
        )  # another process was first: take its rotation up
    session.connection().execute(statement.values(generation=col(TenantKeyRow.generation) + 1, **changes))


def _record(
    session: Session, tenant_id: str, purpose: str, number: int, *, actor: str, now: datetime
) -> None:
    audit_trail.append(
        session,
        tenant_id,
        actor=actor,
        action="keys.rotated",
        detail={"purpose": purpose, "number": number},
        now=now,
    )
