"""Many rows in or out with one driver call: no per-row work of the ORM or of the SQL compiler.

For the hot path of ingest only; names of tables and columns come from code, values are bound. PostgreSQL receives a
COPY, SQLite an ``executemany``. Nothing is returned, and ``insert_rows`` tolerates no conflict: a taken key fails the
transaction.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection
    from sqlmodel import Session

KEYS_PER_STATEMENT = 500
_WITHOUT_OFFSET = 26  # characters of a moment to the microsecond


def insert_rows(
    session: Session, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert ``rows`` (values in the order of ``columns``, moments through ``moment_writer``)."""
    if not rows:
        return
    connection = session.connection()
    names = ", ".join(columns)
    if connection.dialect.name == "postgresql":
        _copy(connection, f"COPY {table} ({names}) FROM STDIN", rows)
        return
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608  # names come from code
    connection.exec_driver_sql(statement, list(rows))


def insert_missing_rows(
    session: Session, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert ``rows`` as ``insert_rows`` does, but leave out those whose key is taken.

    Rows of concurrent transactions with the same keys wait for each other: pass them in sorted order.
    """
    if not rows:
        return
    connection = session.connection()
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    names, marks = ", ".join(columns), ", ".join([mark] * len(columns))
    statement = f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608  # from code
    connection.exec_driver_sql(statement, list(rows))


def _copy(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    driver: Any = connection.connection.driver_connection
    base: type[Exception] = connection.dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except base as error:
        # The driver is spoken to directly, so its errors are translated here, as SQLAlchemy does elsewhere.
        raise DBAPIError.instance(statement, None, error, base, dialect=connection.dialect) from error


def lookup_rows(
    session: Session,
    table: str,
    key: str,
    keys: Sequence[bytes],
    columns: Sequence[str],
    *,
    where: str = "true",
) -> list[tuple[Any, ...]]:
    """Return (key, *columns) of the rows of ``table`` whose binary ``key`` is one of ``keys``, and where ``where``."""
    connection = session.connection()
    names = ", ".join((key, *columns))
    select = f"SELECT {names} FROM {table} WHERE {where} AND {key}"  # noqa: S608  # all of it comes from code
    if connection.dialect.name == "postgresql":
        found = connection.exec_driver_sql(f"{select} = ANY(%s)", (list(keys),)) if keys else ()
        return [(bytes(row[0]), *row[1:]) for row in found]
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        part = tuple(keys[start : start + KEYS_PER_STATEMENT])
        marks = ", ".join("?" * len(part))
        rows.extend(tuple(row) for row in connection.exec_driver_sql(f"{select} IN ({marks})", part))
    return rows


def moment_writer(session: Session) -> Callable[[datetime], Any]:
    """Return what turns an aware instant into the form that the driver stores in ``UtcDateTime`` columns."""
    if session.get_bind().dialect.name == "postgresql":
        return _same
    return _sqlite_text


def _same(at: datetime) -> datetime:
    return at


def _sqlite_text(at: datetime) -> str:
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(" ", "microseconds")[:_WITHOUT_OFFSET]
