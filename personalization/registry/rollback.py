"""Return a line to an earlier version; the budget that the left version cost stays spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import VersionState
from personalization.errors import VersionNotFoundError, VersionStateError
from personalization.registry import queries as registry
from personalization.registry import succession
from personalization.registry.announcements import AdapterEventKind, DesiredChange, announce
from personalization.registry.leaving import leave, take_up_again
from personalization.rollouts.values import Stage
from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion
    from personalization.registry.announcements import Act, AdapterEvents
    from personalization.registry.tables import AdapterVersionRow


def roll_back(
    session: Session,
    events: AdapterEvents,
    tenant_id: str,
    domain: str,
    act: Act,
    *,
    to_version: int | None = None,
) -> AdapterVersion:
    """Make an earlier version the line's current one and return it; a rollout that runs is rolled back too.

    Args:
        session: the caller's transaction.
        events: where the event is written.
        tenant_id: whose line.
        domain: which line.
        act: who asks, and why.
        to_version: its number; None takes the newest superseded one.

    Raises:
        LineNotFoundError: the line does not exist.
        VersionNotFoundError: the line has no such version, or none to return to.
        VersionStateError: the version was itself left by a roll-back or withdrawn, or is the current one.
    """
    line = registry.require_line(session, tenant_id, domain)
    rows = registry.versions_of(session, line.line_ref)
    current = next((row for row in rows if row.version_id == line.current_version_id), None)
    if current is None:
        raise VersionStateError(
            f"tenant {tenant_id!r} serves the base model in domain {domain!r}; nothing to leave"
        )
    target = _target(rows, current, to_version)
    succession.end(session, events, line, act, promoted=Stage.ROLLED_BACK)
    leave(current, VersionState.ROLLED_BACK, act)
    session.add_all((current, take_up_again(target)))
    line.current_version_id = target.version_id
    version = registry.read_version(target)
    audit_trail.append(
        session,
        tenant_id,
        actor=act.actor,
        action="adapter.rolled_back",
        detail={"from": current.served_name, "to": target.served_name, "reason": act.reason},
        now=act.now,
    )
    announce(
        session,
        events,
        line,
        AdapterEventKind.ROLLED_BACK,
        act,
        version=version,
        change=DesiredChange.SET,
        desired=version,
        left_version_id=current.version_id,
    )
    return version


def _target(
    rows: Sequence[AdapterVersionRow],
    current: AdapterVersionRow,
    number: int | None,
) -> AdapterVersionRow:
    if number is None:
        earlier = [row for row in rows if row.version < current.version]
        usable = [row for row in earlier if row.state == VersionState.SUPERSEDED.value]
        if not usable:
            raise VersionNotFoundError(
                f"{current.served_name!r} has no earlier version to return to; "
                "withdraw it to serve the base model"
            )
        return usable[-1]
    found = next((row for row in rows if row.version == number), None)
    if found is None:
        raise VersionNotFoundError(f"the line has no version {number}; list the adapters and choose one")
    if found.state != VersionState.SUPERSEDED.value:
        raise VersionStateError(
            f"version {number} is {found.state}; a roll-back returns to a superseded version only"
        )
    return found
