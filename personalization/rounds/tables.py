"""Rows of training rounds, which hold nothing of a single user; and sealed snapshots, which do while a round is open.

A sealed snapshot holds the texts that one round trains on, encrypted under a key that is derived from the round's
secret seed. Seed and snapshot are destroyed together, in the transaction that closes the round.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class RoundRow(SQLModel, table=True):
    """One training round of a line; see :mod:`personalization.rounds.states` for its life."""

    __tablename__: ClassVar[Any] = "training_rounds"
    __table_args__ = (
        UniqueConstraint(
            "tenant_id", "domain", "period_index", "sequence", name="uq_training_round_sequence"
        ),
        UniqueConstraint("tenant_id", "domain", "scheduled_for", name="uq_training_round_slot"),
        CheckConstraint(
            "state IN ('due', 'leased', 'done', 'declined', 'failed')", name="ck_training_round_state"
        ),
        Index("ix_training_round_state", "state", "due_at"),
    )

    round_id: str = Field(sa_column=Column(String(36), primary_key=True))
    tenant_id: str = Field(sa_column=_text(63))
    domain: str = Field(sa_column=_text(63))
    line_ref: str = Field(sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), nullable=False))
    period_index: int = Field(sa_column=Column(BigInteger, nullable=False))
    sequence: int = Field(sa_column=Column(Integer, nullable=False))  # counts the period's rounds of the line
    scheduled_for: datetime | None = Field(
        default=None, sa_column=Column(UtcDateTime)
    )  # None: opened by hand
    state: str = Field(default="due", sa_column=_text(16))
    epoch: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))  # fencing token
    lease_owner: str | None = Field(default=None, sa_column=_text(128, nullable=True))
    lease_expires_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    opened_by: str = Field(sa_column=_text(128))
    opened_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    due_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    read_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))  # "now" of the private read
    reservation_id: str | None = Field(default=None, sa_column=_text(64, nullable=True))
    # what the round is frozen to (``releases.terms``); of a round that trained nothing, its plan alone
    terms_json: str | None = Field(default=None, sa_column=Column(Text))
    slot_ends_at: datetime | None = Field(
        default=None, sa_column=Column(UtcDateTime)
    )  # public: what is not closed by then forfeits
    start: str | None = Field(default=None, sa_column=_text(16, nullable=True))
    start_version_id: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    wrapped_seed: bytes | None = Field(default=None, sa_column=Column(LargeBinary))  # by a key of the round
    noisy_cohort: int | None = Field(default=None, sa_column=Column(BigInteger))  # a charged release
    outcome_code: str | None = Field(default=None, sa_column=_text(64, nullable=True))
    outcome: str | None = Field(default=None, sa_column=Column(Text))  # one public sentence
    version_id: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    closed_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))


class SealedSnapshotRow(SQLModel, table=True):
    """One part of the sealed training snapshot of an open round; gone when the round is closed."""

    __tablename__: ClassVar[Any] = "sealed_snapshots"

    round_id: str = Field(
        sa_column=Column(String(36), ForeignKey("training_rounds.round_id"), primary_key=True)
    )
    part: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
