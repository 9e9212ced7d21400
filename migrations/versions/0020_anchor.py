"""What must not go back is anchored outside the database; consumed offsets lie beside the effects.

Every tenant with a ledger, an erasure or a line is due at once, so that the first worker of this version anchors it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020_anchor"
down_revision = "0019_compatible_revisions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "anchor_due",
        sa.Column(
            "due_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("pseudonym", sa.String(64)),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "database_timelines",
        sa.Column("timeline", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "consumed_offsets",
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO anchor_due (tenant_id) SELECT tenant_id FROM ledger_head "
        "UNION SELECT tenant_id FROM adapter_lines"
    )
    op.execute(
        "INSERT INTO anchor_due (tenant_id, pseudonym) SELECT DISTINCT tenant_id, pseudonym FROM erasures"
    )


def downgrade() -> None:
    for name in ("consumed_offsets", "database_timelines", "anchor_due"):
        op.drop_table(name)
