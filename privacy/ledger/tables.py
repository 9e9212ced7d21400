"""Tables of the privacy ledger.

``LedgerEntryRow`` is the truth: append-only (triggers refuse UPDATE and DELETE), one hash chain per tenant.
The other rows carry what admission needs in constant time and can be rebuilt from the entries;
``privacy.ledger.verify`` does so. None of them holds anything of a person: charging is uniform over a
tenant's users.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


class LedgerEntryRow(SQLModel, table=True):
    """One event of one tenant's chain."""

    __tablename__ = "ledger_entry"

    tenant_id: str = Field(primary_key=True, max_length=63)
    sequence: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    kind: str = Field(max_length=32)
    recorded_at: str = Field(
        max_length=32
    )  # UTC, ISO 8601 with microseconds: the hashed bytes, on every database
    reservation_id: str | None = Field(default=None, max_length=32, index=True)
    document: str = Field(sa_column=Column(Text, nullable=False))  # canonical JSON
    previous_digest: str = Field(max_length=71)
    digest: str = Field(max_length=71)


class LedgerHeadRow(SQLModel, table=True):
    """The end of a tenant's chain, and the lock that every verb on the tenant takes first."""

    __tablename__ = "ledger_head"

    tenant_id: str = Field(primary_key=True, max_length=63)
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    digest: str = Field(max_length=71)


class AccountRow(SQLModel, table=True):
    """A filter and the curve charged to it: a tenant's lifetime, one period, or a linked population."""

    __tablename__ = "ledger_account"

    account_id: str = Field(primary_key=True, max_length=128)
    scope: str = Field(max_length=16)
    tenant_id: str | None = Field(
        default=None, max_length=63, index=True
    )  # None: a population of several tenants
    period_index: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    epsilon: float
    delta: float
    rule: str = Field(max_length=16)
    orders: str = Field(sa_column=Column(Text, nullable=False))  # JSON list, frozen when opened
    # of delta, for selections; frozen when opened
    selection_share: float = Field(default=0.0, sa_column_kwargs={"server_default": "0"})
    curve: str = Field(sa_column=Column(Text, nullable=False))  # JSON, whole pico-nats
    # the entry that last changed the curve: admission compares the digest recorded there with the curve above
    entry_tenant_id: str = Field(max_length=63)
    entry_sequence: int = Field(sa_column=Column(BigInteger, nullable=False))


class PopulationMemberRow(SQLModel, table=True):
    """A tenant in a population of linked tenants; it stays one for good."""

    __tablename__ = "ledger_population_member"

    tenant_id: str = Field(primary_key=True, max_length=63)
    population_id: str = Field(primary_key=True, max_length=63)
    entry_sequence: int = Field(sa_column=Column(BigInteger, nullable=False))  # of the tenant's chain


class ReservationRow(SQLModel, table=True):
    """The state of one reservation."""

    __tablename__ = "ledger_reservation"
    __table_args__ = (UniqueConstraint("tenant_id", "idempotency_key"),)

    reservation_id: str = Field(primary_key=True, max_length=32)
    tenant_id: str = Field(max_length=63, index=True)
    period_index: int = Field(sa_column=Column(BigInteger, nullable=False))
    policy_version: int
    purpose: str = Field(max_length=32)
    idempotency_key: str = Field(max_length=128)
    request_digest: str = Field(max_length=71)
    state: str = Field(max_length=16)
    epoch: int = Field(sa_column=Column(BigInteger, nullable=False))
    mechanisms: str = Field(sa_column=Column(Text, nullable=False))  # JSON list of event documents
    accounts: str = Field(sa_column=Column(Text, nullable=False))  # JSON list of charged account ids
    curve: str = Field(sa_column=Column(Text, nullable=False))
    binding: str | None = Field(default=None, sa_column=Column(Text))  # JSON: which run is paid for
    seed_commitment: str | None = Field(default=None, max_length=128)
    data_digest: str | None = Field(default=None, max_length=128)
    code_digest: str | None = Field(default=None, max_length=128)
    artifact_digest: str | None = Field(default=None, max_length=128)
    reason: str | None = Field(default=None, max_length=200)
