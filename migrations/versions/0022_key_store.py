"""Keys leave the database: wrapped keys may be absent here, and counters tell processes of rotations.

The keys themselves move into the key store with `discreet db upgrade`, which runs this first; a worker does not start
while some still lie here. Going down is refused once keys were moved, because the older version would find none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022_key_store"
down_revision = "0021_gateway_tokens"
branch_labels = None
depends_on = None


def upgrade():
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
    with op.batch_alter_table("tenant_keys") as table:
        table.alter_column("wrapped_pseudonym_key", existing_type=sa.LargeBinary(), nullable=True)
        table.alter_column("wrapped_key", existing_type=sa.LargeBinary(), nullable=True)
        table.add_column(sa.Column("generation", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("pseudonyms", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("renaming", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade():
    bind = op.get_bind()
    moved = bind.execute(sa.text("SELECT count(*) FROM tenant_keys WHERE wrapped_key IS NULL")).scalar_one()
    if moved:
        raise RuntimeError("keys were moved into the key store; the version before cannot use them")
    with op.batch_alter_table("tenant_keys") as table:
        for name in ("generation", "pseudonyms", "renaming"):
            table.drop_column(name)
        table.alter_column("wrapped_key", existing_type=sa.LargeBinary(), nullable=False)
        table.alter_column("wrapped_pseudonym_key", existing_type=sa.LargeBinary(), nullable=False)
