"""Bring a database to the newest schema, from a checkout or from the installed wheel.

Alembic is imported where a schema is changed, and nowhere else: every command and process looks whether its database
is one that it can work with, and Alembic takes longer to import than that takes.
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlmodel import select

from privacy.errors import StorageError
from privacy.keys.moving import move_keys
from privacy.storage.session import open_engine, transaction
from streams.storage.tables import CompatibleRevisionRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy.engine import Connection, Engine
    from sqlmodel import Session

    from privacy.keys.store import KeyStore

# Alembic hands the running migration to its scripts through module globals: one at a time in a process.
# Between processes the database's own lock orders them.
_ALEMBIC = threading.Lock()
_REVISIONS = re.compile(r'^(revision|down_revision) = "(\w+)"$', re.MULTILINE)


def migrations_directory() -> Path:
    """Return the folder of the migration history.

    The wheel carries it as ``personalization/_migrations``; a checkout has it beside the packages.

    Raises:
        StorageError: there is none, so the installation is incomplete.
    """
    shipped = Path(str(resources.files("personalization"))) / "_migrations"
    beside = Path(__file__).resolve().parents[2] / "migrations"
    for folder in (shipped, beside):
        if (folder / "env.py").is_file():
            return folder
    raise StorageError("the migrations are missing from this installation; install discreet again")


def _config(connection: Connection | None = None) -> Config:
    from alembic.config import Config  # see the module's docstring

    config = Config()
    # Alembic substitutes %(…)s in options, so a percent sign of the path is doubled.
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    try:
        engine = open_engine(url)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise StorageError(
            "the database address cannot be read; allowed are sqlite:///PATH and postgresql+psycopg://USER@HOST/NAME"
        ) from error
    try:
        with engine.connect() as connection:
            yield connection
            connection.commit()
    except DBAPIError as error:
        raise StorageError(
            f"the {engine.dialect.name} database could not be opened or migrated "
            f"({type(error.orig).__name__}); check that it is reachable and that its user may change the "
            "schema, then try again"
        ) from error
    finally:
        engine.dispose()


def head() -> str:
    """Return the newest revision that this version of the code knows, as its migrations' texts say.

    Raises:
        StorageError: the history is missing, empty, or has several ends.
    """
    named: set[str] = set()
    followed: set[str | None] = set()
    for path in (migrations_directory() / "versions").glob("*.py"):
        written = dict(_REVISIONS.findall(path.read_text("utf-8")))
        named.add(written["revision"])
        followed.add(written.get("down_revision"))
    if len(ends := named - followed) != 1:
        raise StorageError(
            f"the migration history has {len(ends)} newest revisions and must have one; install discreet again"
        )
    return ends.pop()


def upgrade(url: str, revision: str = "head") -> str | None:
    """Bring the database at ``url`` to ``revision`` and return where it stands.

    Processes that do so at the same time queue up. A later version's schema that this code works with stays.

    Raises:
        StorageError: the address is wrong, or the database cannot be reached or changed, or a later version of the
            code has it; nothing was done.
    """
    from alembic import command  # see the module's docstring
    from alembic.util.exc import CommandError

    with _ALEMBIC, _connection(url) as connection:
        if head() not in _compatible(connection):
            connection.rollback()  # what was only read
            try:
                command.upgrade(_config(connection), revision)
            except CommandError as error:
                raise StorageError(
                    f"the database cannot be brought to {revision}: {error}; was a later version here? use that one"
                ) from error
        return _revision(connection)


def move_keys_out(url: str, store: KeyStore) -> int:
    """Prepare the key store, move keys that still lie in the database into it, and return how many users' keys.

    Raises:
        StorageError: one of the two cannot be reached or changed; what was moved stays moved, and nothing is lost.
    """
    store.prepare()
    engine = open_engine(url)
    try:
        return move_keys(engine, store, now=datetime.now(UTC))
    finally:
        engine.dispose()


def downgrade(url: str, revision: str) -> str | None:
    """Take the database back to ``revision`` (``base``: empty) and return where it stands. Data is lost.

    Raises:
        StorageError: as for ``upgrade``.
    """
    from alembic import command  # see the module's docstring

    with _ALEMBIC, _connection(url) as connection:
        command.downgrade(_config(connection), revision)
        return _revision(connection)


def current(url: str) -> str | None:
    """Return the revision of the database at ``url``; ``None`` when it has no schema yet.

    Raises:
        StorageError: the address is wrong, or the database cannot be reached.
    """
    with _connection(url) as connection:
        return _revision(connection)


def problem_of(url: str) -> str | None:
    """Return why this code cannot work with the database at ``url``; ``None`` when it can.

    It can with its own revision, and with a later one that names it as compatible (``migrations/env.py``).

    Raises:
        StorageError: the address is wrong, or the database cannot be reached.
    """
    with _connection(url) as connection:
        revision, ours = _revision(connection), head()
        if revision == ours or ours in _compatible(connection):
            return None
    return (
        f"the database is at revision {revision or 'none'} and this version needs {ours}, or a later one that works "
        "with it; run `discreet db upgrade`, or the version that upgraded it"
    )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    return revision


def _compatible(connection: Connection) -> set[str]:
    if not inspect(connection).has_table(str(CompatibleRevisionRow.__tablename__)):
        return set()
    return set(connection.execute(select(CompatibleRevisionRow.revision)).scalars())


def open_current(url: str) -> Engine:
    """Return an engine for the database at ``url``, having checked that this code can work with its schema.

    Raises:
        StorageError: the address is wrong, the database cannot be reached, or its schema is another one.
    """
    if (folder := _missing_folder(url)) is not None:
        raise StorageError(
            f"there is no database yet, for its folder {folder} does not exist; run `discreet db upgrade` "
            "(a folder that DISCREET_DATABASE__URL names must be there first)"
        )
    if (problem := problem_of(url)) is not None:
        raise StorageError(problem)
    return open_engine(url)


def _missing_folder(url: str) -> Path | None:
    """Return the folder that a SQLite file would be in, if it does not exist."""
    if not url.startswith("sqlite:///"):
        return None
    folder = Path(url.removeprefix("sqlite:///").partition("?")[0]).parent
    return None if folder.is_dir() else folder


@contextmanager
def current_session(url: str) -> Iterator[Session]:
    """Yield a session of one transaction on the database at ``url`` and close all connections afterwards.

    Raises:
        StorageError: as for ``open_current``, or the database refused the transaction.
    """
    engine = open_current(url)
    try:
        with transaction(engine) as session:
            yield session
    finally:
        engine.dispose()


def check(url: str) -> None:
    """Compare the migrated database at ``url`` with the tables in the code, as ``alembic check`` does.

    Raises:
        StorageError: they differ, or the database is not at the newest revision.
    """
    from alembic import command  # see the module's docstring
    from alembic.util.exc import CommandError

    with _ALEMBIC, _connection(url) as connection:
        try:
            command.check(_config(connection))
        except CommandError as error:
            raise StorageError(f"the database does not match the code: {error}") from error
