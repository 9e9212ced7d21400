"""What happens next to a rollout: a pure function of where it stands, the clock and the evidence.

Every decision is a value. The same inputs always give the same decision, so whoever dies between deciding and storing
loses nothing: the next one decides the same. Two rules that other systems learned the hard way: missing data are never
success (absent guards roll back, a comparison that found nothing promotes nobody), and time alone never moves a held
rollout forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from personalization.rollouts.evidence import Verdict
from personalization.rollouts.values import Flag, Rollout, Stage
from privacy.clock import from_the_future
from privacy.policy.rollout import Undecided

if TYPE_CHECKING:
    from datetime import datetime

    from personalization.rollouts.evidence import Evidence

LOOK: Final = timedelta(seconds=60)  # a running rollout is looked at as often, whatever tells of it gets lost


class Cause(StrEnum):
    """Why a rollout moved: the ``reason_code`` of its event."""

    STARTED = "rollout.started"
    ADVANCED = "rollout.advanced"
    PROMOTED = "rollout.promoted"
    CHECKS_FAILED = "rollout.checks_failed"
    NOT_SERVED = "rollout.not_served"
    GUARD_BREACHED = "rollout.guard_breached"
    GUARD_ABSENT = "rollout.guard_absent"
    WORSE = "rollout.worse"
    BETTER = "rollout.better"
    UNDECIDED = "rollout.undecided"
    NOT_CHARGED = "rollout.not_charged"
    HELD_TOO_LONG = "rollout.held_too_long"
    REPLACED = "rollout.replaced"
    PERSON = "operator"


SENTENCES: Final = {
    Cause.STARTED: "The new version is a candidate; nobody gets it before servers have verified it.",
    Cause.ADVANCED: "The candidate baked at its step and its guards are there and healthy; more subjects get it.",
    Cause.PROMOTED: "The candidate went through all steps and is what the line serves.",
    Cause.CHECKS_FAILED: "The candidate's public checks did not pass.",
    Cause.NOT_SERVED: "Servers could not verify the candidate in time.",
    Cause.GUARD_BREACHED: "A guard metric of the candidate is above what the plan allows.",
    Cause.GUARD_ABSENT: "A guard metric of the candidate is missing, which counts as a breach.",
    Cause.WORSE: "The charged comparison says that users take the candidate worse.",
    Cause.BETTER: "The charged comparison says that users take the candidate better.",
    Cause.UNDECIDED: "The charged comparison ended without a difference.",
    Cause.NOT_CHARGED: "The privacy budget or the policy admits no comparison of users' reactions; none was read.",
    Cause.HELD_TOO_LONG: "The held candidate waited as long as the plan allows and nobody decided.",
    Cause.REPLACED: "A newer candidate took its place.",
}


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One move of a rollout.

    Attributes:
        after: where it stands then.
        cause: why.
        detail: which guard, or nothing; public.
    """

    after: Rollout
    cause: Cause
    detail: str = ""

    @property
    def sentence(self) -> str:
        """Why, in one public sentence."""
        text = SENTENCES[self.cause]
        return f"{text} ({self.detail})" if self.detail else text


def decide(  # noqa: PLR0911  # one line for each rule is easiest to check
    rollout: Rollout, evidence: Evidence, now: datetime
) -> Transition | None:
    """Return the next transition, ``None`` where nothing moves now.

    Args:
        rollout: where it stands.
        evidence: what is known of the candidate.
        now: the public clock.
    """
    if not rollout.running or rollout.entered_at is None or now < rollout.entered_at:
        return None
    baked = now >= rollout.entered_at + rollout.plan.bake
    left = _reason_to_leave(rollout, evidence, now, baked=baked)
    if left is not None:
        return _left(rollout, left[0], now, left[1])
    if rollout.stage is Stage.HELD:
        overdue = now >= rollout.entered_at + timedelta(seconds=rollout.plan.hold_seconds)
        return _left(rollout, Cause.HELD_TOO_LONG, now) if overdue else None
    if not rollout.may_advance:
        return None
    if rollout.stage is Stage.CANDIDATE:
        ready = evidence.verified > 0 or not rollout.plan.served
        return _to_step(rollout, 0, now) if ready else None
    if not baked:
        return None
    if rollout.step + 1 < len(rollout.plan.steps):
        return _to_step(rollout, rollout.step + 1, now)
    return _at_the_end(rollout, evidence, now)


