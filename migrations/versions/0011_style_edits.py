"""What people struck from a tenant's style card or fixed in it: one row for each act, none is ever changed."""

import sqlalchemy as sa
from alembic import op

revision = "0011_style_edits"
down_revision = "0010_selection_delta"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "style_edits",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("domain", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("handle", sa.String(12), nullable=False),
        sa.Column("decision", sa.String(8), nullable=False),
        sa.Column("feature", sa.String(32), nullable=False),
        sa.Column("entry", sa.JSON),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("decision IN ('remove', 'pin', 'undo')", name="ck_style_edit_decision"),
    )


def downgrade() -> None:
    op.drop_table("style_edits")
