"""Rows of rollouts, guard readings and comparisons; of single users, reactions alone hold anything: a number."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class RolloutRow(SQLModel, table=True):
    """Where the rollout of one line stands; a line that never had a candidate, mode or flag has no row."""

    __tablename__: ClassVar[Any] = "rollouts"
    __table_args__ = (
        CheckConstraint(
            "stage IN ('none', 'candidate', 'canary', 'held', 'promoted', 'superseded', 'rolled_back', 'withdrawn')",
            name="ck_rollout_stage",
        ),
        Index("ix_rollouts_look_at", "look_at", "line_ref"),
        Index("ix_rollouts_compare_at", "compare_at", "line_ref"),
    )

    line_ref: str = Field(
        sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), primary_key=True)
    )
    tenant_id: str = Field(sa_column=_text(63))
    stage: str = Field(sa_column=_text(16))
    step: int = Field(sa_column=Column(Integer, nullable=False))
    candidate_version_id: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    checks_passed: bool = True  # of the candidate's public checks, as its manifest says
    salt: str = Field(sa_column=_text(64))
    entered_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    mode: str = Field(sa_column=_text(16))
    flag: str = Field(sa_column=_text(16))
    plan_json: str = Field(sa_column=Column(Text, nullable=False))
    verdict: str = Field(default="none", sa_column=_text(16))  # of the charged comparison
    look_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))  # None: nothing can happen
    # when its comparison is to be attended to; None: there is none
    compare_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    # How it stood until ``entered_at``, which may be a slot that has not come; ``None``: nothing was decided before.
    before_json: str | None = Field(default=None, sa_column=Column(Text))


class GuardReadingRow(SQLModel, table=True):
    """The newest value of one guard metric of one candidate."""

    __tablename__: ClassVar[Any] = "rollout_guard_readings"

    version_id: str = Field(sa_column=Column(String(71), primary_key=True))
    name: str = Field(sa_column=Column(String(63), primary_key=True))
    value: float = Field(sa_column=Column(Float, nullable=False))
    measured_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class ComparisonRow(SQLModel, table=True):
    """One charged comparison of users' reactions to a candidate and to the version that its line serves."""

    __tablename__: ClassVar[Any] = "rollout_comparisons"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'closed')", name="ck_comparison_state"),
        Index("ix_rollout_comparisons_tenant", "tenant_id", "state"),
        Index("ix_rollout_comparisons_line", "line_ref", "state"),
    )

    candidate_version_id: str = Field(sa_column=Column(String(71), primary_key=True))
    line_ref: str = Field(sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), nullable=False))
    tenant_id: str = Field(sa_column=_text(63))
    domain: str = Field(sa_column=_text(63))
    candidate_name: str = Field(sa_column=_text(128))  # served name
    version_name: str = Field(sa_column=_text(128))  # served name of what it is compared with
    salt: str = Field(sa_column=_text(64))  # of the draw of subjects
    plan_json: str = Field(sa_column=Column(Text, nullable=False))
    begun_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    state: str = Field(sa_column=_text(16))
    verdict: str = Field(sa_column=_text(16))
    ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    reservation_id: str | None = Field(default=None, sa_column=_text(32, nullable=True))  # None: not charged
    wrapped_seed: bytes | None = Field(default=None, sa_column=Column(LargeBinary))  # until it is closed


class LookRow(SQLModel, table=True):
    """What one look at reactions told, stored before anybody saw it; never changed. Without sums the look was lost."""

    __tablename__: ClassVar[Any] = "rollout_looks"

    candidate_version_id: str = Field(sa_column=Column(String(71), primary_key=True))
    look: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    effect: int | None = Field(default=None, sa_column=Column(BigInteger))
    square: int | None = Field(default=None, sa_column=Column(BigInteger))
    users: int | None = Field(default=None, sa_column=Column(BigInteger))
    sign: int | None = Field(default=None, sa_column=Column(BigInteger))
    signature: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    taken_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class ReactionRow(SQLModel, table=True):
    """One user's part in one comparison: one arm, one look, and the sum of the first few reactions.

    It stays, emptied, after its look was taken or its user withdrew, so that nobody is counted a second time.
    """

    __tablename__: ClassVar[Any] = "rollout_reactions"
    __table_args__ = (Index("ix_rollout_reactions_user", "tenant_id", "pseudonym"),)

    candidate_version_id: str = Field(sa_column=Column(String(71), primary_key=True))
    tenant_id: str = Field(sa_column=Column(String(63), primary_key=True))
    pseudonym: str = Field(sa_column=Column(String(64), primary_key=True))
    candidate: bool
    look: int = Field(sa_column=Column(Integer, nullable=False))
    total: int = Field(sa_column=Column(Integer, nullable=False))  # in quarters
    reactions: int = Field(sa_column=Column(Integer, nullable=False))  # 0: emptied
