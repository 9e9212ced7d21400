"""A version is no longer, or is again, what its line serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import VersionState

if TYPE_CHECKING:
    from personalization.registry.announcements import Act
    from personalization.registry.tables import AdapterVersionRow


def leave(row: AdapterVersionRow, state: VersionState, act: Act) -> AdapterVersionRow:
    """Record that a version is no longer the line's current one."""
    row.state = state.value
    row.left_at = act.now
    row.left_reason = act.reason
    row.left_by = act.actor
    return row


def take_up_again(row: AdapterVersionRow) -> AdapterVersionRow:
    """Record that an earlier version is the line's current one again."""
    row.state = VersionState.PUBLISHED.value
    row.left_at = row.left_reason = row.left_by = None
    return row
