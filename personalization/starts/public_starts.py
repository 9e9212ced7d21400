"""Starts from public data: first-order MAML for the fleet, a synthetic warm start for one tenant; both cost nothing.

The work runs in a training child, outside any transaction; what comes back is published like any version, with ε = 0.
The MAML start stands on the meta lines until enough tenants share adapters; their first generation goes on from it.
A warm start stands on the tenant's own line and is where its first training begins.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.adapters.manifest import Scope
from personalization.errors import WarmStartError
from personalization.gates.forgetting import public_checks
from personalization.gates.gate import PublicEvaluation
from personalization.planning import planner
from personalization.planning.plan import TrainingPlan
from personalization.registry import queries as registry
from personalization.starts.copies import PERIOD_WITHOUT_POLICY
from personalization.starts.meta_versions import ALL_DOMAINS, ensure_meta_line, meta_tenant
from personalization.starts.untrained import (
    NO_RESERVATION,
    PUBLIC_DATA,
    Untrained,
    UntrainedVersions,
    public_facts,
)
from personalization.suites.verdict import SuiteTerms, suite_checks
from personalization.training.jobs.job import PublicJob
from personalization.training.public.styles import style_tasks
from privacy.audit import trail as audit_trail
from privacy.canonical import digest_of
from privacy.errors import CalibrationError, PolicyError
from privacy.policy import versions as policies
from privacy.policy.values import DEFAULT_DOMAIN, DataPurpose, TenantPrivacyPolicy, period_index
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlmodel import Session

    from personalization.planning.plan import PerformanceFlags
    from personalization.planning.planner import PlannerSettings
    from personalization.registry.tables import AdapterLineRow
    from personalization.starts.copies import MetaCopies
    from personalization.starts.shop import Shop
    from personalization.training.jobs.job import TenantResult
    from personalization.training.jobs.recipes import MamlRecipe, StyleGuide

ACTOR = "meta"
# A tenant that nobody declared anything of gets the shape that one with plenty of users would train.
_PLENTY = TenantPrivacyPolicy(
    declared_users=100_000, period_epsilon=8.0, period_delta=1e-7, lifetime_delta=1e-7, planned_releases=1
)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What one build did."""

    published: tuple[str, ...] = ()  # served names of meta starts
    served_to: tuple[str, ...] = ()  # served names on tenants' lines
    kept: int = 0  # shapes whose meta start was made from tenants' adapters, or is this one already


