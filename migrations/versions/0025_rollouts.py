"""Versions may be candidates, and lines have rollouts: stage, step, plan, mode, flag, and readings of guards."""

import sqlalchemy as sa
from alembic import op

revision = "0025_rollouts"
down_revision = "0022_key_store"
branch_labels = None
depends_on = None
works_before = True  # a version from before knows no policy with steps, so none of its lines has a candidate

_BEFORE = "state IN ('published', 'superseded', 'rolled_back', 'withdrawn')"
_AFTER = "state IN ('candidate', 'published', 'superseded', 'rolled_back', 'withdrawn')"


def upgrade() -> None:
    _check(_AFTER)
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "rollouts",
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), primary_key=True),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("candidate_version_id", sa.String(71)),
        sa.Column("checks_passed", sa.Boolean, nullable=False),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("entered_at", moment),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("flag", sa.String(16), nullable=False),
        sa.Column("plan_json", sa.Text, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("look_at", moment),
        sa.CheckConstraint(
            "stage IN ('none', 'candidate', 'canary', 'held', 'promoted', 'superseded', 'rolled_back', 'withdrawn')",
            name="ck_rollout_stage",
        ),
    )
    op.create_index("ix_rollouts_look_at", "rollouts", ["look_at", "line_ref"])
    op.create_table(
        "rollout_guard_readings",
        sa.Column("version_id", sa.String(71), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("measured_at", moment, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("rollout_guard_readings")
    op.drop_index("ix_rollouts_look_at", "rollouts")
    op.drop_table("rollouts")
    op.execute("UPDATE adapter_versions SET state = 'rolled_back' WHERE state = 'candidate'")
    _check(_BEFORE)


def _check(text: str) -> None:
    """Replace the check of states; SQLite makes the table anew, and its copy has no checks but what is named here."""
    with op.batch_alter_table("adapter_versions") as versions:
        if op.get_bind().dialect.name != "sqlite":
            versions.drop_constraint("ck_adapter_version_state", type_="check")
        versions.create_check_constraint("ck_adapter_version_state", text)
