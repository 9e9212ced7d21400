"""${message}

Revision: ${up_revision}, follows ${down_revision | comma,n}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def _limit_lock_wait():
    # A migration that cannot get its lock fails soon instead of queueing every later statement behind itself.
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade():
    _limit_lock_wait()
    ${upgrades if upgrades else "pass"}


def downgrade():
    _limit_lock_wait()
    ${downgrades if downgrades else "pass"}
