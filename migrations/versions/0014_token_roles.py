"""Tokens of the operator API have an id, a role and an end, and may reach the whole platform.

Tokens from before are administrators' of their tenants, as they were, and have no end: list and replace them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014_token_roles"
down_revision = "0013_consent_clocks"
branch_labels = None
depends_on = None

TOKENS = sa.table(
    "operator_tokens", sa.column("token_digest", sa.LargeBinary), sa.column("token_id", sa.String)
)


def upgrade() -> None:
    with op.batch_alter_table("operator_tokens") as tokens:
        tokens.add_column(sa.Column("token_id", sa.String(12)))
        tokens.add_column(sa.Column("role", sa.String(16), nullable=False, server_default="administrator"))
        tokens.add_column(sa.Column("expires_at", sa.DateTime(timezone=True)))
    connection = op.get_bind()
    for digest in connection.execute(sa.select(TOKENS.c.token_digest)).scalars().all():
        connection.execute(
            sa.update(TOKENS).where(TOKENS.c.token_digest == digest).values(token_id=bytes(digest).hex()[:12])
        )
    with op.batch_alter_table("operator_tokens") as tokens:
        tokens.alter_column("token_id", existing_type=sa.String(12), nullable=False)
        tokens.alter_column("role", existing_type=sa.String(16), server_default=None)
        tokens.alter_column("tenant_id", existing_type=sa.String(63), nullable=True)
        tokens.create_unique_constraint("uq_operator_token_id", ["token_id"])


def downgrade() -> None:
    # A token that reaches the platform, and one that only reads, would become a tenant's administrator.
    op.execute("DELETE FROM operator_tokens WHERE tenant_id IS NULL OR role <> 'administrator'")
    with op.batch_alter_table("operator_tokens") as tokens:
        tokens.drop_constraint("uq_operator_token_id", type_="unique")
        tokens.alter_column("tenant_id", existing_type=sa.String(63), nullable=False)
        tokens.drop_column("expires_at")
        tokens.drop_column("role")
        tokens.drop_column("token_id")
