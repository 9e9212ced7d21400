"""Versions that no user was read for: meta starts, their copies, and adapters from public data alone.

Each is a version like any other: gated, registered, signed, announced. Only the round that stands behind it is closed
from the beginning, and its privacy facts say that nothing was spent.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from personalization.adapters.manifest import PrivacyFacts, Scope
from personalization.errors import MetaStartError
from personalization.gates.gate import PublicEvaluation, Rejected, judge
from personalization.registry import queries as registry
from personalization.registry.publishing import ZERO, Candidate
from personalization.rounds.queries import closed_round, origin_of
from privacy.guarantee import NeighboringRelation, PrivacyUnit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from sqlmodel import Session

    from personalization.planning.plan import TrainingPlan
    from personalization.registry.tables import AdapterLineRow, AdapterVersionRow
    from personalization.starts.shop import Shop

NO_RESERVATION = "post-processing"  # a meta start costs nothing, so no reservation stands behind it
PUBLIC_DATA = "public-data"  # nothing private was read at all


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """An adapter to publish without a training round.

    Attributes:
        directory: a portable adapter.
        plan: its shape.
        facts: what stands behind it; ``plan_digest`` is filled in.
        inputs: digest of everything it was made from.
        recipe: digest of how it was made.
        scope: whose it is.
        actor: who made it.
        sentence: one public sentence for the closed round.
        start: what it goes on from, and that version.
        public: what was measured on public text.
    """

    directory: Path
    plan: TrainingPlan
    facts: PrivacyFacts
    inputs: str
    recipe: str
    scope: Scope
    actor: str
    sentence: str
    start: str = ZERO
    start_version_id: str | None = None
    public: PublicEvaluation = field(default_factory=PublicEvaluation)


class UntrainedVersions:
    """Publishes them."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def publish(
        self, session: Session, line: AdapterLineRow, one: Untrained, *, period_index: int, now: datetime
    ) -> AdapterVersionRow:
        """Publish on a locked line, in the caller's transaction.

        Raises:
            MetaStartError: the gate refuses it.
        """
        verdict = judge(one.directory, one.plan, one.public)
        if isinstance(verdict, Rejected):
            raise MetaStartError(f"nothing was published. {verdict.sentence()}")
        text = json.dumps(one.plan.to_document(), sort_keys=True)
        row = closed_round(
            session, line, period_index=period_index, actor=one.actor, terms_json=text, sentence=one.sentence, now=now
        )  # fmt: skip
        row.start, row.start_version_id = one.start, one.start_version_id
        candidate = Candidate(
            directory=one.directory,
            accepted=verdict,
            base=self._shop.base.fingerprint(),
            privacy=replace(one.facts, plan_digest=one.plan.digest()),
            plan_digest=one.plan.digest(),
            data_digest=one.inputs,
            code_digest=one.recipe,
            scope=one.scope,
            actor=one.actor,
            trained=False,
        )
        version = self._shop.publisher.publish(session, line, origin_of(row), candidate, now=now)
        row.version_id = version.version_id
        session.add(row)
        session.flush()
        return registry.find_version(session, version.version_id)


def mean_facts(facts: Sequence[PrivacyFacts]) -> PrivacyFacts:
    """Return the facts of an average: nothing was spent; what its weakest contribution promised still holds.

    An average may hold several releases of one tenant, by generations before it. So what it tells of a user is bounded
    by what that tenant has spent in all, not by its largest single release.
    """
    weakest = max(facts, key=lambda one: one.cumulative_epsilon)
    proofs = sorted(one.ledger_entry_hash for one in facts)
    return PrivacyFacts(
        **{
            **asdict(weakest),
            "mechanism": "post_processing",
            "release_epsilon": weakest.cumulative_epsilon,
            "cumulative_epsilon": weakest.cumulative_epsilon,
            "target_epsilon": max(one.target_epsilon for one in facts),
            "delta": max(one.delta for one in facts),
            "reservation_id": NO_RESERVATION,
            "ledger_entry_hash": hashlib.sha256("\n".join(proofs).encode()).hexdigest(),
            "noisy_cohort": None,
        }
    )


def public_facts(plan: TrainingPlan, inputs: str) -> PrivacyFacts:
    """Return the facts of an adapter from public data: ε is 0, and a digest of the public inputs stands for a proof."""
    return PrivacyFacts(
        unit=PrivacyUnit.USER.value,
        relation=NeighboringRelation.ADD_OR_REMOVE_ONE.value,
        mechanism="public_data",
        accountant="none",
        release_epsilon=0.0,
        cumulative_epsilon=0.0,
        target_epsilon=0.0,
        delta=0.0,
        noise_multiplier=0.0,
        sample_rate=0.0,
        steps=0,
        clipping_norm=0.0,
        contribution_bound=0,
        minimum_cohort=0,
        reservation_id=PUBLIC_DATA,
        ledger_entry_hash=inputs,
        plan_digest=plan.digest(),
    )
