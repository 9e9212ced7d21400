"""What a connection to SQLite is set to, and a file that several processes open for the first time at once."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from sqlalchemy.exc import OperationalError

from privacy.storage import session as storage
from privacy.storage.session import open_engine
from tests.conftest import SQLITE_PRAGMAS_OF_THE_PRODUCT


@pytest.fixture
def in_use(tmp_path):
    """A file that is not in WAL mode yet, held by a writer: SQLite's own time-out does not wait for it."""
    path = tmp_path / "x.db"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("CREATE TABLE t (x)")
    writer.execute("BEGIN IMMEDIATE")
    yield f"sqlite:///{path}", writer
    writer.close()


def test_opening_waits_for_another_first_writer(in_use):
    url, writer = in_use
    timer = threading.Timer(0.3, writer.execute, ["COMMIT"])
    timer.start()
    engine = open_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()
    timer.join()


def test_opening_gives_up_after_the_busy_timeout(in_use):
    url, _ = in_use
    engine = open_engine(url, busy_timeout_seconds=0.1)
    with pytest.raises(OperationalError, match="locked"):
        engine.connect()
    engine.dispose()


def test_outside_of_tests_a_transaction_is_on_the_disk_before_it_is_reported_done(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SQLITE_PRAGMAS", SQLITE_PRAGMAS_OF_THE_PRODUCT)
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        full = 2  # as SQLite numbers it
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == full
    engine.dispose()
