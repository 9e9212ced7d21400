"""Which keys are in use, and what is still under older ones."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlmodel import select

from privacy.keys.envelope import sealed_under
from privacy.keys.store_tables import PSEUDONYMS, WRAPPING
from privacy.keys.tables import TenantKeyRow
from privacy.storage.session import reading

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from privacy.keys.keyring import Keyring


def status_of(engine: Engine, keyring: Keyring) -> dict[str, Any]:
    """Return a JSON-ready account of the keys of an installation; it says nothing of how many users there are.

    Raises:
        KeyUnavailableError: a tenant's key cannot be opened.
        StorageError: the database or the key store cannot be reached.
    """
    service, store = keyring.service, keyring.store
    newest, stored = service.newest(), store.tenant_keys()
    wrapped = [key.wrapped for key in stored] + list(store.secrets().values())
    under_newest = sum(service.wrapped_by(one) == newest for one in wrapped)
    in_use: dict[str, set[bytes]] = defaultdict(set)
    for tenant_id, wrapped_by, _ in store.count_users():
        if wrapped_by is not None:
            in_use[tenant_id].add(wrapped_by)
    with reading(engine) as session:
        rows = {row.tenant_id: row for row in session.exec(select(TenantKeyRow))}
    tenants = []
    for tenant_id in sorted({key.tenant_id for key in stored}):
        keys = [key for key in stored if key.tenant_id == tenant_id]
        opened = keyring.opened(tenant_id, keys)
        row = rows.get(tenant_id)
        tenants.append(
            {
                "tenant": tenant_id,
                "key": max(key.number for key in keys if key.purpose == WRAPPING),
                "pseudonym_key": 1 if row is None else row.pseudonyms,
                "pseudonym_keys_kept": sum(key.purpose == PSEUDONYMS for key in keys),
                "renaming": False if row is None else row.renaming,
                "under_older_key": not in_use[tenant_id] <= {opened.cipher.key_id},
            }
        )
    return {
        "master": {
            "newest": newest,
            "under_newest": under_newest,
            "older": len(wrapped) - under_newest,
            "nameless": sum(sealed_under(one) is None and one[:1] == b"\x01" for one in wrapped),
        },
        "tenants": tenants,
    }
