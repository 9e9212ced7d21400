"""A tenant with a ledger, signals, an erasure and a line, an anchor in memory, and backups that are put back."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from privacy.storage.session import open_engine
from streams.anchor.guard import AnchorGuard
from streams.anchor.seal import AnchorSeal
from streams.anchor.topic import TopicAnchor
from streams.client.testing import InMemoryBroker

SEED = bytes(range(32))


def guard_of(engine, broker=None, *, clock, seed=SEED, earlier=(), group="g"):
    """A guard as a new process has it."""
    store = TopicAnchor(broker or InMemoryBroker(), read_seconds=10, confirm_seconds=10)
    return AnchorGuard(engine, store, AnchorSeal(lambda: seed, earlier), group=group, now=clock.now)


class Backup:
    """A copy of a database, made once; ``put_back`` makes the database what it was then."""

    def __init__(self, url):
        self._url = make_url(url)
        if self._url.drivername == "sqlite":
            engine = open_engine(url)
            with engine.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            engine.dispose()
            self._copy = f"{self._url.database}.{secrets.token_hex(4)}"
            shutil.copyfile(self._url.database, self._copy)
        else:
            self._copy = f"{self._url.database}_{secrets.token_hex(4)}"
            self._admin(f"CREATE DATABASE {self._copy} TEMPLATE {self._url.database}")

    def put_back(self):
        """Put the copy in the place of the database; connections to it are ended."""
        name = self._url.database
        if self._url.drivername == "sqlite":
            for suffix in ("-wal", "-shm"):
                Path(name + suffix).write_bytes(b"")
            shutil.copyfile(self._copy, name)
            return
        self._admin(f"DROP DATABASE {name} WITH (FORCE)")
        self._admin(f"CREATE DATABASE {name} TEMPLATE {self._copy}")

    def drop(self):
        if self._url.drivername != "sqlite":
            self._admin(f"DROP DATABASE IF EXISTS {self._copy} WITH (FORCE)")

    def _admin(self, statement):
        server = create_engine(
            self._url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool
        )
        with server.connect() as connection:
            connection.execute(text(statement))
        server.dispose()
