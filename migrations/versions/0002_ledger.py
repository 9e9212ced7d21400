"""The privacy ledger: entries (append-only), chain heads, accounts, reservations.

Revision ID: 0002_ledger
Revises: 0001_privacy
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_ledger"
down_revision = "0001_privacy"
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


def upgrade() -> None:
    op.create_table(
        "ledger_entry",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("recorded_at", sa.String(32), nullable=False),
        sa.Column("reservation_id", sa.String(32), nullable=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("previous_digest", sa.String(71), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
    )
    op.create_index("ix_ledger_entry_reservation_id", "ledger_entry", ["reservation_id"])
    op.create_table(
        "ledger_head",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
    )
    op.create_table(
        "ledger_account",
        sa.Column("account_id", sa.String(128), primary_key=True),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("tenant_id", sa.String(63), nullable=True),
        sa.Column("period_index", sa.BigInteger, nullable=True),
        sa.Column("epsilon", sa.Float, nullable=False),
        sa.Column("delta", sa.Float, nullable=False),
        sa.Column("rule", sa.String(16), nullable=False),
        sa.Column("orders", sa.Text, nullable=False),
        sa.Column("curve", sa.Text, nullable=False),
        sa.Column("entry_tenant_id", sa.String(63), nullable=False),
        sa.Column("entry_sequence", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_ledger_account_tenant_id", "ledger_account", ["tenant_id"])
    op.create_table(
        "ledger_reservation",
        sa.Column("reservation_id", sa.String(32), primary_key=True),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("period_index", sa.BigInteger, nullable=False),
        sa.Column("policy_version", sa.Integer, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("idempotency_key", sa.String(128), nullable=False),
        sa.Column("request_digest", sa.String(71), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("mechanisms", sa.Text, nullable=False),
        sa.Column("accounts", sa.Text, nullable=False),
        sa.Column("curve", sa.Text, nullable=False),
        sa.Column("seed_commitment", sa.String(128), nullable=True),
        sa.Column("data_digest", sa.String(128), nullable=True),
        sa.Column("code_digest", sa.String(128), nullable=True),
        sa.Column("artifact_digest", sa.String(128), nullable=True),
        sa.Column("reason", sa.String(200), nullable=True),
        sa.UniqueConstraint("tenant_id", "idempotency_key"),
    )
    op.create_index("ix_ledger_reservation_tenant_id", "ledger_reservation", ["tenant_id"])
    for statement in _guard_statements("ledger_entry", ("tenant_id", "sequence"), op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for statement in _unguard_statements("ledger_entry", op.get_bind().dialect.name):
        op.execute(statement)
    for table in ("ledger_reservation", "ledger_account", "ledger_head", "ledger_entry"):
        op.drop_table(table)
