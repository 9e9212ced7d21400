"""What people decide about a rollout: promote, hold, resume, pin, freeze, leave the candidate, raise a flag."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from personalization.errors import RolloutError
from personalization.registry import queries as registry
from personalization.registry.announcements import AdapterEventKind, DesiredChange, announce
from personalization.registry.rollback import roll_back
from personalization.registry.succession import carry_out
from personalization.rollouts import rows as rollouts
from personalization.rollouts.deciding import Cause, Transition
from personalization.rollouts.evidence import GUARD_POSTED
from personalization.rollouts.values import NO_PLAN, Flag, Mode, Rollout, Stage
from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion
    from personalization.registry.announcements import Act, AdapterEvents
    from personalization.registry.tables import AdapterLineRow
    from personalization.rollouts.evidence import Reading


def promote(session: Session, events: AdapterEvents, tenant_id: str, domain: str, act: Act) -> Rollout:
    """Give the line's candidate to everybody now, whatever its step; a pin or freeze must be let go first.

    Raises:
        LineNotFoundError: the line does not exist.
        RolloutError: it has no candidate, or is pinned or frozen.
    """
    line, stands = _running(session, tenant_id, domain)
    if stands.mode is not Mode.FREE:
        raise RolloutError(f"the line is {stands.mode.value}; resume it before a candidate is promoted")
    return _move(session, events, line, stands.entering(Stage.PROMOTED, act.now), act)


def hold(session: Session, events: AdapterEvents, tenant_id: str, domain: str, act: Act) -> Rollout:
    """Keep the line's candidate at its step until somebody decides.

    Raises:
        LineNotFoundError: the line does not exist.
        RolloutError: it has no candidate, or it is held already.
    """
    line, stands = _running(session, tenant_id, domain)
    if stands.stage is Stage.HELD:
        raise RolloutError("the rollout is held already; nothing was changed")
    return _move(session, events, line, stands.entering(Stage.HELD, act.now), act)


def leave_candidate(
    session: Session, events: AdapterEvents, tenant_id: str, domain: str, act: Act
) -> Rollout:
    """Roll the line's candidate back: nobody gets it again.

    Raises:
        LineNotFoundError: the line does not exist.
        RolloutError: it has no candidate.
    """
    line, stands = _running(session, tenant_id, domain)
    return _move(session, events, line, stands.entering(Stage.ROLLED_BACK, act.now), act)


def roll_back_newest(
    session: Session, events: AdapterEvents, tenant_id: str, domain: str, act: Act
) -> AdapterVersion:
    """Leave the newest thing of a line: its candidate if one runs, else the version that it serves.

    Returns:
        What the line serves then.
    """
    line = registry.require_line(session, tenant_id, domain)
    if rollouts.value_of(rollouts.find(session, line.line_ref)).running:
        leave_candidate(session, events, tenant_id, domain, act)
        return registry.read_version(registry.find_version(session, str(line.current_version_id)))
    return roll_back(session, events, tenant_id, domain, act)


def set_mode(
    session: Session, events: AdapterEvents, tenant_id: str, domain: str, mode: Mode, act: Act
) -> Rollout:
    """Pin or freeze a line, or (``Mode.FREE``) let it move again; a held rollout goes on from its step.

    Raises:
        LineNotFoundError: the line does not exist.
        RolloutError: the line serves no version, or nothing would change.
    """
    line, stands = _serving(session, tenant_id, domain)
    resumed = stands.stage is Stage.HELD and mode is Mode.FREE
    if stands.mode is mode and not resumed:
        raise RolloutError(f"the line is {mode.value} already; nothing was changed")
    after = replace(stands, mode=mode)
    if resumed:
        after = after.entering(Stage.CANARY if after.step >= 0 else Stage.CANDIDATE, act.now)
    return _changed(session, events, line, after, act, f"rollout.{mode.value}")


def set_flag(
    session: Session, events: AdapterEvents, tenant_id: str, domain: str, flag: Flag, act: Act
) -> Rollout:
    """Say what a line may show at all; ``Flag.OFF`` has the base model answer everybody.

    Raises:
        LineNotFoundError: the line does not exist.
        RolloutError: the line serves no version, or the flag is up already.
    """
    line, stands = _serving(session, tenant_id, domain)
    if stands.flag is flag:
        raise RolloutError(f"the flag of the line is {flag.value} already; nothing was changed")
    return _changed(session, events, line, replace(stands, flag=flag), act, f"rollout.flag.{flag.value}")


def measure(session: Session, tenant_id: str, name: str, reading: Reading, *, actor: str) -> None:
    """Keep the newest reading of a guard metric of a version; its rollout is looked at in the next tick.

    Postings come every few seconds for as long as a version is watched. In the tenant's audit trail are the first of
    each guard and each that changes whether the plan allows it, also one that is older than what is kept: it may stop
    a rollout. Who said the same before is not written down again, so whatever is posted, the trail stays short.

    Args:
        session: the caller's transaction.
        tenant_id: whose version.
        name: served name or version id.
        reading: what was measured.
        actor: who posted it.

    Raises:
        VersionNotFoundError: the tenant has no such version, or its slot had not come when this was measured.
        RolloutError: the reading is no number that the guard can have, or is of no guard.
    """
    row = registry.find_version(session, name, tenant_id=tenant_id, shown_at=reading.at)
    registry.lock_line(session, row.line_ref)  # before its rollout and the trail, as whoever moves it does
    before = rollouts.reading_of(session, row.version_id, reading.name)
    rollouts.read_guard(session, row.line_ref, row.version_id, reading)
    stands = rollouts.value_of(rollouts.find(session, row.line_ref))
    plan = stands.plan if stands.running and stands.candidate == row.version_id else NO_PLAN
    breach = plan.breached_by(reading.name, reading.value)
    if before is not None and breach == plan.breached_by(before.name, before.value):
        return
    said = {"line_ref": row.line_ref, "candidate": row.served_name, "guard": reading.name, "breach": breach}
    for record in audit_trail.records_of(session, tenant_id, actor=actor, action=GUARD_POSTED):
        if said.items() <= record.detail.items():
            return
    audit_trail.append(
        session,
        tenant_id,
        actor=actor,
        action=GUARD_POSTED,
        detail={**said, "value": reading.value},
        now=reading.at,
    )


def _serving(session: Session, tenant_id: str, domain: str) -> tuple[AdapterLineRow, Rollout]:
    line = registry.require_line(session, tenant_id, domain)
    if line.current_version_id is None:
        raise RolloutError(
            f"tenant {tenant_id!r} serves the base model in domain {domain!r}; publish a version first"
        )
    return line, rollouts.value_of(rollouts.find(session, line.line_ref))


def _running(session: Session, tenant_id: str, domain: str) -> tuple[AdapterLineRow, Rollout]:
    line, stands = _serving(session, tenant_id, domain)
    if not stands.running:
        raise RolloutError(
            f"tenant {tenant_id!r} has no candidate in domain {domain!r}; set rollout.steps in its policy, and the "
            "next version is one"
        )
    return line, stands


def _move(session: Session, events: AdapterEvents, line: AdapterLineRow, after: Rollout, act: Act) -> Rollout:
    carry_out(session, events, line, Transition(after=after, cause=Cause.PERSON), act)
    return after


def _changed(
    session: Session, events: AdapterEvents, line: AdapterLineRow, after: Rollout, act: Act, action: str
) -> Rollout:
    """Store a mode or flag, and tell it; a candidate that runs bakes anew at its step."""
    if after.running and after.entered_at is not None:
        after = replace(after, entered_at=max(after.entered_at, act.now))
    rollouts.store(session, line.line_ref, line.tenant_id, after, now=act.now)
    audit_trail.append(
        session,
        line.tenant_id,
        actor=act.actor,
        action=action,
        detail={"line_ref": line.line_ref, "percent": after.percent, "reason": act.reason},
        now=act.now,
    )
    current = registry.current_version(session, line)
    candidate = registry.get_version(session, after.candidate or "")
    told = candidate if candidate is not None and after.running else current
    announce(
        session,
        events,
        line,
        AdapterEventKind.ROLLOUT_ADVANCED,
        act,
        version=None if told is None else registry.read_version(told),
        change=DesiredChange.SET,
        desired=None if current is None else registry.read_version(current),
    )
    return after
