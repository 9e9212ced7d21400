"""Compute, publish and withdraw meta starts, generation by generation.

A meta start is a version like any other: registered, signed, announced, with ``scope: meta``. Its line belongs to no
tenant (``META_TENANT`` is no valid tenant id), one line per base model, adapter shape and domain. Tenants that serve
nothing of their own get copies of it (``meta_copies``).

Only released adapters of tenants that opted in are read. A new set of them makes a new generation, which goes on from
the one before. When a contributor opts out or its version is withdrawn, ``refresh`` withdraws every generation that
holds something of it, those that went on from such a one, and their copies; then it computes anew from what is left.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.adapters.manifest import Scope, VersionState
from personalization.planning.plan import Family
from personalization.planning.planner import clarity_of, trained_parameters
from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.registry.publishing import ZERO
from personalization.registry.withdrawal import withdraw_version
from personalization.rounds import queries as rounds
from personalization.starts.averaging import Released, choose, meta_start
from personalization.starts.copies import MetaCopies, is_copy
from personalization.starts.meta_versions import (
    ALL_DOMAINS,
    contributions_of,
    ensure_meta_line,
    meta_tenant,
    meta_versions,
)
from personalization.starts.recipe import MetaRecipe
from personalization.starts.tables import MetaContributionRow
from personalization.starts.untrained import PUBLIC_DATA, Untrained, UntrainedVersions, mean_facts
from privacy.canonical import digest_of
from privacy.policy import versions as policies
from privacy.policy.values import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.planning.plan import TrainingPlan
    from personalization.registry.tables import AdapterVersionRow
    from personalization.starts.shop import Shop

ACTOR = "meta"
GENERATION = "previous"  # the start of a generation that goes on from the one before
LEFT = "meta_contributor_left"


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


class MetaStarts:
    """Keeps the meta starts of one base model up to date.

    Args:
        shop: what versions are made with.
        recipe: public numbers of the computation.
        averages: whether to compute averages; False where a tenant-level mechanism makes the starts instead.
    """

    def __init__(self, shop: Shop, *, recipe: MetaRecipe | None = None, averages: bool = True) -> None:
        self._artifacts = shop.artifacts
        self._events = shop.events
        self._base_digest = shop.base.fingerprint().digest()
        self._shape = shop.shape
        self._recipe = recipe or MetaRecipe()
        self._averages = averages
        self._versions = UntrainedVersions(shop)
        self.copies = MetaCopies(shop)

    def refresh(self, session: Session, *, now: datetime) -> Refreshed:
        """Bring every meta start and every copy of one up to date, in the caller's transaction; safe to repeat.

        Raises:
            MetaStartError: a combination that should fit does not share one subspace.
            ArtifactError: a released adapter's files are gone or changed.
        """
        contributions = self.contributions(session)
        withdrawn = self._withdraw_stale(session, {one.row.version_id for one in contributions}, now)
        published: list[str] = []
        waiting: dict[str, int] = {}
        groups = grouped(contributions) if self._averages else {}
        for (owner, domain), group in sorted(groups.items()):
            chosen = choose([one.released for one in group], self._recipe)
            if len(chosen) < self._recipe.minimum_tenants:
                if domain == ALL_DOMAINS:
                    waiting[owner] = len(chosen)
                continue
            taken = {one.version_id for one in chosen}
            members = [one for one in group if one.row.version_id in taken]
            name = self._publish(session, owner, domain, members, now)
            if name is not None:
                published.append(name)
        served = self.copies.serve_all(session, now=now)
        return Refreshed(
            published=tuple(published), withdrawn=tuple(withdrawn), served_to=tuple(served), waiting=waiting
        )

    def contributions(self, session: Session) -> list[Contribution]:
        """Return the current released adapters of tenants that opted in, one per tenant and domain; see ``opened``."""
        found = []
        for tenant in policies.list_tenants(session):
            if tenant.policy is None or not tenant.policy.policy.sharing_opt_in:
                continue
            for domain in tenant.policy.policy.domains:
                row = registry.current_version(session, registry.find_line(session, tenant.tenant_id, domain))
                if (
                    row is None
                    or row.state != VersionState.PUBLISHED.value
                    or row.base_digest != self._base_digest
                    or row.reservation_id == PUBLIC_DATA
                ):
                    continue
                manifest = registry.read_version(row).manifest
                if manifest.scope is not Scope.TENANT or not Family(manifest.lora.family).averageable:
                    continue
                plan = rounds.plan_of(session, row.round_id)
                if plan is None:
                    continue
                released = Released(
                    tenant_id=tenant.tenant_id,
                    version_id=row.version_id,
                    directory=Path(),  # checked and opened when it is used: looking again often stays cheap
                    clarity=self._clarity(plan, tenant.policy.policy.declared_users),
                )
                found.append(Contribution(released=released, row=row, plan=plan, domain=domain))
        return found

    def opened(self, released: Released) -> Released:
        """Return a contribution with the directory of its files, checked against their digests.

        Raises:
            ArtifactError: the files are gone or changed.
        """
        return replace(released, directory=self._artifacts.open(released.version_id))

    def _clarity(self, plan: TrainingPlan, declared_users: int) -> float:
        """Return the public signal-to-noise S of a release; the curriculum goes by it."""
        if plan.noise_multiplier == 0:
            return 1e6
        return clarity_of(plan, declared_users, trained_parameters(plan, self._shape))

    def _publish(
        self, session: Session, owner: str, domain: str, group: Sequence[Contribution], now: datetime
    ) -> str | None:
        """Publish the group's next generation unless the line's current one has exactly these contributions."""
        line = ensure_meta_line(session, owner, domain, now)
        recipe = digest_of(asdict(self._recipe))
        inputs = digest_of([sorted(one.row.version_id for one in group), recipe])
        before = registry.current_version(session, line)
        facts = [registry.read_version(one.row).manifest.privacy for one in group]
        if before is not None:
            manifest = registry.read_version(before).manifest
            if manifest.lineage.data_digest == inputs:
                return None
            facts.append(manifest.privacy)
        with tempfile.TemporaryDirectory(prefix="discreet-meta-") as folder:
            directory = Path(folder) / "adapter"
            weights = meta_start(
                [self.opened(one.released) for one in group],
                self._recipe if before is not None else replace(self._recipe, outer_rate=1.0),
                directory,
                previous=None if before is None else self._artifacts.open(before.version_id),
            )
            version = self._versions.publish(
                session,
                line,
                Untrained(
                    directory=directory,
                    plan=group[0].plan,
                    facts=mean_facts(facts),
                    inputs=inputs,
                    recipe=recipe,
                    scope=Scope.META,
                    actor=ACTOR,
                    sentence="A meta start was published.",
                    start=ZERO if before is None else GENERATION,
                    start_version_id=None if before is None else before.version_id,
                ),
                period_index=0,
                now=now,
            )
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

    def _withdraw_stale(self, session: Session, eligible: set[str], now: datetime) -> list[str]:
        """Withdraw what holds something of a contributor that may no longer be used, and copies of it."""
        left: list[str] = []
        act = Act(
            actor=ACTOR,
            reason="A tenant whose adapter was part of it takes part no longer.",
            code=LEFT,
            now=now,
        )
        rows = meta_versions(session)
        for row in rows:
            if row.state == VersionState.WITHDRAWN.value:
                continue
            parts = [part.contributor_id for part in contributions_of(session, row.version_id)]
            if parts and not self._averages:
                eligible = set()  # plain averages do not hide a tenant: none may be left
            # A contributor that was merely replaced by the tenant's next version is still shared.
            if all(
                part in eligible or (self._averages and self._still_shared(session, part)) for part in parts
            ):
                continue
            left += withdraw_version(session, self._events, row.version_id, act)
        gone = [row.version_id for row in rows if row.state == VersionState.WITHDRAWN.value]
        for copy in registry.started_from(session, gone):
            if is_copy(copy) and copy.state != VersionState.WITHDRAWN.value:
                left += withdraw_version(session, self._events, copy.version_id, act)
        return left

    def _still_shared(self, session: Session, version_id: str) -> bool:
        row = registry.get_version(session, version_id)
        if row is None or row.state == VersionState.WITHDRAWN.value:
            return False
        version = policies.current_policy(session, row.tenant_id)
        return version is not None and version.policy.sharing_opt_in


def grouped(contributions: Sequence[Contribution]) -> dict[tuple[str, str], list[Contribution]]:
    """Return what may be averaged together: per shape and domain, and per shape over all domains."""
    groups: dict[tuple[str, str], list[Contribution]] = {}
    for one in contributions:
        manifest = registry.read_version(one.row).manifest
        owner = meta_tenant(one.row.base_digest, manifest.line_shape)
        if one.domain != DEFAULT_DOMAIN:
            groups.setdefault((owner, one.domain), []).append(one)
        everyone = groups.setdefault((owner, ALL_DOMAINS), [])
        if all(other.released.tenant_id != one.released.tenant_id for other in everyone):
            everyone.append(one)  # a tenant with several lines counts once, by its first domain
    return groups