def look_at(rollout: Rollout, now: datetime, *, moved: bool = False) -> datetime | None:
    """Return when to look at a rollout though nothing new is told of it; ``None``: never.

    Args:
        rollout: where it stands.
        now: the public clock.
        moved: it stands so only now; else it was just looked at, and is looked at again later than ``now``.
    """
    if not rollout.running or rollout.entered_at is None:
        return None
    wait = timedelta(seconds=rollout.plan.hold_seconds) if rollout.stage is Stage.HELD else rollout.plan.bake
    if moved and rollout.stage is Stage.CANDIDATE:
        return rollout.entered_at  # it may be verified already
    due = rollout.entered_at + wait
    if due <= now and not moved:
        return now + LOOK
    return max(rollout.entered_at, min(due, now + LOOK))


def _reason_to_leave(  # noqa: PLR0911  # as above
    rollout: Rollout, evidence: Evidence, now: datetime, *, baked: bool
) -> tuple[Cause, str] | None:
    """Return why the candidate must be left now, whatever people decided about moving forward."""
    if not evidence.checks_passed:
        return Cause.CHECKS_FAILED, ""
    readings = {reading.name: reading for reading in evidence.readings}
    for name, _ in rollout.plan.guards:
        if name in readings and rollout.plan.breached_by(name, readings[name].value):
            return Cause.GUARD_BREACHED, name
    if rollout.plan.comparison is not None and evidence.verdict is Verdict.WORSE:
        return Cause.WORSE, ""
    # A server that failed tries again: a store or an engine that was away is no verdict on a version. Nobody gets one
    # that no server has verified, so there is time until the end of the bake.
    if baked and rollout.plan.served and not evidence.verified and rollout.may_advance:
        return Cause.NOT_SERVED, ""
    if rollout.stage is Stage.CANDIDATE:
        return None
    # Where nobody gets the candidate, nothing of it can be measured, and its absence says nothing.
    if baked and rollout.percent > 0:
        for name, _ in rollout.plan.guards:
            found = readings.get(name)
            if found is None or found.at < _since(rollout) or from_the_future(found.at, now):
                return Cause.GUARD_ABSENT, name
    return None


def _since(rollout: Rollout) -> datetime:
    if rollout.entered_at is None:
        raise ValueError("a running rollout has the time it began to stand so")
    return rollout.entered_at


def _left(rollout: Rollout, cause: Cause, now: datetime, detail: str = "") -> Transition:
    return Transition(after=rollout.entering(Stage.ROLLED_BACK, now), cause=cause, detail=detail)


def _to_step(rollout: Rollout, step: int, now: datetime) -> Transition:
    return Transition(after=rollout.entering(Stage.CANARY, now, step=step), cause=Cause.ADVANCED)


def _at_the_end(rollout: Rollout, evidence: Evidence, now: datetime) -> Transition | None:
    if rollout.flag is not Flag.ON:
        return None
    comparison = rollout.plan.comparison
    if comparison is None:
        return Transition(after=rollout.entering(Stage.PROMOTED, now), cause=Cause.PROMOTED)
    if evidence.verdict is Verdict.BETTER:
        return Transition(after=rollout.entering(Stage.PROMOTED, now), cause=Cause.BETTER)
    if evidence.verdict not in _NOTHING_FOUND:
        return None  # the next look is still to come
    held = comparison.undecided is Undecided.HOLD
    after = rollout.entering(Stage.HELD if held else Stage.ROLLED_BACK, now)
    return Transition(after=after, cause=_NOTHING_FOUND[evidence.verdict])


_NOTHING_FOUND: Final = {Verdict.UNDECIDED: Cause.UNDECIDED, Verdict.NOT_CHARGED: Cause.NOT_CHARGED}
