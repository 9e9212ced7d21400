"""Candidates of collections: documents that a share of the subjects is answered from, before everybody is."""

import sqlalchemy as sa
from alembic import op

revision = "0034_memory_candidates"
down_revision = "0033_choices"
branch_labels = None
depends_on = None
works_before = True  # a version from before finds what is live, so it answers nobody from a candidate
_BEFORE = "state IN ('live', 'superseded', 'removed')"
_AFTER = "state IN ('live', 'superseded', 'removed', 'candidate')"


def upgrade() -> None:
    op.create_table(
        "memory_candidates",
        sa.Column("tenant_id", sa.String(63), sa.ForeignKey("tenants.tenant_id"), primary_key=True),
        sa.Column("collection", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("version_id", sa.String(71), nullable=False),
        sa.Column("documents", sa.Integer, nullable=False),
        sa.Column("percent", sa.Float, nullable=False),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "decision IN ('tried', 'removed', 'promoted', 'abandoned')", name="ck_memory_candidate_decision"
        ),
    )
    _check(_AFTER)
    _index("candidate")


def downgrade() -> None:
    # A version from before knows no candidate, and what one says must not lie there for good.
    op.drop_index("ix_memory_documents_candidate", "memory_documents")
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        kept = connection.execute(sa.text("SELECT to_regclass('memory_vectors')")).scalar()
        if kept is not None:  # `discreet memory prepare` made it
            op.execute(
                "DELETE FROM memory_vectors v USING memory_documents d WHERE d.tenant_id = v.tenant_id AND "
                "d.collection = v.collection AND d.document_id = v.document_id AND d.version = v.version AND "
                "d.state = 'candidate'"
            )
    op.execute(
        "UPDATE memory_documents SET state = 'superseded', sealed = NULL, vectors = NULL, digest = '', salt = NULL "
        "WHERE state = 'candidate'"
    )
    _check(_BEFORE)
    op.drop_table("memory_candidates")


def _index(state: str) -> None:
    op.create_index(
        f"ix_memory_documents_{state}",
        "memory_documents",
        ["tenant_id", "collection", "document_id"],
        unique=True,
        sqlite_where=sa.text(f"state = '{state}'"),
        postgresql_where=sa.text(f"state = '{state}'"),
    )


def _check(text: str) -> None:
    """Replace the check of states; SQLite makes the table anew, and its copy has no checks but what is named here."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        op.drop_index("ix_memory_documents_live", "memory_documents")  # its condition would not be copied
    with op.batch_alter_table("memory_documents") as documents:
        if not sqlite:
            documents.drop_constraint("ck_memory_document_state", type_="check")
        documents.create_check_constraint("ck_memory_document_state", text)
    if sqlite:
        _index("live")
