"""Leases of periodic work, so that of many workers one does it."""

import sqlalchemy as sa
from alembic import op

revision = "0017_leases"
down_revision = "0016_fate_slots"
branch_labels = None
depends_on = None
works_before = True


def upgrade() -> None:
    op.create_table(
        "chore_leases",
        sa.Column("chore", sa.String(63), primary_key=True),
        sa.Column("owner", sa.String(63), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("chore_leases")
