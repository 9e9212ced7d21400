"""Adapter lines, training rounds and adapter versions."""

import sqlalchemy as sa
from alembic import op

revision = "0003_personalization"
down_revision = "0002_ledger"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "adapter_lines",
        sa.Column("line_ref", sa.String(12), primary_key=True),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("last_version", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer),
        sa.Column("current_version_id", sa.String(71)),
        sa.Column("created_at", moment, nullable=False),
        sa.UniqueConstraint("tenant_id", "domain", name="uq_adapter_line_tenant_domain"),
    )
    op.create_table(
        "training_rounds",
        sa.Column("round_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), nullable=False),
        sa.Column("period_index", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("scheduled_for", moment),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("lease_expires_at", moment),
        sa.Column("opened_by", sa.String(128), nullable=False),
        sa.Column("opened_at", moment, nullable=False),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("read_at", moment),
        sa.Column("reservation_id", sa.String(64)),
        sa.Column("plan_json", sa.Text),
        sa.Column("start", sa.String(16)),
        sa.Column("start_version_id", sa.String(71)),
        sa.Column("wrapped_seed", sa.LargeBinary),
        sa.Column("noisy_cohort", sa.BigInteger),
        sa.Column("outcome_code", sa.String(64)),
        sa.Column("outcome", sa.Text),
        sa.Column("version_id", sa.String(71)),
        sa.Column("closed_at", moment),
        sa.UniqueConstraint(
            "tenant_id", "domain", "period_index", "sequence", name="uq_training_round_sequence"
        ),
        sa.UniqueConstraint("tenant_id", "domain", "scheduled_for", name="uq_training_round_slot"),
        sa.CheckConstraint(
            "state IN ('due', 'leased', 'done', 'declined', 'failed')", name="ck_training_round_state"
        ),
    )
    op.create_index("ix_training_round_state", "training_rounds", ["state", "due_at"])
    op.create_table(
        "adapter_versions",
        sa.Column("version_id", sa.String(71), primary_key=True),
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), nullable=False),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("served_name", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("round_id", sa.String(36), sa.ForeignKey("training_rounds.round_id"), nullable=False),
        sa.Column("reservation_id", sa.String(64), nullable=False),
        sa.Column("ledger_entry_hash", sa.String(71), nullable=False),
        sa.Column("base_digest", sa.String(71), nullable=False),
        sa.Column("start_version_id", sa.String(71)),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("manifest_json", sa.Text, nullable=False),
        sa.Column("signature_json", sa.Text, nullable=False),
        sa.Column("published_at", moment, nullable=False),
        sa.Column("left_at", moment),
        sa.Column("left_reason", sa.Text),
        sa.Column("left_by", sa.String(128)),
        sa.UniqueConstraint("line_ref", "version", name="uq_adapter_version_number"),
        sa.UniqueConstraint("served_name", name="uq_adapter_version_served_name"),
        sa.CheckConstraint(
            "state IN ('published', 'superseded', 'rolled_back', 'withdrawn')",
            name="ck_adapter_version_state",
        ),
    )


def downgrade() -> None:
    op.drop_table("adapter_versions")
    op.drop_index("ix_training_round_state", table_name="training_rounds")
    op.drop_table("training_rounds")
    op.drop_table("adapter_lines")
