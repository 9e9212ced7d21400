"""What is anchored of adapter lines outside the database, and how lines of a restored backup come to lie above it.

The epoch orders what servers are told, the number of the last version keeps served names from being used twice, and a
withdrawn version must not be served again because a backup knows it as live: so these three are anchored.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlmodel import col, select

from personalization.adapters.manifest import VersionState
from personalization.registry import queries as registry
from personalization.registry.announcements import AdapterEventKind, DesiredChange, announce
from personalization.registry.restating import MOST_REVOKED
from personalization.registry.tables import AdapterLineRow, AdapterVersionRow
from personalization.registry.withdrawal import withdraw_version

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlmodel import Session

    from personalization.registry.announcements import Act, AdapterEvents


@dataclass(frozen=True, kw_only=True)
class LineMark:
    """What of one line never goes back: its epoch, the number of its last version, what was withdrawn."""

    line_ref: str
    domain: str
    epoch: int
    last_version: int
    withdrawn: tuple[str, ...] = ()


def line_marks(session: Session, owners: Collection[str]) -> dict[str, tuple[LineMark, ...]]:
    """Return the marks of the lines of each owner that has one."""
    lines = session.exec(
        select(AdapterLineRow)
        .where(col(AdapterLineRow.tenant_id).in_(owners))
        .order_by(col(AdapterLineRow.line_ref))
        .execution_options(populate_existing=True)
    ).all()
    withdrawn: dict[str, list[str]] = defaultdict(list)
    rows = session.exec(
        select(AdapterVersionRow.line_ref, AdapterVersionRow.version_id)
        .where(
            col(AdapterVersionRow.tenant_id).in_(owners),
            AdapterVersionRow.state == VersionState.WITHDRAWN.value,
        )
        .order_by(col(AdapterVersionRow.line_ref), col(AdapterVersionRow.version))
    )
    for line_ref, version_id in rows:
        withdrawn[line_ref].append(version_id)
    found: dict[str, list[LineMark]] = defaultdict(list)
    for line in lines:
        found[line.tenant_id].append(
            LineMark(
                line_ref=line.line_ref,
                domain=line.domain,
                epoch=line.epoch,
                last_version=line.last_version,
                withdrawn=tuple(withdrawn[line.line_ref]),
            )
        )
    return {owner: tuple(marks) for owner, marks in found.items()}


def owners_of_lines(session: Session) -> Sequence[str]:
    """Return everybody who has a line."""
    return session.exec(select(AdapterLineRow.tenant_id).distinct()).all()


def raise_lines(
    session: Session, events: AdapterEvents, owner: str, marks: Sequence[LineMark], act: Act
) -> tuple[str, ...]:
    """Take an owner's lines above what is anchored of them and tell servers what they serve now; return the lines.

    What was withdrawn since the backup is withdrawn again. Versions that the backup lacks are gone: their line serves
    what the backup says, or the base model, and their numbers and names are not used again.

    Args:
        session: the caller's transaction.
        events: where the events are written.
        owner: of the lines.
        marks: what is anchored of them.
        act: who asks, and why.
    """
    told = []
    for mark in marks:
        line = _line_of(session, owner, mark, act)
        if line is None:
            continue
        line.epoch = max(line.epoch, mark.epoch)
        line.last_version = max(line.last_version, mark.last_version)
        session.add(line)
        session.flush()
        for version_id in mark.withdrawn:
            row = registry.get_version(session, version_id)
            if row is not None and row.state != VersionState.WITHDRAWN.value:
                withdraw_version(session, events, version_id, act)
        _announce(session, events, line, act)
        told.append(mark.line_ref)
    return tuple(told)


def _announce(session: Session, events: AdapterEvents, line: AdapterLineRow, act: Act) -> None:
    """Tell servers what a line serves, at once and as an event: after a restore nobody knows what they were told."""
    rows = registry.versions_of(session, line.line_ref)
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


def _line_of(session: Session, owner: str, mark: LineMark, act: Act) -> AdapterLineRow | None:
    """Return the locked line; one that the backup lacks is made again, unless its owner's domain has another by now."""
    known = registry.find_line(session, owner, mark.domain)
    if known is None:
        session.add(
            AdapterLineRow(line_ref=mark.line_ref, tenant_id=owner, domain=mark.domain, created_at=act.now)
        )
        session.flush()
    elif known.line_ref != mark.line_ref:
        return None
    return registry.lock_line(session, mark.line_ref)
