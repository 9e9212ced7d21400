"""What tenants approved for retrieval: collections, and every version of every document."""

import sqlalchemy as sa
from alembic import op

revision = "0028_memory"
down_revision = "0027_prompts"
branch_labels = None
depends_on = None
works_before = True  # a version from before knows no memory and leaves these tables alone


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "memory_collections",
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), primary_key=True),
        sa.Column("collection", sa.String(63), primary_key=True),
        sa.Column("domain", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("changed_at", moment, nullable=False),
    )
    op.create_table(
        "memory_documents",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("collection", sa.String(63), primary_key=True),
        sa.Column("document_id", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("approved_by", sa.String(200), nullable=False),
        sa.Column("added_at", moment, nullable=False),
        sa.Column("valid_until", moment),
        sa.Column("ended_at", moment),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("marked", sa.Integer, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("vectors", sa.LargeBinary),
        sa.Column("embedder", sa.String(63), nullable=False),
        sa.CheckConstraint("state IN ('live', 'superseded', 'removed')", name="ck_memory_document_state"),
    )
    op.create_index(
        "ix_memory_documents_live",
        "memory_documents",
        ["tenant_id", "collection", "document_id"],
        unique=True,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "DROP TABLE IF EXISTS memory_vectors"
        )  # `discreet memory prepare` made it; it hangs on the documents
    op.drop_index("ix_memory_documents_live", "memory_documents")
    op.drop_table("memory_documents")
    op.drop_table("memory_collections")
