"""Triggers that make the database itself refuse to change or drop a row of an append-only table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_POSTGRES_FUNCTION = """
CREATE OR REPLACE FUNCTION discreet_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP;
END $$
"""


def guard_statements(table: str, key: Sequence[str], dialect: str) -> list[str]:
    """Return the statements that make ``table`` append-only.

    SQLite's ``INSERT OR REPLACE`` deletes the old row without firing a DELETE trigger, so an insert over an
    existing ``key`` is refused there too. On PostgreSQL a TRUNCATE is refused as well.
    """
    if dialect == "postgresql":
        refuse = "EXECUTE FUNCTION discreet_refuse_change()"
        return [
            _POSTGRES_FUNCTION,
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {refuse}",
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {refuse}",
        ]
    same_key = " AND ".join(f"{column} = NEW.{column}" for column in key)
    taken = f"EXISTS (SELECT 1 FROM {table} WHERE {same_key})"  # noqa: S608  # names come from migrations
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    return [
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {taken} {refuse}",
    ]


def unguard_statements(table: str, dialect: str) -> list[str]:
    """Return the statements that take the guard off again, for a downgrade that drops ``table``."""
    if dialect == "postgresql":
        names = (f"{table}_append_only", f"{table}_no_truncate")
        return [f"DROP TRIGGER {name} ON {table}" for name in names]
    return [f"DROP TRIGGER {table}_{kind}" for kind in ("no_update", "no_delete", "no_replace")]
