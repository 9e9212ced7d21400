"""Tell servers once more what every line serves: after the topic was lost, from an older form, or after a restore.

The registry is the truth and the topic its copy. What is told again gets a new epoch, so that it counts wherever an
earlier one was seen, and names what must not be served any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import VersionState
from personalization.registry import queries as registry
from personalization.registry.announcements import AdapterEventKind, DesiredChange, announce

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.registry.announcements import Act, AdapterEvents

MOST_REVOKED = 256  # that one event may name, see ``streams.contracts.adapter``


def announce_again(
    session: Session, events: AdapterEvents, act: Act, *, tenant_id: str | None = None
) -> tuple[str, ...]:
    """Announce the desired state of every line that ever had a version, of one tenant or of all; return the lines.

    Args:
        session: the caller's transaction.
        events: where the events are written.
        act: who asks, and why.
        tenant_id: only this owner's lines.
    """
    found = registry.list_lines(session)
    names = sorted(one.line_ref for one in found if tenant_id in {None, one.tenant_id})
    return tuple(name for name in names if announce_line(session, events, name, act))


def announce_line(session: Session, events: AdapterEvents, line_ref: str, act: Act) -> bool:
    """Announce the desired state of one line; return whether it ever had a version, without which there is nothing."""
    line = registry.lock_line(session, line_ref)
    rows = registry.versions_of(session, line_ref)
    if not rows:
        return False
    withdrawn = [row.version_id for row in rows if row.state == VersionState.WITHDRAWN.value]
    current = registry.current_version(session, line)
    serves = None if current is None else registry.read_version(current)
    announce(
        session,
        events,
        line,
        AdapterEventKind.WITHDRAWN if serves is None else AdapterEventKind.PROMOTED,
        act,
        version=serves,
        change=DesiredChange.CLEAR if serves is None else DesiredChange.SET,
        desired=serves,
        revoked_version_ids=tuple(withdrawn[-MOST_REVOKED:]),
    )
    return True
