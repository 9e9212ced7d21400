"""Signals, processed events, the outbox, serving acks and operator tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0004_streams"
down_revision = "0003_personalization"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "signals",
        sa.Column("event_digest", sa.LargeBinary, primary_key=True),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("pseudonym", sa.String(64), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("period_index", sa.BigInteger, nullable=False),
        sa.Column("rank", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", moment, nullable=False),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_signals_user", "signals", ["tenant_id", "pseudonym", "period_index"])
    op.create_index("ix_signals_line", "signals", ["tenant_id", "domain", "occurred_at"])
    op.create_table(
        "processed_events",
        sa.Column("event_digest", sa.LargeBinary, primary_key=True),
        sa.Column("processed_at", moment, nullable=False),
        sa.Column("refused_origin", sa.Text),
        sa.Column("refusal", sa.Text),
    )
    op.create_index("ix_processed_events_at", "processed_events", ["processed_at"])
    op.create_table(
        "outbox",
        sa.Column(
            "outbox_id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("topic", sa.String(249), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("published_at", moment),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_waiting", "outbox", ["published_at", "outbox_id"])
    op.create_index("ix_outbox_key", "outbox", ["topic", "key", "outbox_id"])
    op.create_table(
        "serving_acks",
        sa.Column("served_name", sa.String(63), primary_key=True),
        sa.Column("server_id", sa.String(128), primary_key=True),
        sa.Column("line_ref", sa.String(128), nullable=False),
        sa.Column("version_id", sa.String(71), nullable=False),
        sa.Column("engine", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("probe_effect", sa.Float),
        sa.Column("occurred_at", moment, nullable=False),
    )
    op.create_index("ix_serving_acks_line", "serving_acks", ["line_ref"])
    op.create_table(
        "operator_tokens",
        sa.Column("token_digest", sa.LargeBinary, primary_key=True),
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("revoked_at", moment),
    )


def downgrade() -> None:
    for table in ("operator_tokens", "serving_acks", "outbox", "processed_events", "signals"):
        op.drop_table(table)
