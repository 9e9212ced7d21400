"""The policies that ingest applies, looked up for a whole batch and never staler than a stated bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func
from sqlmodel import col, select

from privacy.policy import TenantPrivacyPolicy
from privacy.storage.tables import PolicyRow, TenantRow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from sqlmodel import Session

# A tenant without a policy is ingested under these bounds and never trained.
WITHOUT_POLICY = TenantPrivacyPolicy(declared_users=1000)


@dataclass(slots=True)
class _Entry:
    policy: TenantPrivacyPolicy | None
    version: int
    read_at: float


class TenantPolicies:
    """A cache of the newest policies; an entry older than ``staleness_seconds`` is read again before use.

    One statement asks for the newest version number of the tenants in question; a policy is read and parsed
    only when that number changed. Unknown tenants are not cached, so that a new one works at once.
    """

    def __init__(self, staleness_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._staleness = staleness_seconds
        self._monotonic = monotonic
        self._entries: dict[str, _Entry] = {}

    def lookup(
        self, session: Session, tenant_ids: Collection[str]
    ) -> Mapping[str, TenantPrivacyPolicy | None]:
        """Return the policies of those of ``tenant_ids`` that are registered (``None``: it has no policy)."""
        now = self._monotonic()
        stale = [name for name in tenant_ids if not self._fresh(name, now)]
        if stale:
            self._read(session, stale, now)
        return {name: self._entries[name].policy for name in tenant_ids if name in self._entries}

    def _fresh(self, tenant_id: str, now: float) -> bool:
        entry = self._entries.get(tenant_id)
        return entry is not None and now - entry.read_at < self._staleness

    def _read(self, session: Session, tenant_ids: Collection[str], now: float) -> None:
        newest = (
            select(TenantRow.tenant_id, func.coalesce(func.max(PolicyRow.version), 0))
            .outerjoin(PolicyRow, col(PolicyRow.tenant_id) == TenantRow.tenant_id)
            .where(col(TenantRow.tenant_id).in_(tenant_ids))
            .group_by(col(TenantRow.tenant_id))
        )
        versions: dict[str, int] = dict(session.exec(newest).all())
        for name in tenant_ids:
            entry = self._entries.get(name)
            version = versions.get(name)
            if version is None:
                self._entries.pop(name, None)
            elif entry is not None and entry.version == version:
                entry.read_at = now
            else:
                self._entries[name] = _Entry(_policy(session, name, version), version, now)


def _policy(session: Session, tenant_id: str, version: int) -> TenantPrivacyPolicy | None:
    if version == 0:
        return None
    statement = select(PolicyRow.document).where(
        PolicyRow.tenant_id == tenant_id, PolicyRow.version == version
    )
    return TenantPrivacyPolicy.from_document(session.exec(statement).one())
