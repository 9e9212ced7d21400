"""Seeds of this installation that its processes share: made at first use, kept in the key store, wrapped as keys are.

A rotation of the master key wraps them anew and does not change them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.keys.envelope import associated, new_key

if TYPE_CHECKING:
    from datetime import datetime

    from privacy.keys.keyring import Keyring


def kept_seed(keyring: Keyring, name: str, now: datetime) -> bytes:
    """Return the 32 secret bytes of that name.

    Raises:
        KeyUnavailableError: the master key that wrapped them is not known.
        KeyServiceError: the key service does not answer.
        StorageError: the key store cannot be reached.
    """
    service, store = keyring.service, keyring.store
    context = associated("secret", name)
    wrapped = store.secret(name)
    if wrapped is None:
        wrapped = store.add_secret(name, service.wrap(new_key(), context), now)
    return service.unwrap(wrapped, context)
