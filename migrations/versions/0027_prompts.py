"""Prompt templates of lines, and what was decided about them: rows that are never changed."""

import sqlalchemy as sa
from alembic import op

revision = "0027_prompts"
down_revision = "0026_rollouts_before"
branch_labels = None
depends_on = None
works_before = True  # a version from before knows no templates and asks for none


def upgrade() -> None:
    line = sa.ForeignKey("adapter_lines.line_ref")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "prompt_templates",
        sa.Column("line_ref", sa.String(12), line, primary_key=True),
        sa.Column("version_id", sa.String(71), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.UniqueConstraint("line_ref", "number", name="uq_prompt_template_number"),
    )
    op.create_table(
        "prompt_moves",
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("current", sa.String(71)),
        sa.Column("candidate", sa.String(71)),
        sa.Column("candidate_percent", sa.Float, nullable=False),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.CheckConstraint(
            "decision IN ('use', 'try', 'leave', 'roll_back', 'stop')", name="ck_prompt_move_decision"
        ),
    )


def downgrade() -> None:
    op.drop_table("prompt_moves")
    op.drop_table("prompt_templates")
