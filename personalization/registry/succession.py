"""Carry a rollout's transitions out: version states, the line's pointer, the stored rollout, trail and event.

Whoever calls holds the lock of the line, and commits: a transition, its event and the desired state exist together or
not at all. What is to happen is decided elsewhere, as a value (``rollouts.deciding``).
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from personalization.adapters.manifest import VersionState
from personalization.errors import RolloutError
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, DesiredChange, announce
from personalization.registry.leaving import leave, take_up_again
from personalization.rollouts import rows as rollouts
from personalization.rollouts.deciding import SENTENCES, Cause, Transition
from personalization.rollouts.policies import plan_for
from personalization.rollouts.values import Flag, Mode, Plan, Rollout, Stage
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion
    from personalization.registry.announcements import AdapterEvents
    from personalization.registry.tables import AdapterLineRow, AdapterVersionRow

WAITS: Final = Plan(steps=(100.0,), bake_seconds=0, served=False)
"""For a version that would go to everybody at once, but its line is not to move."""

KINDS: Final = {
    Stage.CANDIDATE: AdapterEventKind.ROLLOUT_ADVANCED,
    Stage.CANARY: AdapterEventKind.ROLLOUT_ADVANCED,
    Stage.HELD: AdapterEventKind.ROLLOUT_ADVANCED,
    Stage.PROMOTED: AdapterEventKind.PROMOTED,
    Stage.ROLLED_BACK: AdapterEventKind.ROLLED_BACK,
}


def plan_of(session: Session, line: AdapterLineRow, *, trained: bool) -> Plan | None:
    """Return how the line's next version is to be rolled out; ``None``: to everybody at once.

    What was not trained on the tenant's users (a copy of a meta start, a start from public data) goes to everybody at
    once whatever the policy says, but not on a line that is not to move.
    """
    stands = rollouts.value_of(rollouts.find(session, line.line_ref))
    if not trained:
        return None if stands.mode is Mode.FREE else WAITS
    version = policies.current_policy(session, line.tenant_id)
    plan = None if version is None else plan_for(version.policy)
    moves = stands.mode is Mode.FREE and stands.flag in {Flag.ON, Flag.OFF}
    return WAITS if plan is None and not moves else plan


def begin(
    session: Session,
    events: AdapterEvents,
    line: AdapterLineRow,
    version: AdapterVersion,
    plan: Plan,
    act: Act,
) -> Rollout:
    """Make a registered version the line's candidate; one that still ran is left. The caller tells of the version."""
    end(session, events, line, replace(act, code=Cause.REPLACED.value, reason=SENTENCES[Cause.REPLACED]))
    stands = rollouts.value_of(rollouts.find(session, line.line_ref))
    rollout = Rollout(
        stage=Stage.CANDIDATE,
        candidate=version.version_id,
        salt=secrets.token_hex(16),
        entered_at=act.now,
        mode=stands.mode,
        flag=stands.flag,
        plan=plan,
    )
    passed = all(check.passed for check in version.manifest.evaluation.checks)
    rollouts.store(session, line.line_ref, line.tenant_id, rollout, now=act.now, checks_passed=passed)
    return rollout


def end(
    session: Session,
    events: AdapterEvents,
    line: AdapterLineRow,
    act: Act,
    *,
    promoted: Stage = Stage.SUPERSEDED,
) -> None:
    """Leave the line's candidate if one runs; one that is served becomes ``promoted`` by what the caller does next."""
    stands = rollouts.value_of(rollouts.find(session, line.line_ref))
    if stands.running:
        after = stands.entering(Stage.ROLLED_BACK, act.now)
        carry_out(session, events, line, Transition(after=after, cause=Cause.PERSON), act)
    elif stands.stage is Stage.PROMOTED:
        after = stands.entering(promoted, act.now)
        rollouts.store(session, line.line_ref, line.tenant_id, after, now=act.now)


def withdraw(
    session: Session,
    line: AdapterLineRow,
    rows: Sequence[AdapterVersionRow],
    reached: Collection[str],
    act: Act,
) -> None:
    """Bring the stored rollout in step with a withdrawal; the caller tells of it, with the rollout in its event.

    A candidate ends when it is reached itself, and when what it was compared with is.
    """
    stands = rollouts.value_of(rollouts.find(session, line.line_ref))
    if stands.candidate in reached:
        stage = Stage.WITHDRAWN
    elif stands.running and line.current_version_id in reached:
        stage = Stage.ROLLED_BACK
        left = next(row for row in rows if row.version_id == stands.candidate)
        session.add(leave(left, VersionState.ROLLED_BACK, act))
    else:
        return
    rollouts.store(session, line.line_ref, line.tenant_id, stands.entering(stage, act.now), now=act.now)


def carry_out(
    session: Session, events: AdapterEvents, line: AdapterLineRow, transition: Transition, act: Act
) -> None:
    """Do what a transition says, in the caller's transaction.

    Args:
        session: holds the lock of ``line``, under which the transition was decided.
        events: where it is told.
        line: which line.
        transition: from how the rollout stands now.
        act: who, why and when.

    Raises:
        RolloutError: the line serves no version, or the candidate is not registered.
    """
    after = transition.after
    candidate = registry.get_version(session, after.candidate or "")
    current = registry.current_version(session, line)
    if current is None or candidate is None:
        raise RolloutError(
            f"line {line.line_ref!r} has no version, or no candidate, to roll out; publish a version first"
        )
    if after.stage is Stage.PROMOTED:
        session.add(leave(current, VersionState.SUPERSEDED, replace(act, reason="superseded")))
        session.add(take_up_again(candidate))
        line.current_version_id = candidate.version_id
        current = candidate
    elif after.stage is Stage.ROLLED_BACK:
        session.add(leave(candidate, VersionState.ROLLED_BACK, act))
    rollouts.store(session, line.line_ref, line.tenant_id, after, now=act.now)
    kind = KINDS[after.stage]
    audit_trail.append(
        session,
        line.tenant_id,
        actor=act.actor,
        action=f"rollout.{after.stage.value}",
        detail={
            "line_ref": line.line_ref,
            "candidate": candidate.served_name,
            "percent": after.percent,
            "reason_code": act.code,
            "reason": act.reason,
        },
        now=act.now,
    )
    announce(
        session,
        events,
        line,
        kind,
        act,
        version=registry.read_version(candidate),
        change=DesiredChange.SET,
        desired=registry.read_version(current),
        left_version_id=candidate.version_id if after.stage is Stage.ROLLED_BACK else None,
    )
