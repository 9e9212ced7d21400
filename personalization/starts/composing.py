"""Compose two lines of a tenant into a third: the mean of what they released, for requests that are about both.

Both were released under the tenant's own guarantee, so a function of them is post-processing and costs no ε; users of
both lines are the same tenant's, and what its ledger has charged in all bounds what the mean tells. Adapters of one
base, family, rank and modules share the frozen factor ``A``, so the mean of their ``B`` factors is exactly the adapter
whose update is the mean of the updates: each of the two acts at half its strength. Public parts, which are made of each
line's own style card, are left out. The composed line is named after both; a withdrawal of either part reaches it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from personalization.adapters.manifest import AND, BLEND_CHECK, COMPOSED, GateCheck, Scope, VersionState
from personalization.errors import MetaStartError
from personalization.gates.forgetting import public_checks
from personalization.gates.gate import PublicEvaluation
from personalization.registry import queries as registry
from personalization.rounds import queries as rounds
from personalization.starts.averaging import mean_of
from personalization.starts.untrained import Untrained, UntrainedVersions, mean_facts
from personalization.suites.verdict import SuiteTerms, suite_checks
from personalization.training.jobs.job import SuiteJob
from privacy.audit import trail as audit_trail
from privacy.canonical import digest_of
from privacy.policy import versions as policies
from privacy.policy.values import DOMAIN
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlmodel import Session

    from personalization.planning.plan import PerformanceFlags
    from personalization.registry.tables import AdapterVersionRow
    from personalization.starts.shop import Shop
    from personalization.training.jobs.job import TenantResult

EACH: Final = 0.5  # share of each part
_MADE: Final = "composed"


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A composed version.

    Attributes:
        domain: its line's, named after both parts.
        served_name: under which servers hold it.
        parts: served names of what it was made of.
    """

    domain: str
    served_name: str
    parts: tuple[str, str]


def domain_of_both(one: str, other: str) -> str:
    """Return the domain of the line that two are composed into.

    Raises:
        MetaStartError: they are one, or both names together are too long for a domain.
    """
    name = AND.join(sorted((one, other)))
    if one == other or not DOMAIN.match(name):
        raise MetaStartError(
            f"{name[:80]!r} is no domain of two lines; name two that differ, with short names"
        )
    return name


class Compositions:
    """Makes composed versions.

    Args:
        shop: what versions are made with.
        run: measures an adapter on public text in a child process.
        flags: how it computes.
        limit: allowed relative increase of the loss on public text; None measures without one.
    """

    def __init__(
        self,
        shop: Shop,
        *,
        run: Callable[[SuiteJob], tuple[TenantResult, ...]],
        flags: PerformanceFlags,
        limit: float | None,
    ) -> None:
        self._shop = shop
        self._run = run
        self._flags = flags
        self._limit = limit

    def compose(self, tenant_id: str, one: str, other: str, *, actor: str, now: datetime) -> Composed:
        """Publish the mean of what two domains' lines serve; to everybody at once, like every untrained version.

        Raises:
            LineNotFoundError: a line does not exist.
            MetaStartError: they cannot be composed, the gate refuses the mean, or one has changed meanwhile.
            ArtifactError: files are gone or changed.
            TrainingError: the mean could not be measured.
        """
        domain = domain_of_both(one, other)
        with transaction(self._shop.engine) as session:
            parts = [self._part(session, tenant_id, each, now) for each in sorted((one, other))]
            policy = policies.current_policy(session, tenant_id)
            terms = SuiteTerms() if policy is None else SuiteTerms.of_policy(policy.policy.suites)
        with tempfile.TemporaryDirectory(prefix="discreet-composed-") as folder:
            directory = Path(folder) / "adapter"
            mean_of([self._shop.artifacts.open(part) for part in parts], directory)
            (told,) = self._run(
                SuiteJob(
                    base_model=str(self._shop.base.directory()),
                    adapters={_MADE: directory},
                    depth=terms.depth,
                    flags=self._flags,
                )
            )
            with transaction(self._shop.engine) as session:
                return self._publish(session, tenant_id, domain, parts, directory, told, terms, actor, now)

    def _part(self, session: Session, tenant_id: str, domain: str, now: datetime) -> str:
        line = registry.require_line(session, tenant_id, domain)
        row = registry.current_version(session, line)
        if row is None or row.state != VersionState.PUBLISHED.value:
            raise MetaStartError(f"domain {domain!r} serves the base model; publish a version first")
        if row.published_at > now:  # held until its slot ends; the mean would tell of it before
            raise MetaStartError(
                f"what domain {domain!r} serves next is told at {row.published_at.isoformat()}; compose after it"
            )
        manifest = registry.read_version(row).manifest
        if (
            row.base_digest != self._shop.base.fingerprint().digest()
            or manifest.lineage.start == COMPOSED
            or manifest.scope is not Scope.TENANT  # a copy of a meta start is of other tenants' users
        ):
            raise MetaStartError(
                f"what domain {domain!r} serves is composed itself, a meta start, or of another base; name lines that "
                "were trained"
            )
        return row.version_id

    def _publish(
        self,
        session: Session,
        tenant_id: str,
        domain: str,
        parts: list[str],
        directory: Path,
        told: TenantResult,
        terms: SuiteTerms,
        actor: str,
        now: datetime,
    ) -> Composed:
        rows = [self._locked(session, part) for part in parts]
        made = registry.ensure_line(session, tenant_id, domain, now=now)
        line = registry.lock_line(session, made.line_ref)
        plan = rounds.plan_of(session, rows[0].round_id)
        if plan is None:
            raise MetaStartError("the round of a part has no plan any more; train its line again")
        first, second = (registry.read_version(row).manifest for row in rows)
        inputs = digest_of(sorted(parts))
        version = UntrainedVersions(self._shop).publish(
            session,
            line,
            Untrained(
                directory=directory,
                plan=plan,
                facts=mean_facts([first.privacy, second.privacy]),
                inputs=inputs,
                recipe=digest_of([_MADE, EACH]),
                scope=Scope.TENANT,
                actor=actor,
                sentence="Two lines of the tenant were composed.",
                start=COMPOSED,
                start_version_id=parts[0],
                public=PublicEvaluation(
                    checks=(
                        *public_checks(told.public_losses, None, self._limit),
                        *suite_checks(told.suites, terms),
                        GateCheck(name=BLEND_CHECK, passed=True, value=EACH, detail=parts[1]),
                    ),
                    activation=told.activation,
                    suites=told.suites,
                ),
            ),
            period_index=first.lineage.period_index,
            now=now,
        )
        names = (rows[0].served_name, rows[1].served_name)
        audit_trail.append(
            session,
            tenant_id,
            actor=actor,
            action="adapter.composed",
            detail={"served_name": version.served_name, "parts": list(names)},
            now=now,
        )
        return Composed(domain=domain, served_name=version.served_name, parts=names)

    def _locked(self, session: Session, version_id: str) -> AdapterVersionRow:
        """Return a part whose line is locked, and that its line still serves: a withdrawal must find the mean."""
        row = registry.find_version(session, version_id)
        line = registry.lock_line(session, row.line_ref)
        session.refresh(row)
        if line.current_version_id != version_id or row.state != VersionState.PUBLISHED.value:
            raise MetaStartError("a part was replaced or withdrawn meanwhile; compose the lines again")
        return row
