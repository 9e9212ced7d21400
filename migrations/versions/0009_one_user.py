"""One user is one user: identities of events cover topic, tenant and user, and tenants join populations.

Until now it was SHA-256 over (source, id), which another user's event could share. The new digest is SHA-256 over
(topic, tenant, pseudonym, old digest), and a stored signal names its tenant and pseudonym: so every stored signal and
its fate are moved exactly. A redelivered interaction that is stored is therefore still recognized.

The other old fates (of refusals, consents, erasures, acknowledgements, and of interactions that the bound drove out)
name no user and stay as they are until they are forgotten. No event gets a second effect for want of them: a signal
that was driven out has the rank it had, which is over the old digest as before, and is driven out again; of two
statements of consent and of two acknowledgements the later one counts, however often they come; a request to be erased
is answered with the certificate that stands. What was refused is judged anew; a second letter names the same origin.

The way back is not there: a digest cannot be undone. Going down leaves the rows as they are. Workers must be stopped
meanwhile: one of the version before writes old digests.
"""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0009_one_user"
down_revision = "0008_terms"
branch_labels = None
depends_on = None

TOPIC = b"discreet.interactions.v1"
ROWS_AT_ONCE = 2_000

# A working table and not a temporary one: it is read while the tables it moves are written, and dropped at the end.
MOVED = sa.table("moved_events", sa.column("old", sa.LargeBinary), sa.column("new", sa.LargeBinary))
SIGNALS = sa.table(
    "signals",
    sa.column("event_digest", sa.LargeBinary),
    sa.column("tenant_id", sa.String),
    sa.column("pseudonym", sa.String),
)
FATES = sa.table("processed_events", sa.column("event_digest", sa.LargeBinary))


def event_digest(tenant_id, pseudonym, sender):
    state = hashlib.sha256()
    for part in (TOPIC, tenant_id.encode(), pseudonym.encode(), sender):
        state.update(len(part).to_bytes(2, "big") + part)
    return state.digest()


def upgrade() -> None:
    op.create_table(
        "ledger_population_member",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("population_id", sa.String(63), primary_key=True),
        sa.Column("entry_sequence", sa.BigInteger, nullable=False),
    )
    _move_identities()


def _move_identities() -> None:
    op.create_table(
        "moved_events",
        sa.Column("old", sa.LargeBinary, primary_key=True),
        sa.Column("new", sa.LargeBinary, nullable=False),
    )
    connection = op.get_bind()
    last = b""
    while True:
        page = connection.execute(
            sa.select(SIGNALS.c.event_digest, SIGNALS.c.tenant_id, SIGNALS.c.pseudonym)
            .where(SIGNALS.c.event_digest > last)
            .order_by(SIGNALS.c.event_digest)
            .limit(ROWS_AT_ONCE)
        ).all()
        if not page:
            break
        last = bytes(page[-1][0])
        connection.execute(
            sa.insert(MOVED),
            [
                {"old": bytes(digest), "new": event_digest(tenant_id, pseudonym, bytes(digest))}
                for digest, tenant_id, pseudonym in page
            ],
        )
    for table in (FATES, SIGNALS):
        new = sa.select(MOVED.c.new).where(MOVED.c.old == table.c.event_digest).scalar_subquery()
        moved = sa.select(MOVED.c.old)
        connection.execute(sa.update(table).where(table.c.event_digest.in_(moved)).values(event_digest=new))
    op.drop_table("moved_events")


def downgrade() -> None:
    op.drop_table("ledger_population_member")
