"""Whether the configured master key is the one that a database was filled under."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import select

from privacy.keys.tables import TenantKeyRow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from privacy.keys.keyring import Keyring


def check_master_key(session: Session, keyring: Keyring, *, now: datetime) -> None:
    """Open the keys of one stored tenant; where no tenant has keys yet, any master key will do.

    Raises:
        KeyUnavailableError: the stored tenant keys do not open with the keyring's master key.
    """
    tenant_id = session.exec(select(TenantKeyRow.tenant_id).limit(1)).first()
    if tenant_id is not None:
        keyring.tenant_keys(session, tenant_id, now=now)
