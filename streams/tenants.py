"""The policies that ingest applies, looked up for a whole batch and never staler than a stated bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from sqlalchemy import func
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from privacy.policy import TenantPrivacyPolicy
from privacy.storage.subjects import wanted_tenants
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

    One statement asks for the newest version number of the tenants in question, and one more reads the policies
    whose number changed. Unknown tenants are not cached, so that a new one works at once.
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
        asked = wanted_tenants(session, tenant_ids)
        newest = (
            select(TenantRow.tenant_id, func.coalesce(func.max(PolicyRow.version), 0))
            .join(asked, col(TenantRow.tenant_id) == asked.c.tenant_id)
            .outerjoin(PolicyRow, col(PolicyRow.tenant_id) == TenantRow.tenant_id)
            .group_by(col(TenantRow.tenant_id))
        )
        versions: dict[str, int] = dict(session.exec(newest).all())
        changed: list[str] = []
        for name in tenant_ids:
            entry = self._entries.get(name)
            version = versions.get(name)
            if version is None:
                self._entries.pop(name, None)
            elif entry is not None and entry.version == version:
                entry.read_at = now
            elif version == 0:
                self._entries[name] = _Entry(None, 0, now)
            else:
                changed.append(name)
        if changed:
            self._entries |= _newest_policies(session, changed, now)


def _newest_policies(session: Session, tenant_ids: Collection[str], now: float) -> dict[str, _Entry]:
    asked = wanted_tenants(session, tenant_ids)
    other = aliased(PolicyRow)
    newest = (
        select(func.max(other.version)).where(col(other.tenant_id) == asked.c.tenant_id).scalar_subquery()
    )
    statement = (
        select(PolicyRow.tenant_id, PolicyRow.version, PolicyRow.document)
        .join(asked, col(PolicyRow.tenant_id) == asked.c.tenant_id)
        .where(col(PolicyRow.version) == newest)
    )
    read: dict[bytes, TenantPrivacyPolicy] = {}  # many tenants have the same policy
    entries: dict[str, _Entry] = {}
    for tenant_id, version, document in session.exec(statement):
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        policy = read.get(text)
        if policy is None:
            policy = read[text] = TenantPrivacyPolicy.from_document(document)
        entries[tenant_id] = _Entry(policy, version, now)
    return entries
