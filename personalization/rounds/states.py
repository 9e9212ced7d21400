"""The life of a training round (pure: no database, nothing private).

    due ──lease──▶ leased ──▶ done      a version was published, or the gate refused it (the charge stays)
                   ▲  │  ├──▶ declined  nothing worth training: the planner or the noisy cohort count said no
                   │  │  └──▶ failed    a crash or error after the start: the reservation is forfeited
                   └──┘                 the lease ran out: the next trainer asks the ledger what it may do

Each lease raises the round's epoch by one. A trainer writes only with the epoch it was given; any other is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from personalization.planning.planner import DeclineReason

OWNER_SCHEDULE = "schedule"


class RoundState(StrEnum):
    """Where a round stands."""

    DUE = "due"
    LEASED = "leased"
    DONE = "done"
    DECLINED = "declined"
    FAILED = "failed"

    @property
    def open(self) -> bool:
        """Return whether a trainer may still work on it."""
        return self in {RoundState.DUE, RoundState.LEASED}


class OutcomeCode(StrEnum):
    """Why a round was closed."""

    PUBLISHED = "published"
    GATE_REJECTED = "gate_rejected"
    NO_POLICY = "no_policy"
    ABOVE_CEILING = "above_ceiling"
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    BUDGET_EXHAUSTED = "budget_exhausted"
    COHORT_TOO_SMALL = "cohort_too_small"
    SIGNAL_TOO_SMALL = "signal_too_small"
    CALIBRATION_IMPOSSIBLE = "calibration_impossible"
    FORFEITED = "forfeited"
    TRAINING_FAILED = "training_failed"

    @classmethod
    def of_decline(cls, reason: DeclineReason) -> OutcomeCode:
        """Return how a round is closed that the planner declined; each of its reasons is a code of the same name."""
        return cls(reason.value)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A trainer's right to work on a round until ``expires_at``, named by ``epoch``."""

    round_id: str
    tenant_id: str
    domain: str
    line_ref: str
    period_index: int
    owner: str
    epoch: int
    expires_at: datetime
