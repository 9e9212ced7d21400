"""The database names the revisions whose code works with it, so that an older version can run beside a newer one.

The table is filled by ``migrations/env.py`` after every way up or down: with the revision itself, and with those before
it as long as each step in between says ``works_before``.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019_compatible_revisions"
down_revision = "0018_versions_of_tenants"
branch_labels = None
depends_on = None
works_before = True


def upgrade() -> None:
    op.create_table("compatible_revisions", sa.Column("revision", sa.String(64), primary_key=True))


def downgrade() -> None:
    op.drop_table("compatible_revisions")
