"""Terms of lines: versions with who decided them, which are never changed."""

import sqlalchemy as sa
from alembic import op

revision = "0029_terms"
down_revision = "0028_memory"
branch_labels = None
depends_on = None
works_before = True  # a version from before puts no terms right


def upgrade() -> None:
    op.create_table(
        "term_lists",
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version_id", sa.String(71), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("term_lists")
