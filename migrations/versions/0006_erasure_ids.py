"""An erasure's id may be as long as the contract allows its request's id to be."""

import sqlalchemy as sa
from alembic import op

revision = "0006_erasure_ids"
down_revision = "0005_meta"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("erasures") as erasures:
        erasures.alter_column(
            "erasure_id", existing_type=sa.String(64), type_=sa.String(128), existing_nullable=False
        )


def downgrade() -> None:
    with op.batch_alter_table("erasures") as erasures:
        erasures.alter_column(
            "erasure_id", existing_type=sa.String(128), type_=sa.String(64), existing_nullable=False
        )
