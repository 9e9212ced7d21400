"""A round's frozen terms stand where its plan stood; a reservation names the run it pays for; sealed snapshots."""

import sqlalchemy as sa
from alembic import op

revision = "0008_terms"
down_revision = "0006_erasure_ids"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # In place on both databases: a table that others refer to is not made anew.
    op.execute("ALTER TABLE training_rounds RENAME COLUMN plan_json TO terms_json")
    op.add_column("training_rounds", sa.Column("slot_ends_at", sa.DateTime(timezone=True)))
    op.add_column("ledger_reservation", sa.Column("binding", sa.Text))
    op.create_table(
        "sealed_snapshots",
        sa.Column("round_id", sa.String(36), sa.ForeignKey("training_rounds.round_id"), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("sealed_snapshots")
    op.drop_column("ledger_reservation", "binding")
    op.drop_column("training_rounds", "slot_ends_at")
    op.execute("ALTER TABLE training_rounds RENAME COLUMN terms_json TO plan_json")
