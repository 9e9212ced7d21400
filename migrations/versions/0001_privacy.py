"""Tenants, policies, keys, consents, erasures and the audit trail.

Revision: 0001_privacy, the first
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from privacy.storage.append_only import guard_statements, unguard_statements
from privacy.storage.types import UtcDateTime

revision = "0001_privacy"
down_revision = None
branch_labels = None
depends_on = None

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
        sa.Column("registered_at", UtcDateTime(), nullable=False),
        sa.Column("registered_by", sa.String(200), nullable=False),
    )
    op.create_table(
        "policies",
        _tenant_id(),
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_table(
        "tenant_keys",
        _tenant_id(),
        sa.Column("wrapped_pseudonym_key", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=False),
        sa.Column("erasures", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "subject_keys",
        _tenant_id(),
        sa.Column("pseudonym", sa.String(64), primary_key=True),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("destroyed_at", UtcDateTime(), nullable=True),
    )
    op.create_table(
        "consents",
        _tenant_id(),
        sa.Column("pseudonym", sa.String(64), primary_key=True),
        sa.Column("purpose", sa.String(32), primary_key=True),
        sa.Column("granted", sa.Boolean(), nullable=False),
        sa.Column("notice_version", sa.String(100), nullable=False),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "erasures",
        _tenant_id(),
        sa.Column("erasure_id", sa.String(64), primary_key=True),
        sa.Column("pseudonym", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.Column("deadline_at", UtcDateTime(), nullable=False),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.Column("certificate", sa.JSON(), nullable=True),
    )
    op.create_index("ix_erasures_subject", "erasures", ["tenant_id", "pseudonym"])
    op.create_table(
        "audit_trail",
        sa.Column("chain", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous_digest", sa.String(71), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
    )
    for table, key in APPEND_ONLY.items():
        for statement in guard_statements(table, key, op.get_bind().dialect.name):
            op.execute(statement)


def downgrade():
    _limit_lock_wait()
    dialect = op.get_bind().dialect.name
    for table in APPEND_ONLY:
        for statement in unguard_statements(table, dialect):
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
