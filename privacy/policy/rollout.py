"""What a tenant decides about rollouts: part of its policy."""

from __future__ import annotations

import re
from typing import Final

from pydantic import Field, field_validator

from privacy.policy.validated import Validated

DAY_SECONDS: Final = 86_400
_METRIC: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


class RolloutPolicy(Validated):
    """How a new version reaches the tenant's users; without steps, everybody at once.

    Attributes:
        steps: percentages of users that get a candidate one after the other, rising; none: everybody at once.
        bake_seconds: how long a candidate stays at each step.
        guards: operational metrics of the candidate that must be there at every step, and the most that each may be.
        served: whether a server must have verified a candidate before anybody gets it.
        hold_seconds: how long a held rollout waits for a person before it is rolled back.
    """

    steps: tuple[float, ...] = Field(
        default=(), max_length=20, description="at most 20 rising percentages above 0, at most 100"
    )
    bake_seconds: int = Field(default=3600, ge=0, le=30 * DAY_SECONDS, description="0 to 2,592,000 seconds")
    guards: dict[str, float] = Field(
        default_factory=dict,
        max_length=16,
        description="at most 16 metrics (1 to 63 characters a-z, 0-9 and _), each with the most that it may be",
    )
    served: bool = Field(default=True, description="true or false")
    hold_seconds: int = Field(
        default=7 * DAY_SECONDS, ge=1, le=366 * DAY_SECONDS, description="1 to 31,622,400 seconds"
    )

    @classmethod
    def _prefix(cls) -> str:
        return "rollout"

    @field_validator("steps")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < step <= 100 for step in value) or list(value) != sorted(set(value)):
            raise ValueError("not rising percentages")
        return value

    @field_validator("guards")
    @classmethod
    def _named(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(_METRIC.match(name) for name in value):
            raise ValueError("not names of metrics")
        return value

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
