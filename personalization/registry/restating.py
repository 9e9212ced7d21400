"""Say again what servers should hold, from the registry: after the topic of desired states was lost or made anew.

Nothing happens to a line by that, so there is no event of it; its epoch grows, because a server that compared its lines
with the empty topic has let go of them and takes a state of a higher epoch only. A line whose served version has not
been told yet is left out: its state waits in the outbox for its instant, and what is sent now would take it along.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final, Protocol

from personalization.adapters.manifest import VersionState
from personalization.prompts import rows as prompts
from personalization.registry import queries as registry
from personalization.registry.announcements import (
    AdapterEventKind,
    AdapterLifecycleEvent,
    DesiredChange,
    standing,
)
from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.registry.announcements import Act

MOST_REVOKED: Final = 256  # that one state may name: the newest


class AdapterStates(Protocol):
    """The outbox, as far as desired states go."""

    def restate(self, session: Session, event: AdapterLifecycleEvent) -> None:
        """Add the desired state that ``event`` implies to ``session``, and not the event; never commits."""


def restate_line(session: Session, states: AdapterStates, line_ref: str, act: Act) -> DesiredChange:
    """Send a line's desired state again and return what servers are told; ``UNCHANGED``: nothing.

    Args:
        session: the caller's transaction.
        states: where the state is written.
        line_ref: which line.
        act: who asks, and why.

    Raises:
        LineNotFoundError: no such line.
    """
    line = registry.lock_line(session, line_ref)
    rows = registry.versions_of(session, line_ref)
    current = next((row for row in rows if row.version_id == line.current_version_id), None)
    rollout, candidate = standing(session, line)
    named = {line.current_version_id, None if candidate is None else candidate.version_id}
    if not rows or any(row.published_at > act.now for row in rows if row.version_id in named):
        return DesiredChange.UNCHANGED
    change = DesiredChange.CLEAR if current is None else DesiredChange.SET
    revoked = [row.version_id for row in rows if row.state == VersionState.WITHDRAWN.value]
    line.epoch += 1
    session.add(line)
    states.restate(
        session,
        AdapterLifecycleEvent(
            event_id=str(uuid.uuid4()),
            kind=AdapterEventKind.PROMOTED,  # of the version that is served; not sent
            occurred_at=act.now,
            tenant_id=line.tenant_id,
            domain=line.domain,
            line_ref=line_ref,
            epoch=line.epoch,
            desired_change=change,
            desired=None if current is None else registry.read_version(current),
            revoked_version_ids=tuple(revoked[-MOST_REVOKED:]),
            reason_code=act.code,
            reason=act.reason,
            actor=act.actor,
            rollout=rollout,
            candidate=candidate if change is DesiredChange.SET else None,
            prompts=prompts.standing_of(session, line_ref),
        ),
    )
    audit_trail.append(
        session,
        line.tenant_id,
        actor=act.actor,
        action="adapter.state_sent_again",
        detail={"line_ref": line_ref, "epoch": line.epoch, "reason": act.reason},
        now=act.now,
    )
    return change
