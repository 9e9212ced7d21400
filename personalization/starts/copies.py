"""Serve meta starts: every line that has nothing of its own holds a copy of the best meta start as a version.

A copy stands on the tenant's own line, so every server loads it and a roll-back can return to it. It reads nothing of
the tenant and costs nothing, so a tenant gets one from the moment it is registered, before it has a policy. It never
fixes the rank of the line: the tenant's own first release may have another shape.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.adapters.manifest import Scope
from personalization.gates.gate import PublicEvaluation
from personalization.registry import queries as registry
from personalization.rollouts import rows as rollouts
from personalization.rounds import queries as rounds
from personalization.starts.meta_versions import META_TENANT, best_meta
from personalization.starts.untrained import NO_RESERVATION, Untrained, UntrainedVersions
from privacy.policy import versions as policies
from privacy.policy.values import DAY_SECONDS, DEFAULT_DOMAIN, period_index

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from personalization.registry.tables import AdapterVersionRow
    from personalization.starts.shop import Shop

ACTOR = "meta"
META = "meta"
PERIOD_WITHOUT_POLICY = 30 * DAY_SECONDS


def is_copy(row: AdapterVersionRow) -> bool:
    """Say whether a version is a copy of a meta start on a tenant's line; what was composed of two lines is none."""
    if row.reservation_id != NO_RESERVATION or row.tenant_id.startswith(META_TENANT):
        return False
    return registry.read_version(row).manifest.lineage.start == META


class MetaCopies:
    """Publishes copies; see the module."""

    def __init__(self, shop: Shop) -> None:
        self._artifacts = shop.artifacts
        self._versions = UntrainedVersions(shop)
        self._base_digest = shop.base.fingerprint().digest()

    def serve_all(self, session: Session, *, now: datetime) -> list[str]:
        """Bring the copy of every line without a version of its own up to date; return the new served names.

        What every line serves is read in two statements, so that looking again often stays cheap.
        """
        held = {(line.tenant_id, line.domain): line for line in registry.list_lines(session)}
        current = registry.served_starts(session)
        staying = rollouts.lines_that_stay(session)
        best: dict[tuple[str, int | None], str | None] = {}
        served = []
        for tenant in policies.list_tenants(session):
            policy = tenant.policy.policy if tenant.policy is not None else None
            length = policy.period_seconds if policy is not None else PERIOD_WITHOUT_POLICY
            period = period_index(now, length)
            for domain in policy.domains if policy is not None else (DEFAULT_DOMAIN,):
                line = held.get((tenant.tenant_id, domain))
                rank = None if line is None else line.rank
                serves = None if line is None else line.current_version_id
                reservation, start = current.get(serves or "", (None, None))
                if reservation is not None and reservation != NO_RESERVATION:
                    continue
                if line is not None and line.line_ref in staying:
                    continue
                if (domain, rank) not in best:
                    found = best_meta(session, self._base_digest, domain, rank)
                    best[domain, rank] = None if found is None else found.version_id
                wanted = best[domain, rank]
                if wanted is None or wanted == start:
                    continue
                own = None if serves is None else registry.get_version(session, serves)
                if own is None or is_copy(own):
                    served.append(self._copy(session, tenant.tenant_id, domain, wanted, period, now))
        return served

    def serve(
        self,
        session: Session,
        tenant_id: str,
        domain: str,
        *,
        period: int,
        now: datetime,
    ) -> str | None:
        """Bring the copy of one line up to date; return what it serves of the meta start, or None."""
        line = registry.find_line(session, tenant_id, domain)
        current = registry.current_version(session, line)
        if current is not None and not is_copy(current):
            return None
        if line is not None and line.line_ref in rollouts.lines_that_stay(session):
            return None
        source = best_meta(session, self._base_digest, domain, None if line is None else line.rank)
        if source is None:
            return None
        if current is not None and current.start_version_id == source.version_id:
            return current.served_name
        return self._copy(session, tenant_id, domain, source.version_id, period, now)

    def _copy(
        self,
        session: Session,
        tenant_id: str,
        domain: str,
        source_id: str,
        period: int,
        now: datetime,
    ) -> str:
        line = registry.lock_line(session, registry.ensure_line(session, tenant_id, domain, now=now).line_ref)
        source = registry.get_version(session, source_id)
        assert source is not None  # versions are never deleted
        manifest = registry.read_version(source).manifest
        plan = rounds.plan_of(session, source.round_id)
        assert plan is not None  # closed_round was given one
        with tempfile.TemporaryDirectory(prefix="discreet-meta-") as folder:
            directory = Path(folder) / "adapter"
            directory.mkdir()
            stored = self._artifacts.open(source.version_id)
            for file in manifest.files:
                shutil.copyfile(stored / file.path, directory / file.path)
            copy = self._versions.publish(
                session,
                line,
                Untrained(
                    directory=directory,
                    plan=plan,
                    facts=replace(manifest.privacy, reservation_id=NO_RESERVATION),
                    inputs=manifest.lineage.data_digest,
                    recipe=manifest.lineage.code_digest,
                    scope=Scope.META,
                    actor=ACTOR,
                    sentence="The meta start is served.",
                    start=META,
                    start_version_id=source.version_id,
                    public=PublicEvaluation(activation=manifest.evaluation.activation),  # of the same weights
                ),
                period_index=period,
                now=now,
            )
        return copy.served_name
