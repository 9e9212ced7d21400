"""An erasure is found by tenant, person and request id: before, another person's request could hold the id.

The index over tenant and person is the beginning of the new key and goes. The way back fails where two persons of a
tenant share a request id; their certificates stand, so nothing is removed to make it work.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012_erasures_of_persons"
down_revision = "0011_style_edits"
branch_labels = None
depends_on = None

COLUMNS = (
    "tenant_id", "pseudonym", "erasure_id", "state", "requested_at", "recorded_at", "deadline_at", "completed_at",
    "certificate",
)  # fmt: skip


def upgrade() -> None:
    op.drop_index("ix_erasures_subject", "erasures")
    _rekey("tenant_id", "pseudonym", "erasure_id")


def downgrade() -> None:
    _rekey("tenant_id", "erasure_id")
    op.create_index("ix_erasures_subject", "erasures", ["tenant_id", "pseudonym"])


def _rekey(*key: str) -> None:
    # SQLite cannot change a table's key, so the rows move to a new table on both databases.
    op.create_table(
        "erasures_moved",
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), nullable=False),
        sa.Column("pseudonym", sa.String(64), nullable=False),
        sa.Column("erasure_id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("certificate", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint(*key),
    )
    old, new = (sa.table(name, *map(sa.column, COLUMNS)) for name in ("erasures", "erasures_moved"))
    op.execute(sa.insert(new).from_select(COLUMNS, sa.select(*old.c)))
    op.drop_table("erasures")
    op.rename_table("erasures_moved", "erasures")
