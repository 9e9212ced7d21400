"""Versions of the code beside each other: an older one works with a newer schema that says so, and with no other."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from privacy.errors import StorageError
from privacy.storage.session import open_engine
from streams.processes.worker import Worker
from streams.storage import schema as database

STEPS = list(ScriptDirectory.from_config(database._config()).walk_revisions())
NAMING = "0019_compatible_revisions"  # from which on the schema names who works with it
MARKED = [step.revision for step in STEPS if getattr(step.module, "works_before", False)]


def older(monkeypatch, revision):
    """Let this code be that of an older version."""
    monkeypatch.setattr(database, "head", lambda: revision)


def problem_of_worker(url):
    return Worker._database_problem(SimpleNamespace(_settings=SimpleNamespace(database_url=url)))


@pytest.mark.parametrize(("revision", "works"), [("0017_leases", True), ("0015_next_due", False)])
def test_code_of_an_earlier_revision_works_if_every_step_since_allows_it(
    empty_database_url, monkeypatch, revision, works
):
    database_url = empty_database_url
    database.upgrade(database_url, NAMING)
    older(monkeypatch, revision)
    problem = problem_of_worker(database_url)
    assert (problem is None) == works
    with nullcontext() if works else pytest.raises(StorageError, match="and this version needs 0015"):
        database.open_current(database_url).dispose()
    if works:  # what an older version runs before it starts leaves the newer schema as it is
        assert database.upgrade(database_url) != revision


def test_a_schema_that_names_nobody_is_refused(database_url, monkeypatch):
    engine = open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
        connection.execute(text("DELETE FROM compatible_revisions"))
    engine.dispose()
    assert "9999_later" in problem_of_worker(database_url)
    with pytest.raises(StorageError, match="later version"):
        database.upgrade(database_url)
    older(monkeypatch, "0001_privacy")
    assert problem_of_worker(database_url) is not None


def test_the_names_follow_the_schema_up_and_down(empty_database_url):
    engine = open_engine(empty_database_url)
    database.upgrade(empty_database_url, "0018_versions_of_tenants")
    assert not inspect(engine).has_table("compatible_revisions")
    database.upgrade(empty_database_url, NAMING)
    with engine.connect() as connection:
        names = set(connection.execute(text("SELECT revision FROM compatible_revisions")).scalars())
    engine.dispose()
    assert {NAMING, "0018_versions_of_tenants", "0017_leases", "0016_fate_slots"} <= names
    assert "0015_next_due" not in names


@pytest.mark.parametrize("revision", MARKED)
def test_a_step_that_says_so_takes_nothing_away_and_asks_for_nothing_new(empty_database_url, revision):
    step = next(step for step in STEPS if step.revision == revision)
    database.upgrade(empty_database_url, step.down_revision)
    before = columns(empty_database_url)
    database.upgrade(empty_database_url, revision)
    after = columns(empty_database_url)
    assert before.items() <= after.items()
    for (table, name), (_, nullable, default) in after.items() - before.items():
        new_table = all(known != table for known, _ in before)
        assert new_table or nullable or default is not None, f"{table}.{name}"


def columns(url):
    engine = open_engine(url)
    inspector = inspect(engine)
    found = {
        (table, column["name"]): (str(column["type"]), column["nullable"], column["default"])
        for table in inspector.get_table_names()
        for column in inspector.get_columns(table)
    }
    engine.dispose()
    return found
