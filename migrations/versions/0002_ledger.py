"""The privacy ledger: entries (append-only), chain heads, accounts, reservations.

Revision ID: 0002_ledger
Revises: 0001_privacy
"""

import sqlalchemy as sa
from alembic import op

from privacy.storage.append_only import guard_statements, unguard_statements

revision = "0002_ledger"
down_revision = "0001_privacy"
branch_labels = None
depends_on = None


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
    for statement in guard_statements("ledger_entry", ("tenant_id", "sequence"), op.get_bind().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for statement in unguard_statements("ledger_entry", op.get_bind().dialect.name):
        op.execute(statement)
    for table in ("ledger_reservation", "ledger_account", "ledger_head", "ledger_entry"):
        op.drop_table(table)
