"""Statements as they are sent, and what of them the database would read without an index."""

from __future__ import annotations

from contextlib import contextmanager

from sqlalchemy import event, text

READING = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
FEW_ROWS = {"fate_slots", "chore_leases"}  # a row for each slot, one for each kind of work
NO_TABLES = {
    "wanted",
    "w",
    "lines",
    "limits",
    "anon_1",
    "CONSTANT",
}  # what a statement brings along, in SQLite's words


@contextmanager
def noted_statements(engine):
    """Yield the statements that are sent meanwhile, each once, with the first parameters that it was sent with."""
    found = {}

    def note(_connection, _cursor, statement, parameters, _context, _many):
        if statement.lstrip().startswith(READING):
            found.setdefault(statement, parameters[0] if isinstance(parameters, list) else parameters)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def without_index(engine, statement, parameters, *, settings=(), small=()):
    """Return what a statement reads without an index, in the database's own words.

    An index that is read from end to end counts as none, unless a LIMIT ends it. ``settings`` hold for the plan alone;
    tables in ``small`` may be read whole.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            return [row[3] for row in steps if _sqlite_scans(row[3], limited=" LIMIT " in statement)]
        for setting in settings:
            connection.execute(text(f"SET LOCAL {setting}"))
        ((plans,),) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).all()
        return _postgres_scans(plans[0]["Plan"], FEW_ROWS.union(small), limited=False)


def _postgres_scans(plan, small, *, limited):
    kind, table = plan["Node Type"], plan.get("Relation Name") or plan.get("Index Name") or ""
    from_end_to_end = kind.startswith(("Index", "Bitmap Index")) and "Index Cond" not in plan and not limited
    found = [f"{kind} {table}"] if (kind == "Seq Scan" or from_end_to_end) and table not in small else []
    for part in plan.get("Plans", ()):
        found += _postgres_scans(part, small, limited=limited or kind == "Limit")
    return found


def _sqlite_scans(step, *, limited):
    words = step.split()
    if words[0] != "SCAN" or words[1] in FEW_ROWS | NO_TABLES or "VIRTUAL" in words:
        return False
    return not (limited and "USING" in words)
