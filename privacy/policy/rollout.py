"""What a tenant decides about rollouts: part of its policy."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Final

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
LEAST_SHARE: Final = 10.0  # percent; with a smaller arm a comparison would find next to nothing


class Decide(StrEnum):
    """What may move a rollout forward or back, besides people and guards."""

    CHECKS = "checks"  # public checks and guards alone
    REACTIONS = "reactions"  # a charged comparison of users' reactions too


class Undecided(StrEnum):
    """What becomes of a candidate that users were not found to take better or worse."""

    HOLD = "hold"  # a person decides
    ROLL_BACK = "roll_back"


class RolloutPolicy(Validated):
    """How a new version reaches the tenant's users; without steps, everybody at once.

    Attributes:
        steps: percentages of users that get a candidate one after the other, rising; none: everybody at once.
        bake_seconds: how long a candidate stays at each step.
        guards: operational metrics of the candidate that must be there at every step, and the most that each may be.
        served: whether a server must have verified a candidate before anybody gets it.
        hold_seconds: how long a held rollout waits for a person before it is rolled back.
        decide: whether users' reactions decide too: at the last step, which is then a share and not everybody, the
            candidate is promoted when users are found to take it better and left when they take it worse.
        reaction_epsilon: ε (at lifetime_delta) of one such comparison, which every planned release keeps room for.
        looks: how many times at most a comparison looks at the reactions; all looks together cost one.
        look_seconds: time between two looks.
        reactions_per_user: how many of a user's reactions count, the first ones.
        reacting_users: public guess of how many users react in all; a comparison sees best with so many, and whatever
            the guess, it errs no more often.
        undecided: what becomes of a candidate that was found neither better nor worse, or whose comparison the budget
            does not admit.
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

    decide: Decide = Field(default=Decide.CHECKS, description="one of checks, reactions")
    reaction_epsilon: float = Field(default=1.0, ge=0.1, le=8, description="0.1 to 8, at most period_epsilon")
    looks: int = Field(default=4, ge=1, le=16, description="1 to 16 looks")
    look_seconds: int = Field(
        default=3 * DAY_SECONDS,
        ge=1,
        le=30 * DAY_SECONDS,
        description="1 to 2,592,000 seconds, with looks × look_seconds at most retention_days",
    )
    reactions_per_user: int = Field(default=5, ge=1, le=20, description="1 to 20 reactions")
    reacting_users: int = Field(
        default=1_000, ge=10, le=1_000_000_000, description="10 to 1,000,000,000 users"
    )
    undecided: Undecided = Field(default=Undecided.HOLD, description="one of hold, roll_back")

    @classmethod
    def _prefix(cls) -> str:
        return "rollout"

    @property
    def by_reactions(self) -> bool:
        """Whether new versions go out in steps and users' reactions decide at the last."""
        return bool(self.steps) and self.decide is Decide.REACTIONS

    def from_before(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return ``document`` without the fields that came later and have their default."""
        fields = type(self).model_fields
        later = [name for name in _LATER_FIELDS if getattr(self, name) == fields[name].default]
        return {name: value for name, value in document.items() if name not in later}

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


_LATER_FIELDS: Final = (
    "decide", "reaction_epsilon", "looks", "look_seconds", "reactions_per_user", "reacting_users", "undecided",
)  # fmt: skip
