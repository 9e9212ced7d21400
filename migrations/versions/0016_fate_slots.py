"""Fates lie in slots by age: on PostgreSQL eight partitions, of which the oldest is emptied as a whole.

Until now old fates were deleted row by row out of one table. The fates that are there become the first slot; their key
is built anew, which takes as long as an index over them. On SQLite there is one slot, and rows go in small steps as
before. Going down puts all slots into one table; of an event with two fates the newer stays.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016_fate_slots"
down_revision = "0015_next_due"
branch_labels = None
depends_on = None

SLOTS = 8
COLUMNS = "event_digest, processed_at, refused_origin, refusal"


def upgrade() -> None:
    slots = op.create_table(
        "fate_slots",
        sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("opened_at", sa.DateTime(timezone=True)),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
    )
    postgres = op.get_bind().dialect.name == "postgresql"
    op.bulk_insert(slots, [{"slot": number} for number in range(SLOTS if postgres else 1)])
    op.execute("UPDATE fate_slots SET opened_at = CURRENT_TIMESTAMP WHERE slot = 0")
    if not postgres:
        op.add_column(
            "processed_events", sa.Column("slot", sa.SmallInteger, nullable=False, server_default="0")
        )
        return
    op.drop_index("ix_processed_events_at", "processed_events")
    op.execute("ALTER TABLE processed_events DROP CONSTRAINT processed_events_pkey")
    op.execute("ALTER TABLE processed_events RENAME TO processed_events_0")
    op.execute("ALTER TABLE processed_events_0 ADD COLUMN slot smallint NOT NULL DEFAULT 0")
    op.execute(
        "CREATE TABLE processed_events (event_digest bytea NOT NULL, processed_at timestamptz NOT NULL,"
        " refused_origin text, refusal text, slot smallint NOT NULL DEFAULT 0, PRIMARY KEY (event_digest, slot))"
        " PARTITION BY LIST (slot)"
    )
    op.execute("ALTER TABLE processed_events ATTACH PARTITION processed_events_0 FOR VALUES IN (0)")
    for number in range(1, SLOTS):
        op.execute(
            f"CREATE TABLE processed_events_{number} PARTITION OF processed_events FOR VALUES IN ({number})"
        )


def downgrade() -> None:
    op.drop_table("fate_slots")
    if op.get_bind().dialect.name != "postgresql":
        op.drop_column("processed_events", "slot")
        return
    op.execute(
        f"CREATE TABLE processed_events_plain AS SELECT DISTINCT ON (event_digest) {COLUMNS}"  # noqa: S608  # from above
        " FROM processed_events ORDER BY event_digest, processed_at DESC"
    )
    op.drop_table("processed_events")
    op.rename_table("processed_events_plain", "processed_events")
    op.execute(
        "ALTER TABLE processed_events ALTER event_digest SET NOT NULL, ALTER processed_at SET NOT NULL,"
        " ADD CONSTRAINT processed_events_pkey PRIMARY KEY (event_digest)"
    )
    op.create_index("ix_processed_events_at", "processed_events", ["processed_at"])
