"""Accounts keep a share of their delta for selections; those that are open keep none, for their proof fixes it."""

import sqlalchemy as sa
from alembic import op

revision = "0010_selection_delta"
down_revision = "0009_one_user"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "ledger_account", sa.Column("selection_share", sa.Float, nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("ledger_account", "selection_share")
