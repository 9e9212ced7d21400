"""Tenants, policies, keys, consents, erasures and the audit trail.

Revision: 0001_privacy, the first
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_privacy"
down_revision = None
branch_labels = None
depends_on = None

# A copy of its day: history imports nothing of ours that may change.
_POSTGRES_FUNCTION = """
CREATE OR REPLACE FUNCTION discreet_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP;
END $$
"""


def _guard_statements(table, key, dialect):
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
    taken = f"EXISTS (SELECT 1 FROM {table} WHERE {same_key})"  # noqa: S608  # names stand below
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    return [
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {taken} {refuse}",
    ]


def _unguard_statements(table, dialect):
    """Return the statements that take the guard off again, for a downgrade that drops ``table``."""
    if dialect == "postgresql":
        names = (f"{table}_append_only", f"{table}_no_truncate")
        return [f"DROP TRIGGER {name} ON {table}" for name in names]
    return [f"DROP TRIGGER {table}_{kind}" for kind in ("no_update", "no_delete", "no_replace")]


APPEND_ONLY = {"policies": ("tenant_id", "version"), "audit_trail": ("chain", "sequence")}


def _limit_lock_wait():
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def _tenant_id():
    return sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), primary_key=True)


def upgrade():
    _limit_lock_wait()
    op.create_table(
        "tenants",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("registered_by", sa.String(200), nullable=False),
    )
    op.create_table(
        "policies",
        _tenant_id(),
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_table(
        "tenant_keys",
        _tenant_id(),
        sa.Column("wrapped_pseudonym_key", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("erasures", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "subject_keys",
        _tenant_id(),
        sa.Column("pseudonym", sa.String(64), primary_key=True),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_table(
        "consents",
        _tenant_id(),
        sa.Column("pseudonym", sa.String(64), primary_key=True),
        sa.Column("purpose", sa.String(32), primary_key=True),
        sa.Column("granted", sa.Boolean(), nullable=False),
        sa.Column("notice_version", sa.String(100), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "erasures",
        _tenant_id(),
        sa.Column("erasure_id", sa.String(64), primary_key=True),
        sa.Column("pseudonym", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("certificate", sa.JSON(), nullable=True),
    )
    op.create_index("ix_erasures_subject", "erasures", ["tenant_id", "pseudonym"])
    op.create_table(
        "audit_trail",
        sa.Column("chain", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous_digest", sa.String(71), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
    )
    for table, key in APPEND_ONLY.items():
        for statement in _guard_statements(table, key, op.get_bind().dialect.name):
            op.execute(statement)


def downgrade():
    _limit_lock_wait()
    dialect = op.get_bind().dialect.name
    for table in APPEND_ONLY:
        for statement in _unguard_statements(table, dialect):
            op.execute(statement)
    for table in (
        "audit_trail",
        "erasures",
        "consents",
        "subject_keys",
        "tenant_keys",
        "policies",
        "tenants",
    ):
        op.drop_table(table)
    if dialect == "postgresql":
        op.execute("DROP FUNCTION discreet_refuse_change()")
