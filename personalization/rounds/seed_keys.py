"""The keys of rounds' noise seeds: each open round has one in the key store, and none once it is closed.

With the seed everything that a round sealed can be opened (``personalization.releases.seal``). Its key lies apart
from the database, so a backup of the database alone opens no round's copy of texts. Closing a round is a transaction
of the database; its key is destroyed after it, by whoever looks next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from personalization.rounds.queries import open_among
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from privacy.keys.keyring import Keyring

_BEGINNING: Final = "round-seed:"


def seed_purpose(round_id: str) -> str:
    """Return the purpose for which the round's seed is wrapped."""
    return f"{_BEGINNING}{round_id}"


def forget_closed_rounds(engine: Engine, keyring: Keyring) -> int:
    """Destroy the keys of the seeds of rounds that are closed and return how many there were.

    Raises:
        StorageError: the database or the key store cannot be reached.
    """
    held = {name.removeprefix(_BEGINNING) for name in keyring.store.secrets(_BEGINNING)}
    if not held:
        return 0
    with transaction(engine) as session:
        closed = held - open_among(session, held)
    keyring.forget([seed_purpose(round_id) for round_id in closed])
    return len(closed)
