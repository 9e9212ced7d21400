"""Tenants have an indexed instant at which their schedule is looked at next.

All that have a policy are looked at once.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015_next_due"
down_revision = "0014_token_roles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("next_due_at", sa.DateTime(timezone=True)))
    op.execute(
        "UPDATE tenants SET next_due_at = registered_at WHERE tenant_id IN (SELECT tenant_id FROM policies)"
    )
    op.create_index("ix_tenants_next_due", "tenants", ["next_due_at", "tenant_id"])


def downgrade() -> None:
    op.drop_index("ix_tenants_next_due", "tenants")
    op.drop_column("tenants", "next_due_at")
