"""Tokens with which a tenant's programs ask through the gateway."""

import sqlalchemy as sa
from alembic import op

revision = "0021_gateway_tokens"
down_revision = "0020_anchor"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "gateway_tokens",
        sa.Column("token_digest", sa.LargeBinary, primary_key=True),
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("rights", sa.String(63), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("revoked_at", moment),
    )


def downgrade() -> None:
    op.drop_table("gateway_tokens")