class PublicStarts:
    """Makes and publishes starts from public data.

    Args:
        shop: what versions are made with.
        run: runs a public job in a child process.
        copies: serves meta starts.
        planner_settings: public limits that give the adapters' shapes.
        flags: device and threads of the child.
        max_public_text_change: limit of the forgetting gate; None has no limit.
        suites: how much of the public suites each start is asked, and what is refused.
    """

    def __init__(
        self,
        shop: Shop,
        *,
        run: Callable[[PublicJob], TenantResult],
        copies: MetaCopies,
        planner_settings: PlannerSettings | None = None,
        flags: PerformanceFlags,
        max_public_text_change: float | None = None,
        suites: SuiteTerms | None = None,
    ) -> None:
        self._engine = shop.engine
        self._versions = UntrainedVersions(shop)
        self._base = shop.base
        self._shape = shop.shape
        self._run = run
        self._copies = copies
        self._planner_settings = planner_settings
        self._flags = flags
        self._limit = max_public_text_change
        self._suites = suites or SuiteTerms()

    def build_maml(self, recipe: MamlRecipe, *, now: datetime) -> Built:
        """Make a MAML start for each shape that a tenant would train, and serve it where nothing better is.

        Raises:
            TrainingError: the child failed.
            MetaStartError: the gate refuses the result.
        """
        with transaction(self._engine) as session:
            plans = self._wanted(session)
        inputs = digest_of([recipe.to_document(), _tasks_digest()])
        published, kept = [], 0
        for plan in plans:
            with transaction(self._engine) as session:
                if not self._replaceable(session, plan, inputs):
                    kept += 1
                    continue
            with tempfile.TemporaryDirectory(prefix="discreet-maml-") as folder:
                result = self._result(plan, Path(folder), recipe)
                with transaction(self._engine) as session:
                    if not self._replaceable(session, plan, inputs):
                        kept += 1
                        continue
                    owner = meta_tenant(self._base.fingerprint().digest(), plan)
                    line = ensure_meta_line(session, owner, ALL_DOMAINS, now)
                    one = self._untrained(
                        plan,
                        result,
                        inputs,
                        Scope.META,
                        ACTOR,
                        "A meta start from public data was published.",
                    )
                    row = self._versions.publish(session, line, one, period_index=0, now=now)
                    published.append(row.served_name)
        with transaction(self._engine) as session:
            served = self._copies.serve_all(session, now=now)
        return Built(published=tuple(published), served_to=tuple(served), kept=kept)

    def warm_start(self, tenant_id: str, domain: str, guide: StyleGuide, *, actor: str, now: datetime) -> str:
        """Train a line's start on synthetic interactions under the tenant's public style guide; return its name.

        Raises:
            UnknownTenantError: no such tenant is registered.
            PolicyError: its policy has no such domain.
            WarmStartError: the line already serves a version that was trained on the tenant's users.
            TrainingError: the guide cannot be used, or the child failed.
            MetaStartError: the gate refuses the result.
        """
        with transaction(self._engine) as session:
            policy = _policy_of(session, tenant_id, domain)
            line = registry.find_line(session, tenant_id, domain)
            _refuse_trained(session, line)
            plan = self._shape_for(policy, None if line is None else line.rank)
        with tempfile.TemporaryDirectory(prefix="discreet-warm-") as folder:
            result = self._result(plan, Path(folder), guide)
            with transaction(self._engine) as session:
                locked = registry.lock_line(
                    session, registry.ensure_line(session, tenant_id, domain, now=now).line_ref
                )
                _refuse_trained(session, locked)
                inputs = digest_of(guide.to_document())
                one = self._untrained(
                    plan, result, inputs, Scope.TENANT, actor, "A synthetic warm start was published."
                )
                period = (
                    period_index(now, PERIOD_WITHOUT_POLICY) if policy is None else policy.period_index(now)
                )
                row = self._versions.publish(session, locked, one, period_index=period, now=now)
                audit_trail.append(
                    session,
                    tenant_id,
                    actor=actor,
                    action="adapter.warm_started",
                    detail={"served_name": row.served_name, "domain": domain, "style_guide": inputs},
                    now=now,
                )
        return row.served_name

    def template(self, plan: TrainingPlan, folder: Path) -> Path:
        """Return the adapter of this shape that changes nothing, made under ``folder``."""
        return self._result(plan, folder, None).adapter

    def default_plan(self) -> TrainingPlan:
        """Return the public shape that a tenant with plenty of users would train."""
        return self._shape_for(_PLENTY, None)

    def _result(self, plan: TrainingPlan, folder: Path, work: StyleGuide | MamlRecipe | None) -> TenantResult:
        return self._run(
            PublicJob(
                base_model=str(self._base.directory()),
                plan=plan,
                output=folder,
                work=work,
                flags=self._flags,
                suites=self._suites.depth,
            )
        )

    def _untrained(
        self,
        plan: TrainingPlan,
        result: TenantResult,
        inputs: str,
        scope: Scope,
        actor: str,
        sentence: str,
    ) -> Untrained:
        return Untrained(
            directory=result.adapter,
            plan=plan,
            facts=public_facts(plan, inputs),
            inputs=inputs,
            recipe=inputs,
            scope=scope,
            actor=actor,
            sentence=sentence,
            public=PublicEvaluation(
                checks=(
                    *public_checks(result.public_losses, result.noise_norm, self._limit),
                    *suite_checks(result.suites, self._suites),
                ),
                activation=result.activation,
                suites=result.suites,
            ),
        )

    def _wanted(self, session: Session) -> list[TrainingPlan]:
        """Return one plan for each shape that a registered tenant would train; the default one where there is none."""
        digest = self._base.fingerprint().digest()
        found: dict[str, TrainingPlan] = {}
        for tenant in policies.list_tenants(session):
            if tenant.policy is not None:
                plan = self._shape_for(tenant.policy.policy, None)
                found.setdefault(meta_tenant(digest, plan), plan)
        return list(found.values()) or [self.default_plan()]

    def _shape_for(self, policy: TenantPrivacyPolicy | None, line_rank: int | None) -> TrainingPlan:
        for one in (policy, _PLENTY):
            if one is None or DataPurpose.TRAINING not in one.purposes:
                continue
            try:
                plan = planner.propose(one, self._shape, line_rank=line_rank, settings=self._planner_settings)
            except CalibrationError:
                continue
            if isinstance(plan, TrainingPlan):
                public = replace(plan, shrinkage=1.0, scaled_layers=0)
                return public.with_mechanism(noise_multiplier=0.0)
        raise WarmStartError("the planner's limits allow no adapter at all; allow a family and a rank")

    def _replaceable(self, session: Session, plan: TrainingPlan, inputs: str) -> bool:
        owner = meta_tenant(self._base.fingerprint().digest(), plan)
        current = registry.current_version(session, registry.find_line(session, owner, ALL_DOMAINS))
        if current is None:
            return True
        made_from = registry.read_version(current).manifest.lineage.data_digest
        return current.reservation_id == PUBLIC_DATA and made_from != inputs


def _policy_of(session: Session, tenant_id: str, domain: str) -> TenantPrivacyPolicy | None:
    version = policies.tenant(session, tenant_id).policy
    allowed = version.policy.domains if version is not None else (DEFAULT_DOMAIN,)
    if domain not in allowed:
        raise PolicyError(
            f"domain {domain!r} is not in the tenant's policy; allowed are {', '.join(allowed)}"
        )
    return None if version is None else version.policy


def _refuse_trained(session: Session, line: AdapterLineRow | None) -> None:
    current = registry.current_version(session, line)
    if current is not None and current.reservation_id not in {NO_RESERVATION, PUBLIC_DATA}:
        raise WarmStartError(
            f"the line serves {current.served_name!r}, which was trained on the tenant's users; withdraw it first"
        )


def _tasks_digest() -> str:
    text = repr(
        [
            (example.prompt, example.completion)
            for task in style_tasks()
            for user in task
            for example in user.examples
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()
