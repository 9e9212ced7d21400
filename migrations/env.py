"""Run the one migration history, from `streams.storage.schema`, or from `alembic` with the project's settings."""

from __future__ import annotations

import importlib
import importlib.util

from alembic import context
from sqlalchemy import inspect, text
from sqlmodel import SQLModel

from privacy.storage.session import open_engine

# Every module that defines tables. `alembic check` compares these with the migrated database.
TABLE_MODULES = (
    "privacy.policy.tables",
    "privacy.anchor.tables",
    "privacy.audit.tables",
    "privacy.keys.tables",
    "privacy.consent.tables",
    "privacy.erasure.tables",
    "privacy.ledger.tables",
    "personalization.memory.tables",
    "personalization.prompts.tables",
    "personalization.rollouts.tables",
    "personalization.drift.tables",
    "personalization.choices.tables",
    "personalization.terms.tables",
    "personalization.registry.tables",
    "personalization.rounds.tables",
    "personalization.starts.tables",
    "personalization.signals.rows",
    "personalization.styles.tables",
    "streams.storage.tables",
    "streams.gateway.tables",
    "streams.ingest.tables",
    "streams.outbox.tables",
)
_ADVISORY_LOCK = 7_243_001  # any number of ours: two processes that upgrade at once queue up on it

for name in TABLE_MODULES:
    if importlib.util.find_spec(name) is not None:
        importlib.import_module(name)


def compared(_object, name, kind, _reflected, _other):
    """Say whether a table or index is compared with the code: partitions, and what one database alone has, are not."""
    # A partition; or what `discreet memory prepare` makes where the database has the extension for it.
    apart = kind == "table" and name.startswith(("processed_events_", "memory_vectors"))
    return not apart and (kind, name) != ("index", "ix_processed_events_at")


def run(connection):
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        include_object=compared,
        # Both databases roll DDL back: a migration that fails leaves the schema as it was.
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
        context.run_migrations()
        name_compatible(connection)


def name_compatible(connection):
    """Write down whose code works with the schema as it is now; older code asks (``streams.storage.schema``)."""
    if not inspect(connection).has_table("compatible_revisions"):
        return
    names = []
    name = context.get_context().get_current_revision()
    while name is not None:
        step = context.script.get_revision(name)
        names.append({"name": name})
        name = step.down_revision if getattr(step.module, "works_before", False) else None
    connection.execute(text("DELETE FROM compatible_revisions"))
    connection.execute(text("INSERT INTO compatible_revisions (revision) VALUES (:name)"), names)


def run_from_settings():
    """`alembic …` on the command line: the address comes from `-x url=…` or from the settings."""
    url = context.get_x_argument(as_dictionary=True).get("url")
    if url is None:
        from streams.settings import load_settings  # noqa: PLC0415  # only this way of starting needs settings

        url = load_settings().database_url
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            run(connection)
            connection.commit()
    finally:
        engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
elif context.is_offline_mode():
    raise SystemExit("migrations run against a database only; leave --sql out")
else:
    run_from_settings()
