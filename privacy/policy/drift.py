"""What a tenant decides about noticing drift: part of its policy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from privacy.policy.validated import Validated

DAY_SECONDS = 86_400


class DriftPolicy(Validated):
    """How often a charged reading of what users ask is taken, what it may cost, and what follows when it drifts.

    Attributes:
        share: of either budget (period and lifetime) that all planned readings may take together; training keeps the
            rest. 0 reads nothing.
        every_seconds: time between two readings of a line, counted from the schedule's ``first_at``; a reading looks at
            the signals of that time.
        planned_readings: readings over the lifetime, of all lines together, for which the noise is calibrated. After
            them nothing is read any more.
        level: probability of a false alarm at one reading of one line.
        on_drift: ``alarm`` tells people; ``train_sooner`` also brings the line's next scheduled round forward;
            ``fall_back`` also has the base model answer until a person raises the line's flag again.
    """

    share: float = Field(default=0.0, ge=0, le=0.5, description="0 to 0.5")
    every_seconds: int = Field(
        default=7 * DAY_SECONDS, ge=60, le=366 * DAY_SECONDS, description="60 to 31,622,400 seconds"
    )
    planned_readings: int = Field(default=52, ge=1, le=100_000, description="1 to 100,000 readings")
    level: float = Field(default=0.001, ge=1e-9, le=0.1, description="1e-9 to 0.1")
    on_drift: Literal["alarm", "train_sooner", "fall_back"] = Field(
        default="alarm", description="one of alarm, train_sooner, fall_back"
    )

    @property
    def read(self) -> bool:
        """Whether anything is read at all."""
        return self.share > 0

    @classmethod
    def _prefix(cls) -> str:
        return "drift"
