"""What a decision about a rollout looks at: public checks, servers, guard readings, and a charged verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

GUARD_POSTED: Final = "rollout.guard"
"""The act of an audit trail's record of a posted reading."""


class Verdict(StrEnum):
    """What the charged comparison of users' reactions says (``privacy.mechanisms.noisy_comparison``)."""

    NONE = "none"  # there is none yet
    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"  # the last look was taken and nothing was found
    NOT_CHARGED = "not_charged"  # the budget or the policy admits no comparison; nothing was read


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The newest value of one guard metric of a candidate.

    Attributes:
        name: of the guard.
        value: finite; the smaller, the better.
        at: when it was measured, aware UTC.
    """

    name: str
    value: float
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that is known of a candidate.

    Attributes:
        checks_passed: whether its public checks did, as its signed manifest says.
        verified: servers that verified it.
        failed: servers that could not load or verify it.
        readings: the newest of each guard.
        verdict: of users' reactions.
    """

    checks_passed: bool
    verified: int = 0
    failed: int = 0
    readings: tuple[Reading, ...] = ()
    verdict: Verdict = Verdict.NONE
