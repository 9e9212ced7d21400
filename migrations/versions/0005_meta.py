"""Which released adapters stand behind each meta start."""

import sqlalchemy as sa
from alembic import op

revision = "0005_meta"
down_revision = "0004_streams"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "meta_contributions",
        sa.Column(
            "version_id", sa.String(71), sa.ForeignKey("adapter_versions.version_id"), primary_key=True
        ),
        sa.Column(
            "contributor_id", sa.String(71), sa.ForeignKey("adapter_versions.version_id"), primary_key=True
        ),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
    )
    op.create_index("ix_meta_contribution_tenant", "meta_contributions", ["tenant_id"])


def downgrade() -> None:
    op.drop_index("ix_meta_contribution_tenant", table_name="meta_contributions")
    op.drop_table("meta_contributions")
