"""Whether the configured key service and key store are those that a database was filled under."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import col, select

from privacy.errors import KeyUnavailableError
from privacy.keys.tables import TenantKeyRow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from privacy.keys.keyring import Keyring


def check_master_key(session: Session, keyring: Keyring, *, now: datetime) -> None:
    """Open the keys of one stored tenant; where no tenant has keys yet, any master key will do.

    Raises:
        KeyUnavailableError: the stored tenant keys do not open with the keyring's master key, are not in its key store,
            or still lie in the database itself.
        StorageError: the key store cannot be reached or was not prepared.
    """
    keyring.store.check()
    if keys_in_the_database(session):
        raise KeyUnavailableError(
            "keys still lie in the database itself, where every backup has them; run `discreet db upgrade`, "
            "which moves "
            "them into the key store"
        )
    tenant_id = session.exec(select(TenantKeyRow.tenant_id).limit(1)).first()
    if tenant_id is not None:
        keyring.tenant_keys(session, tenant_id, now=now)


def keys_in_the_database(session: Session) -> bool:
    """Say whether wrapped keys of before the key store lie in the database."""
    # A tenant's own keys are the last of it to be moved.
    left = select(TenantKeyRow.tenant_id).where(col(TenantKeyRow.wrapped_key).is_not(None))
    return session.exec(left.limit(1)).first() is not None
