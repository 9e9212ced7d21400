"""Engines and transactions: one unit of work, committed only at the edge.

SQLite runs in WAL mode, with ``BEGIN IMMEDIATE`` so that a read-check-write admission holds the write lock from its
first read; what only reads (``reading``) takes no lock. PostgreSQL runs at READ COMMITTED; code that admits takes row
locks in a fixed order.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from privacy.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
    from sqlalchemy.pool import ConnectionPoolEntry

_WAL_POLL_SECONDS = 0.02
_READS = "discreet_reads"
_IDLE_IN_TRANSACTION_SECONDS = 300  # longer than any pause of ours between two statements

SQLITE_PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
    # The digests of events are random, so a batch touches pages all over the index. A cache of 64 MiB keeps them at
    # hand, and a log of up to 64 MiB lets a page that many batches change be moved into the database once.
    "cache_size=-65536",
    "wal_autocheckpoint=16384",
)
"""What every connection to SQLite is set to, besides WAL mode."""


def open_engine(url: str, *, busy_timeout_seconds: float = 30.0) -> Engine:
    """Return an engine for ``sqlite:///…`` or ``postgresql+psycopg://…`` with this project's transaction rules."""
    if url.startswith("sqlite"):
        engine = create_engine(
            url, connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False}
        )

        @event.listens_for(engine, "connect")
        def _on_connect(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
            connection.isolation_level = None  # we emit BEGIN ourselves
            cursor = connection.cursor()
            _enter_wal(cursor, busy_timeout_seconds)
            for pragma in SQLITE_PRAGMAS:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _on_begin(connection) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            reads = connection.get_execution_options().get(_READS, False)
            connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

        return engine
    return create_engine(url, pool_pre_ping=True, connect_args=_postgres_limits(make_url(url)))


def _postgres_limits(url: URL) -> dict[str, str | int]:
    """Return how long a PostgreSQL connection may hang; what the URL sets itself stays as it is.

    A peer that vanished without a word is given up by TCP. A session of ours that froze inside a transaction (a
    stopped process, a parted machine) is ended by the server, since its locks keep everybody else waiting.
    """
    limits: dict[str, str | int] = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
        "options": f"-c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION_SECONDS}s",
    }
    return {name: value for name, value in limits.items() if name not in url.query}


def _enter_wal(cursor: DBAPICursor, busy_timeout_seconds: float) -> None:
    """Switch the database to WAL, which lasts, waiting for others that open it for the first time.

    SQLite's own busy timeout does not cover this switch: a file that is not in WAL mode yet and that another
    process is using answers at once that it is locked.

    Raises:
        sqlite3.OperationalError: it was still locked after the time-out.
    """
    deadline = time.monotonic() + busy_timeout_seconds
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_POLL_SECONDS)
        else:
            return


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Yield a session that reads one state of the database and waits for no writer, nor any writer for it.

    Raises:
        StorageError: the database could not be reached or refused, as it does anything that writes.
    """
    if engine.dialect.name == "postgresql":
        reader = engine.execution_options(postgresql_readonly=True, isolation_level="REPEATABLE READ")
    else:
        reader = engine.execution_options(**{_READS: True})
    with transaction(reader) as session:
        yield session


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Yield a session whose work is committed when the block ends and rolled back when it raises.

    Raises:
        StorageError: the database could not be reached or refused (the driver's error is its cause).
    """
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except DBAPIError as error:
        raise StorageError(
            f"the {engine.dialect.name} database refused the transaction ({type(error.orig).__name__}); "
            "check that it is reachable and has space, then try again"
        ) from error


def server_now(session: Session) -> datetime | None:
    """Return the present by the database server's own clock, aware; None where it has none."""
    if session.get_bind().dialect.name != "postgresql":
        return None
    now: datetime = session.connection().execute(text("SELECT clock_timestamp()")).scalar_one()
    return now
