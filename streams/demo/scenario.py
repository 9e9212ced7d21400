"""What the demonstration publishes: tenants, their users, and what each user did with the answers shown.

Two sources make the same values: the project's own tenants (``streams.demo.companies``) and recorded
interactions read from files (``streams.demo.recordings``). Held-out users come from the same source and are never
published.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from privacy.policy.values import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from datetime import datetime

HELDOUT_SHARE = 0.25  # held-out users per published user


class Outcome(StrEnum):
    """What the user did with the completion that was shown."""

    ACCEPTED = "accepted"
    EDITED = "edited"
    REJECTED = "rejected"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One interaction: ``final`` is the text the user kept, ``None`` when nothing was kept."""

    event_id: str
    occurred_at: datetime
    prompt: str
    shown: str
    outcome: Outcome
    final: str | None


@dataclass(frozen=True, kw_only=True)
class Person:
    """One user of a tenant with everything that user did, oldest first."""

    user_id: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True)
class TenantScenario:
    """One line of a tenant: users whose events are published, and users kept back to judge the result on."""

    tenant: str
    people: tuple[Person, ...]
    heldout: tuple[Person, ...]
    domain: str = DEFAULT_DOMAIN

    @property
    def published_turns(self) -> int:
        """Number of interactions that will be published."""
        return sum(len(person.turns) for person in self.people)

    def heldout_examples(self) -> list[list[tuple[str, str]]]:
        """Return (prompt, kept text) pairs per held-out user, without users who kept nothing."""
        pairs = [
            [(turn.prompt, turn.final) for turn in person.turns if turn.final is not None]
            for person in self.heldout
        ]
        return [user for user in pairs if user]


def heldout_count(max_users: int) -> int:
    """Return how many users are kept back beyond ``max_users`` published ones (at least 2)."""
    return max(2, round(max_users * HELDOUT_SHARE))
