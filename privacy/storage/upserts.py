"""INSERT … ON CONFLICT for batches, in the dialect of the session's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlmodel import Session, SQLModel


def insert_for(session: Session, row_type: type[SQLModel]) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT into the table of ``row_type`` that knows ``on_conflict_do_…`` on this database."""
    table = row_type.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def insert_ignoring_conflicts(
    session: Session, row_type: type[SQLModel], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert ``rows``; one whose key is taken is left out.

    Rows of concurrent transactions with the same keys wait for each other: pass them in sorted order.
    """
    if rows:
        statement = insert_for(session, row_type).on_conflict_do_nothing()
        session.connection().execute(statement, [dict(row) for row in rows])
