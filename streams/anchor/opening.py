"""Which anchor an installation has: topics where the broker lasts, else files beside the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy.engine import make_url

from privacy.keys.kept import kept_seed
from streams.anchor.file import FileAnchor
from streams.anchor.guard import AnchorGuard
from streams.anchor.seal import AnchorSeal, anchor_seed
from streams.anchor.topic import TopicAnchor
from streams.broker.clients import client_broker

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from privacy.keys.keyring import Keyring
    from streams.anchor.store import AnchorStore
    from streams.settings import Settings


SEAL_KEY: Final = "anchor signing key"


def open_anchor(
    settings: Settings, engine: Engine, keyring: Keyring, now: Callable[[], datetime]
) -> AnchorGuard:
    """Return the anchor of the configured database; nothing is connected yet.

    The state directory is made where the anchor lies in it: a worker beside PostgreSQL puts nothing else there.
    It signs with a key of the key store, which a rotation of the master key leaves as it is. Records that were signed
    with a key derived from a master key that is still set count as well, until ``AnchorGuard.renew`` signs them anew.
    """
    return AnchorGuard(
        engine,
        _store(settings),
        AnchorSeal(
            lambda: kept_seed(keyring, SEAL_KEY, now()), [anchor_seed(key) for key in settings.master_keys()]
        ),
        group=settings.broker.group,
        now=now,
    )


def _store(settings: Settings) -> AnchorStore:
    where = settings.anchor.where
    sqlite = settings.database_url.startswith("sqlite")
    if where == "topic" or (where == "auto" and not sqlite and not settings.broker.embedded):
        return TopicAnchor(client_broker(settings.broker))
    if settings.anchor.file is not None:
        return FileAnchor(settings.anchor.file)
    database = make_url(settings.database_url).database
    if sqlite and database:
        return FileAnchor(Path(f"{database}.anchor"))
    settings.state.mkdir(parents=True, exist_ok=True)
    return FileAnchor(settings.state / "anchor")
