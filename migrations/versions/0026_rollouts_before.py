"""How a rollout stood before it entered where it stands, which is shown until the slot of a new candidate has come."""

import sqlalchemy as sa
from alembic import op

revision = "0026_rollouts_before"
down_revision = "0025_rollouts"
branch_labels = None
depends_on = None
works_before = True  # a version from before neither reads nor writes it; then nothing is shown until the slot


def upgrade() -> None:
    with op.batch_alter_table("rollouts") as rollouts:
        rollouts.add_column(sa.Column("before_json", sa.Text))


def downgrade() -> None:
    with op.batch_alter_table("rollouts") as rollouts:
        rollouts.drop_column("before_json")
