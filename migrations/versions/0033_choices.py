"""Choices among prompt templates: what was asked for, what it is frozen to, and what was drawn."""

import sqlalchemy as sa
from alembic import op

revision = "0033_choices"
down_revision = "0032_memory_versions"
branch_labels = None
depends_on = None
works_before = (
    True  # a version from before asks for no choice, and leaves out a template whose origin it does not know
)


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "prompt_choices",
        sa.Column("choice_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), nullable=False),
        sa.Column("candidates_json", sa.Text, nullable=False),
        sa.Column("epsilon", sa.Float, nullable=False),
        sa.Column("percent", sa.Float, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("asked_at", moment, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("lease_expires_at", moment),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("reservation_id", sa.String(64)),
        sa.Column("terms_json", sa.Text),
        sa.Column("drawn_json", sa.Text),
        sa.Column("chosen", sa.String(71)),
        sa.Column("outcome", sa.String(64)),
        sa.Column("closed_at", moment),
        sa.CheckConstraint(
            "state IN ('due', 'leased', 'done', 'declined', 'failed')", name="ck_prompt_choice_state"
        ),
    )
    op.create_index("ix_prompt_choices_state", "prompt_choices", ["state", "due_at"])
    op.create_index("ix_prompt_choices_line", "prompt_choices", ["tenant_id", "domain", "asked_at"])


def downgrade() -> None:
    # With the table goes the only word of which charge an open choice holds: nobody would release or forfeit it again.
    open_ones = (
        op.get_bind()
        .execute(sa.text("SELECT count(*) FROM prompt_choices WHERE state IN ('due', 'leased')"))
        .scalar_one()
    )
    if open_ones:
        raise RuntimeError(
            f"{open_ones} choices among prompt templates are open, and the database cannot go below 0033_choices before"
            " they are closed; let `discreet trainer` take them, which forfeits them when their time is over"
        )
    op.drop_index("ix_prompt_choices_line", "prompt_choices")
    op.drop_index("ix_prompt_choices_state", "prompt_choices")
    op.drop_table("prompt_choices")
