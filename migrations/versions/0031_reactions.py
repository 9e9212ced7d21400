"""Users' reactions may decide rollouts: comparisons, what their looks told, and reactions while one is open."""

import sqlalchemy as sa
from alembic import op

revision = "0031_reactions"
down_revision = "0030_drift"
branch_labels = None
depends_on = None
works_before = True  # a version from before knows no policy whose rollouts are decided by reactions


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.add_column("rollouts", sa.Column("compare_at", moment))
    op.create_index("ix_rollouts_compare_at", "rollouts", ["compare_at", "line_ref"])
    op.create_table(
        "rollout_comparisons",
        sa.Column("candidate_version_id", sa.String(71), primary_key=True),
        sa.Column("line_ref", sa.String(12), sa.ForeignKey("adapter_lines.line_ref"), nullable=False),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("candidate_name", sa.String(128), nullable=False),
        sa.Column("version_name", sa.String(128), nullable=False),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("plan_json", sa.Text, nullable=False),
        sa.Column("begun_at", moment, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("ended_at", moment),
        sa.Column("reservation_id", sa.String(32)),
        sa.Column("wrapped_seed", sa.LargeBinary),
        sa.CheckConstraint("state IN ('open', 'closed')", name="ck_comparison_state"),
    )
    op.create_index("ix_rollout_comparisons_tenant", "rollout_comparisons", ["tenant_id", "state"])
    op.create_index("ix_rollout_comparisons_line", "rollout_comparisons", ["line_ref", "state"])
    op.create_table(
        "rollout_looks",
        sa.Column("candidate_version_id", sa.String(71), primary_key=True),
        sa.Column("look", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("effect", sa.BigInteger),
        sa.Column("square", sa.BigInteger),
        sa.Column("users", sa.BigInteger),
        sa.Column("sign", sa.BigInteger),
        sa.Column("signature", sa.LargeBinary),
        sa.Column("taken_at", moment, nullable=False),
    )
    op.create_table(
        "rollout_reactions",
        sa.Column("candidate_version_id", sa.String(71), primary_key=True),
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("pseudonym", sa.String(64), primary_key=True),
        sa.Column("candidate", sa.Boolean, nullable=False),
        sa.Column("look", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("reactions", sa.Integer, nullable=False),
    )
    op.create_index("ix_rollout_reactions_user", "rollout_reactions", ["tenant_id", "pseudonym"])


def downgrade() -> None:
    op.drop_table("rollout_reactions")
    op.drop_table("rollout_looks")
    op.drop_table("rollout_comparisons")
    op.drop_index("ix_rollouts_compare_at", "rollouts")
    op.drop_column("rollouts", "compare_at")
