"""What a tenant decides about rollouts: part of its policy."""

from __future__ import annotations

import math
from typing import Final

from pydantic import Field, field_validator

from privacy.policy.validated import Validated

DAY_SECONDS: Final = 86_400
GUARDS: Final = (
    "error_rate", "timeout_rate", "probe_error_rate", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms",
    "queue_p95_ms", "cost_per_answer",
)  # fmt: skip
"""What may stop a rollout without a charge: whether, how fast and how dearly servers answer. What users do with the
answers is not among it, whatever it is called."""
MOST_READING: Final = {name: 1.0 if name.endswith("_rate") else math.inf for name in GUARDS}
"""The most that a reading of each guard can be; the least is 0. Rates are shares of requests."""


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
        max_length=len(GUARDS),
        description=f"of {', '.join(GUARDS)}, each with the most that it may be",
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
        if not set(value) <= set(GUARDS) or not all(math.isfinite(most) for most in value.values()):
            raise ValueError("not guards with finite numbers")
        return value

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
