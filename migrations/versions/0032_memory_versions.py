"""Versions of collections: what stood in each, signed, so that one can go back; replaced texts stay, sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0032_memory_versions"
down_revision = "0031_reactions"
branch_labels = None
depends_on = None
works_before = True  # what a version from before changes is not signed, and not found until one goes back


def upgrade() -> None:
    op.add_column("memory_documents", sa.Column("salt", sa.String(32)))
    op.create_table(
        "memory_versions",
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), primary_key=True),
        sa.Column("collection", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version_id", sa.String(71), nullable=False),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("documents", sa.Integer, nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("restores", sa.Integer),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "memory_entries",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("collection", sa.String(63), primary_key=True),
        sa.Column("document_id", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("since", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("until", sa.Integer),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("leaf", sa.String(71), nullable=False),
    )
    op.create_index("ix_memory_entries_ended", "memory_entries", ["tenant_id", "collection", "until"])


def downgrade() -> None:
    # A version from before expects nothing of a document that is no longer live.
    op.execute("UPDATE memory_documents SET sealed = NULL, vectors = NULL, digest = '' WHERE state <> 'live'")
    op.drop_index("ix_memory_entries_ended", "memory_entries")
    op.drop_table("memory_entries")
    op.drop_table("memory_versions")
    op.drop_column("memory_documents", "salt")
