"""Compute, publish and withdraw meta starts, and serve them to tenants that have nothing of their own yet.

A meta start is a version like any other: registered, signed, announced, with ``scope: meta``. Its line belongs to no
tenant (``META_TENANT`` is no valid tenant id), one line per base model, adapter shape and domain. A tenant without an
adapter of its own gets a copy as a version on its own line, so every server loads it, a roll-back can return to it
and the tenant's first training may start from it.

Only released adapters of tenants that opted in are read. When such a tenant opts out or its version is withdrawn,
``refresh`` computes the start anew from the others and withdraws every meta version, and every copy of it, that the
tenant had contributed to.

Above 400 lines because publishing, copying and withdrawing a start must happen in one transaction with its record.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from personalization.adapters import (
    LoraShape,
    PrivacyFacts,
    Scope,
    VersionState,
    canonical_json,
    sha256_digest,
)
from personalization.errors import MetaStartError
from personalization.gate import Rejected, judge
from personalization.meta import MetaRecipe, Released, meta_start
from personalization.plan import Family, TrainingPlan
from personalization.services.publication import Candidate
from personalization.services.rounds import closed_round
from personalization.services.withdrawal import withdraw_version
from personalization.storage import registry
from personalization.storage.tables import AdapterLineRow, AdapterVersionRow, MetaContributionRow, RoundRow
from privacy.policy import DEFAULT_DOMAIN
from privacy.services import policies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.adapters import BaseFingerprint
    from personalization.artifacts import DirectoryArtifactStore
    from personalization.ports import AdapterEvents
    from personalization.services.publication import Publisher

META_TENANT = "~meta-"  # followed by a digest of base and shape; "~" cannot begin a tenant id
ALL_DOMAINS = "~all"
ACTOR = "meta"
NO_RESERVATION = "post-processing"  # a meta start costs nothing, so no reservation stands behind it


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One tenant's released adapter that may enter a meta start."""

    released: Released
    row: AdapterVersionRow
    plan: TrainingPlan
    domain: str


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What one refresh did; served names only."""

    published: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    served_to: tuple[str, ...] = ()
    waiting: dict[str, int] = field(default_factory=dict)  # tenants found, where they were too few


def meta_tenant(base_digest: str, lora: LoraShape | TrainingPlan) -> str:
    """Return the owner of the meta lines of one base and adapter shape."""
    layers = lora.top_layers if isinstance(lora, TrainingPlan) else len(lora.layers)
    family = lora.family.value if isinstance(lora, TrainingPlan) else lora.family
    shape = [base_digest, family, lora.rank, lora.alpha, sorted(lora.target_modules), layers]
    return META_TENANT + hashlib.sha256(canonical_json(shape)).hexdigest()[:16]


def find_meta(
    session: Session, base_digest: str, lora: LoraShape | TrainingPlan, domain: str
) -> AdapterVersionRow | None:
    """Return the current meta version for a shape: of the domain, or else of all domains."""
    owner = meta_tenant(base_digest, lora)
    for name in (domain, ALL_DOMAINS):
        line = registry.find_line(session, owner, name)
        if line is not None and line.current_version_id is not None:
            return session.get(AdapterVersionRow, line.current_version_id)
    return None


class MetaStarts:
    """Keeps the meta starts of one base model up to date.

    Args:
        artifacts: where versions lie.
        publisher: writes versions.
        events: the outbox.
        base: the frozen base model's digests.
        recipe: public numbers of the computation.
    """

    def __init__(
        self,
        *,
        artifacts: DirectoryArtifactStore,
        publisher: Publisher,
        events: AdapterEvents,
        base: BaseFingerprint,
        recipe: MetaRecipe | None = None,
    ) -> None:
        self._artifacts = artifacts
        self._publisher = publisher
        self._events = events
        self._base = base
        self._recipe = recipe or MetaRecipe()

    def refresh(self, session: Session, *, now: datetime) -> Refreshed:
        """Bring every meta start and every copy of one up to date, in the caller's transaction; safe to repeat.

        Raises:
            MetaStartError: a combination that should fit does not share one subspace.
            ArtifactError: a released adapter's files are gone or changed.
        """
        contributions = self.contributions(session)
        groups = _grouped(contributions)
        withdrawn = self._withdraw_stale(session, {one.row.version_id for one in contributions}, now)
        published: list[str] = []
        waiting: dict[str, int] = {}
        for (owner, domain), group in sorted(groups.items()):
            tenants = len({one.released.tenant_id for one in group})
            if tenants < self._recipe.minimum_tenants:
                if domain == ALL_DOMAINS:
                    waiting[owner] = tenants
                continue
            name = self._publish(session, owner, domain, group, now)
            if name is not None:
                published.append(name)
        served = self._serve_bare_tenants(session, now)
        return Refreshed(
            published=tuple(published), withdrawn=tuple(withdrawn), served_to=tuple(served), waiting=waiting
        )

    def contributions(self, session: Session) -> list[Contribution]:
        """Return the current released adapters of tenants that opted in, one per tenant and domain."""
        found = []
        for tenant in policies.list_tenants(session):
            if tenant.policy is None or not tenant.policy.policy.sharing_opt_in:
                continue
            for domain in tenant.policy.policy.domains:
                line = registry.find_line(session, tenant.tenant_id, domain)
                row = _current(session, line)
                if (
                    row is None
                    or row.state != VersionState.PUBLISHED.value
                    or row.base_digest != self._base.digest()
                ):
                    continue
                manifest = registry.read_version(row).manifest
                round_row = session.get(RoundRow, row.round_id)
                if manifest.scope is not Scope.TENANT or manifest.lora.family == Family.FULL.value:
                    continue
                if round_row is None or round_row.plan_json is None:
                    continue
                plan = TrainingPlan.from_document(json.loads(round_row.plan_json))
                released = Released(
                    tenant_id=tenant.tenant_id,
                    version_id=row.version_id,
                    directory=self._artifacts.open(row.version_id),
                    signal=_clearness(plan, tenant.policy.policy.declared_users),
                )
                found.append(Contribution(released=released, row=row, plan=plan, domain=domain))
        return found

    def _publish(
        self, session: Session, owner: str, domain: str, group: Sequence[Contribution], now: datetime
    ) -> str | None:
        """Publish the group's meta start unless the line's current version has exactly these contributions."""
        line = _ensure_meta_line(session, owner, domain, now)
        inputs = sha256_digest(
            canonical_json([sorted(one.row.version_id for one in group), asdict(self._recipe)])
        )
        current = _current(session, line)
        if current is not None and registry.read_version(current).manifest.lineage.data_digest == inputs:
            return None
        folder = Path(tempfile.mkdtemp(prefix="discreet-meta-"))
        try:
            directory = folder / "adapter"
            weights = meta_start([one.released for one in group], self._recipe, directory)
            version = self._register(
                session,
                line,
                directory,
                group[0].plan,
                _facts(group),
                inputs=inputs,
                start="zero",
                source=None,
                period_index=0,
                now=now,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for one in group:
            session.add(
                MetaContributionRow(
                    version_id=version.version_id,
                    contributor_id=one.row.version_id,
                    tenant_id=one.released.tenant_id,
                    weight=weights[one.row.version_id],
                )
            )
        return version.served_name

    def _register(
        self,
        session: Session,
        line: AdapterLineRow,
        directory: Path,
        plan: TrainingPlan,
        facts: PrivacyFacts,
        *,
        inputs: str,
        start: str,
        source: str | None,
        period_index: int,
        now: datetime,
    ) -> AdapterVersionRow:
        verdict = judge(directory, plan)
        if isinstance(verdict, Rejected):
            raise MetaStartError(f"the meta start is not released: {verdict.sentence()}")
        text = json.dumps(plan.to_document(), sort_keys=True)
        row = closed_round(session, line, period_index=period_index, actor=ACTOR, plan_json=text, now=now)
        row.start, row.start_version_id = start, source
        candidate = Candidate(
            directory=directory,
            accepted=verdict,
            base=self._base,
            privacy=facts,
            plan_digest=plan.digest(),
            data_digest=inputs,
            code_digest=sha256_digest(canonical_json(asdict(self._recipe))),
            scope=Scope.META,
            actor=ACTOR,
        )
        version = self._publisher.publish(session, row, line, candidate, now=now)
        row.version_id = version.version_id
        session.add(row)
        session.flush()
        return registry.find_version(session, version.version_id)

    def _withdraw_stale(self, session: Session, eligible: set[str], now: datetime) -> list[str]:
        """Withdraw every meta version with a contribution that may no longer be used, and its copies."""
        left: list[str] = []
        reason = "A tenant whose adapter was part of it takes part no longer."
        for row in _meta_versions(session):
            parts = session.exec(
                select(MetaContributionRow.contributor_id).where(
                    MetaContributionRow.version_id == row.version_id
                )
            ).all()
            # A contributor that was merely replaced by the tenant's next version is still shared.
            gone = [part for part in parts if part not in eligible and not self._still_shared(session, part)]
            if not gone:
                continue
            copies = session.exec(
                select(AdapterVersionRow).where(AdapterVersionRow.start_version_id == row.version_id)
            ).all()
            reached = [row, *(copy for copy in copies if _is_copy(copy))]
            for one in (one for one in reached if one.state != VersionState.WITHDRAWN.value):
                left += withdraw_version(
                    session, self._events, one.version_id, actor=ACTOR, reason=reason, now=now,
                    reason_code="meta_contributor_left",
                )  # fmt: skip
        return left

    def _still_shared(self, session: Session, version_id: str) -> bool:
        row = session.get(AdapterVersionRow, version_id)
        if row is None or row.state == VersionState.WITHDRAWN.value:
            return False
        version = policies.current_policy(session, row.tenant_id)
        return version is not None and version.policy.sharing_opt_in

    def _serve_bare_tenants(self, session: Session, now: datetime) -> list[str]:
        """Publish the meta start on the line of each tenant that serves the base or an older meta start."""
        served = []
        for tenant in policies.list_tenants(session):
            if tenant.policy is None:
                continue
            for domain in tenant.policy.policy.domains:
                line = registry.find_line(session, tenant.tenant_id, domain)
                current = _current(session, line)
                if current is not None and not _is_copy(current):
                    continue
                source = self._best_meta(session, domain, line)
                if source is None or (current is not None and current.start_version_id == source.version_id):
                    continue
                line = registry.lock_line(
                    session, registry.ensure_line(session, tenant.tenant_id, domain, now=now).line_ref
                )
                manifest = registry.read_version(source).manifest
                source_round = session.get(RoundRow, source.round_id)
                assert source_round is not None  # a foreign key
                assert source_round.plan_json is not None  # closed_round was given one
                with tempfile.TemporaryDirectory(prefix="discreet-meta-") as folder:
                    directory = Path(folder) / "adapter"
                    directory.mkdir()
                    stored = self._artifacts.open(source.version_id)
                    for file in manifest.files:
                        shutil.copyfile(stored / file.path, directory / file.path)
                    copy = self._register(
                        session, line, directory,
                        TrainingPlan.from_document(json.loads(source_round.plan_json)), manifest.privacy,
                        inputs=manifest.lineage.data_digest, start="meta", source=source.version_id,
                        period_index=tenant.policy.policy.period_index(now), now=now,
                    )  # fmt: skip
                served.append(copy.served_name)
        return served

    def _best_meta(
        self, session: Session, domain: str, line: AdapterLineRow | None
    ) -> AdapterVersionRow | None:
        """Return the meta start to serve: of the domain before all domains, of most contributors, then newest."""
        rows = [
            row
            for row in _meta_versions(session)
            if row.state == VersionState.PUBLISHED.value
            and row.base_digest == self._base.digest()
            and row.domain in {domain, ALL_DOMAINS}
            and (
                line is None
                or line.rank is None
                or registry.read_version(row).manifest.lora.rank == line.rank
            )
        ]

        def value(row: AdapterVersionRow) -> tuple[bool, int, str]:
            parts = session.exec(
                select(MetaContributionRow.contributor_id).where(
                    MetaContributionRow.version_id == row.version_id
                )
            ).all()
            return row.domain == domain, len(parts), row.published_at.isoformat()

        return max(rows, key=value, default=None)


def describe_meta_versions(session: Session) -> list[dict[str, Any]]:
    """Return every meta version with its contributors, JSON-ready, for the operator."""
    facts = []
    for row in _meta_versions(session):
        parts = session.exec(
            select(MetaContributionRow)
            .where(MetaContributionRow.version_id == row.version_id)
            .order_by(col(MetaContributionRow.tenant_id))
        ).all()
        contributors = [
            {"tenant": part.tenant_id, "version_id": part.contributor_id, "weight": part.weight}
            for part in parts
        ]
        facts.append(
            {
                "served_name": row.served_name,
                "version_id": row.version_id,
                "domain": row.domain,
                "state": row.state,
                "published_at": row.published_at.isoformat(),
                "contributors": contributors,
            }
        )
    return facts


def _grouped(contributions: Sequence[Contribution]) -> dict[tuple[str, str], list[Contribution]]:
    """Return what may be averaged together: per shape and domain, and per shape over all domains."""
    groups: dict[tuple[str, str], list[Contribution]] = {}
    for one in contributions:
        manifest = registry.read_version(one.row).manifest
        owner = meta_tenant(one.row.base_digest, manifest.lora)
        if one.domain != DEFAULT_DOMAIN:
            groups.setdefault((owner, one.domain), []).append(one)
        everyone = groups.setdefault((owner, ALL_DOMAINS), [])
        if all(other.released.tenant_id != one.released.tenant_id for other in everyone):
            everyone.append(one)  # a tenant with several lines counts once, by its first domain
    return groups


def _facts(group: Sequence[Contribution]) -> PrivacyFacts:
    """Return the facts of a meta start: nothing was spent; what its weakest contribution promised still holds."""
    facts = [registry.read_version(one.row).manifest.privacy for one in group]
    weakest = max(facts, key=lambda one: one.release_epsilon)
    proofs = sorted(one.ledger_entry_hash for one in facts)
    return PrivacyFacts(
        **{
            **asdict(weakest),
            "mechanism": "post_processing",
            "cumulative_epsilon": max(one.cumulative_epsilon for one in facts),
            "target_epsilon": max(one.target_epsilon for one in facts),
            "delta": max(one.delta for one in facts),
            "reservation_id": NO_RESERVATION,
            "ledger_entry_hash": hashlib.sha256("\n".join(proofs).encode()).hexdigest(),
            "noisy_cohort": None,
        }
    )


def _meta_versions(session: Session) -> Sequence[AdapterVersionRow]:
    """Return every meta version, of each line the oldest first: a withdrawal never falls back to a stale one."""
    return session.exec(
        select(AdapterVersionRow)
        .where(col(AdapterVersionRow.tenant_id).startswith(META_TENANT))
        .order_by(col(AdapterVersionRow.line_ref), col(AdapterVersionRow.version))
    ).all()


def _ensure_meta_line(session: Session, owner: str, domain: str, now: datetime) -> AdapterLineRow:
    """Return the locked meta line, made on first use (the unique constraint keeps it single)."""
    line = registry.find_line(session, owner, domain)
    if line is None:
        line = AdapterLineRow(line_ref=secrets.token_hex(6), tenant_id=owner, domain=domain, created_at=now)
        session.add(line)
        session.flush()
    return registry.lock_line(session, line.line_ref)


def _current(session: Session, line: AdapterLineRow | None) -> AdapterVersionRow | None:
    if line is None or line.current_version_id is None:
        return None
    return session.get(AdapterVersionRow, line.current_version_id)


def _is_copy(row: AdapterVersionRow) -> bool:
    return row.reservation_id == NO_RESERVATION and not row.tenant_id.startswith(META_TENANT)


def _clearness(plan: TrainingPlan, declared_users: int) -> float:
    """Return a release's public signal-to-noise, up to a factor that all of one shape share."""
    if plan.noise_multiplier == 0:
        return 1e6
    return declared_users * plan.sample_rate * math.sqrt(plan.steps) / plan.noise_multiplier / 100.0
