"""The policies that ingest applies, looked up for a whole batch and never staler than a stated bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from privacy.policy import versions as policies
from privacy.policy.values import TenantPrivacyPolicy

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
        versions = policies.newest_version_numbers(session, tenant_ids)
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
    read: dict[bytes, TenantPrivacyPolicy] = {}  # many tenants have the same policy
    entries: dict[str, _Entry] = {}
    for tenant_id, version, document in policies.newest_documents(session, tenant_ids):
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        policy = read.get(text)
        if policy is None:
            policy = read[text] = TenantPrivacyPolicy.from_document(document)
        entries[tenant_id] = _Entry(policy, version, now)
    return entries
