"""Readings of drift: charged histograms of what a line's users ask, on a schedule of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0030_drift"
down_revision = "0029_terms"
branch_labels = None
depends_on = None
works_before = (
    True  # a version from before knows no policy that has readings taken, and never asks for the column
)


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.add_column("tenants", sa.Column("drift_due_at", moment))
    op.create_index("ix_tenants_drift_due", "tenants", ["drift_due_at", "tenant_id"])
    op.create_table(
        "drift_readings",
        sa.Column("reading_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), nullable=False),
        sa.Column("scheduled_for", moment, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("lease_expires_at", moment),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("reservation_id", sa.String(64)),
        sa.Column("terms_json", sa.Text),
        sa.Column("histogram_json", sa.Text),
        sa.Column("judgement_json", sa.Text),
        sa.Column("followed", sa.String(32)),
        sa.Column("outcome", sa.String(64)),
        sa.Column("closed_at", moment),
        sa.UniqueConstraint("tenant_id", "domain", "scheduled_for", name="uq_drift_reading_slot"),
        sa.CheckConstraint(
            "state IN ('due', 'leased', 'done', 'declined', 'failed')", name="ck_drift_reading_state"
        ),
    )
    op.create_index("ix_drift_readings_state", "drift_readings", ["state", "due_at"])


def downgrade() -> None:
    op.drop_index("ix_drift_readings_state", "drift_readings")
    op.drop_table("drift_readings")
    op.drop_index("ix_tenants_drift_due", "tenants")
    op.drop_column("tenants", "drift_due_at")
