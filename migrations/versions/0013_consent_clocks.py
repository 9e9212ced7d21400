"""Consents from the future: no grant outlasts the withdrawals that were made after it.

Until now a grant was believed whatever its date, so one dated years ahead hid every withdrawal that followed. Whether
one did cannot be seen any more, and so a stored grant that was dated more than ten minutes ahead of its arrival counts
as withdrawn, with the time of its arrival: the user may grant again. A withdrawal dated ahead keeps its effect and gets
the time of its arrival too, so that a later grant can count.

Going down leaves the rows as they are.
"""

from alembic import op

revision = "0013_consent_clocks"
down_revision = "0012_erasures_of_persons"
branch_labels = None
depends_on = None

BELIEVED_UNTIL = {
    "postgresql": "recorded_at + interval '10 minutes'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', recorded_at, '+10 minutes') || '999'",  # of the microseconds
}


def upgrade() -> None:
    latest = BELIEVED_UNTIL[op.get_bind().dialect.name]
    op.execute(
        f"UPDATE consents SET granted = false, occurred_at = recorded_at WHERE occurred_at > {latest}"  # noqa: S608  # from above
    )


def downgrade() -> None:
    pass
