"""Adapter versions have an index by tenant: every erasure asks which of a tenant's are live."""

from alembic import op

revision = "0018_versions_of_tenants"
down_revision = "0017_leases"
branch_labels = None
depends_on = None
works_before = True


def upgrade() -> None:
    op.create_index("ix_adapter_versions_tenant", "adapter_versions", ["tenant_id", "state"])


def downgrade() -> None:
    op.drop_index("ix_adapter_versions_tenant", "adapter_versions")
