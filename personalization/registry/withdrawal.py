"""Withdraw versions for privacy or by an operator: they and all trained from them are never served again.

A withdrawal gives no budget back: what was released stays released. Weights are deleted after the
transaction that tells the servers, at once by who asked (``remove_withdrawn_weights``) or by the trainers'
upkeep (``artifacts_chore``); manifests stay for the audit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import BLEND_CHECK, COMPOSED, VersionState
from personalization.errors import VersionStateError
from personalization.registry import queries as registry
from personalization.registry import succession
from personalization.registry.announcements import AdapterEventKind, DesiredChange, announce
from personalization.registry.leaving import leave, take_up_again
from privacy.audit import trail as audit_trail
from privacy.policy.values import Start

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlmodel import Session

    from personalization.artifacts.store import ArtifactStore
    from personalization.registry.announcements import Act, AdapterEvents
    from personalization.registry.tables import AdapterLineRow, AdapterVersionRow


def withdraw_version(
    session: Session,
    events: AdapterEvents,
    name: str,
    act: Act,
    *,
    tenant_id: str | None = None,
) -> tuple[str, ...]:
    """Withdraw one version and every version trained from it; return their served names.

    If the line served one of them, it returns to its newest superseded version, or to the base model.

    Args:
        session: the caller's transaction.
        events: where the event is written.
        name: served name or version id.
        act: who asks, and why.
        tenant_id: restricts the search to one tenant (a tenant's administrator).

    Raises:
        VersionNotFoundError: no such version.
        VersionStateError: it is withdrawn already.
    """
    asked = registry.find_version(session, name, tenant_id=tenant_id)
    line = registry.lock_line(session, asked.line_ref)
    rows = registry.versions_of(session, line.line_ref)
    if asked.state == VersionState.WITHDRAWN.value:
        raise VersionStateError(f"{asked.served_name!r} is withdrawn already; nothing was changed")
    reached = [row for row in _with_descendants(rows, asked) if row.state != VersionState.WITHDRAWN.value]
    return _withdraw(session, events, line, rows, reached, act)


def withdraw_line(
    session: Session,
    events: AdapterEvents,
    tenant_id: str,
    domain: str,
    act: Act,
) -> tuple[str, ...]:
    """Withdraw every version of a line; servers get a tombstone and serve the base model.

    Raises:
        LineNotFoundError: no such line.
    """
    line = registry.require_line(session, tenant_id, domain)
    rows = registry.versions_of(session, line.line_ref)
    reached = [row for row in rows if row.state != VersionState.WITHDRAWN.value]
    return _withdraw(session, events, line, rows, reached, act)


def heirs_of(session: Session, row: AdapterVersionRow) -> list[str]:
    """Return the served names of the versions that hold something of a version, which a withdrawal reaches with it."""
    found = _with_descendants(registry.versions_of(session, row.line_ref), row)
    composed = _composed_of(session, row.tenant_id, row.line_ref, {one.version_id for one in found})
    others = [one for one in found if one.version_id != row.version_id]
    return [one.served_name for one in (*others, *(each for rows in composed.values() for each in rows))]


def remove_withdrawn_weights(session: Session, artifacts: ArtifactStore) -> int:
    """Delete the weights of every withdrawn version; return how many had any. Safe to repeat."""
    return sum(artifacts.remove_weights(version_id) for version_id in registry.withdrawn_ids(session))


def _withdraw(
    session: Session,
    events: AdapterEvents,
    line: AdapterLineRow,
    rows: Sequence[AdapterVersionRow],
    reached: Sequence[AdapterVersionRow],
    act: Act,
) -> tuple[str, ...]:
    if not reached:
        return ()
    serves_one = any(row.version_id == line.current_version_id for row in reached)
    left_version_id = line.current_version_id if serves_one else None
    succession.withdraw(session, line, rows, {row.version_id for row in reached}, act)
    for row in reached:
        session.add(leave(row, VersionState.WITHDRAWN, act))
    change, desired = DesiredChange.UNCHANGED, None
    if serves_one:
        usable = [row for row in rows if row.state == VersionState.SUPERSEDED.value]
        target = usable[-1] if usable else None
        line.current_version_id = target.version_id if target is not None else None
        change = DesiredChange.CLEAR
        if target is not None:
            change, desired = DesiredChange.SET, registry.read_version(target)
            session.add(take_up_again(target))
    elif line.current_version_id is not None:
        # The served version stays; its state is sent again with the ids that servers must unload.
        current = next(row for row in rows if row.version_id == line.current_version_id)
        change, desired = DesiredChange.SET, registry.read_version(current)
    names = tuple(row.served_name for row in reached)
    audit_trail.append(
        session,
        line.tenant_id,
        actor=act.actor,
        action="adapter.withdrawn",
        detail={"served_names": list(names), "reason": act.reason, "reason_code": act.code},
        now=act.now,
    )
    announce(
        session,
        events,
        line,
        AdapterEventKind.WITHDRAWN,
        act,
        version=registry.read_version(reached[0]),
        change=change,
        desired=desired,
        left_version_id=left_version_id,
        revoked_version_ids=tuple(row.version_id for row in reached),
    )
    gone = {row.version_id for row in reached}
    for line_ref, heirs in sorted(_composed_of(session, line.tenant_id, line.line_ref, gone).items()):
        other = registry.lock_line(session, line_ref)
        names += _withdraw(session, events, other, registry.versions_of(session, line_ref), heirs, act)
    return names


def _composed_of(
    session: Session, tenant_id: str, line_ref: str, parts: Collection[str]
) -> dict[str, list[AdapterVersionRow]]:
    """Return, by their line, the versions of a tenant's other lines that were composed of one of these."""
    found: dict[str, list[AdapterVersionRow]] = {}
    for row in registry.list_versions(session, tenant_id=tenant_id):
        if row.line_ref == line_ref or row.state == VersionState.WITHDRAWN.value:
            continue
        if registry.read_version(row).manifest.lineage.start == COMPOSED and _parents([], row) & set(parts):
            found.setdefault(row.line_ref, []).append(row)
    return found


def _with_descendants(rows: Sequence[AdapterVersionRow], root: AdapterVersionRow) -> list[AdapterVersionRow]:
    """Return the version and all of the line that hold something of it: by their start, an average or a blend."""
    reached = {root.version_id}
    for row in rows:  # oldest first, so a parent always comes before its children
        if row.version > root.version and reached & _parents(rows, row):
            reached.add(row.version_id)
    return [row for row in rows if row.version_id in reached]


def _parents(rows: Sequence[AdapterVersionRow], row: AdapterVersionRow) -> set[str]:
    manifest = registry.read_version(row).manifest
    parents = {check.detail for check in manifest.evaluation.checks if check.name == BLEND_CHECK}
    if row.start_version_id is not None:
        parents.add(row.start_version_id)
    if manifest.lineage.start == Start.AVERAGE.value:
        # Which earlier ones were averaged is not kept: all may be.
        parents |= {one.version_id for one in rows if one.version < row.version}
    return parents
