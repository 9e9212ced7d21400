"""The privacy policies that the demonstration gives its tenants, and their registration."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from privacy.ledger import populations
from privacy.policy import versions as policies
from privacy.policy.values import Schedule, Start, TenantPrivacyPolicy
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Engine

    from streams.demo.scenario import TenantScenario

ACTOR = "demo"
DELTA = 1e-5
SAMPLE_RATE = 1.0
STEPS = 6
CONTRIBUTION_BOUND = 4


def demo_policy(*, users: int, epsilon: float, rounds: int, now: datetime) -> TenantPrivacyPolicy:
    """Return the policy of a tenant with ``users`` users that may spend ``epsilon`` on ``rounds`` releases.

    The number of users is a declaration: whoever runs the demonstration knows it, because it asked for it.
    Rounds are opened by hand, so the schedule starts far ahead.

    Raises:
        PolicyError: a value is outside its range.
    """
    return TenantPrivacyPolicy(
        declared_users=users,
        period_epsilon=epsilon,
        lifetime_epsilon=epsilon,
        period_delta=DELTA,
        lifetime_delta=DELTA,
        contribution_bound=CONTRIBUTION_BOUND,
        minimum_cohort=max(1, users // 2),
        sample_rate=SAMPLE_RATE,
        steps=STEPS,
        planned_releases=rounds,
        schedule=Schedule(first_at=now + timedelta(days=3650), every_seconds=86_400),
        retention_days=30,
        start=Start.PREVIOUS,
        release_padding_seconds=0,  # who watches sees when training ends anyway
    )


def register(
    engine: Engine, scenarios: Sequence[TenantScenario], *, epsilon: float, rounds: int, now: datetime
) -> None:
    """Register every tenant and set its first policy.

    Raises:
        PolicyError: a value is outside its range, for example an ε that the policy does not allow.
    """
    for scenario in scenarios:
        policy = demo_policy(users=len(scenario.people), epsilon=epsilon, rounds=rounds, now=now)
        set_policy(engine, scenario.tenant, policy, now=now)


def set_policy(engine: Engine, tenant: str, policy: TenantPrivacyPolicy, *, now: datetime) -> None:
    """Give a tenant a policy; one that is not known is registered first.

    Raises:
        PolicyError: the policy is not allowed.
    """
    with transaction(engine) as session:
        if not policies.registered_among(session, {tenant}):
            policies.register_tenant(session, tenant, actor=ACTOR, now=now)
        populations.set_policy(
            session,
            tenant,
            policy.to_document(),
            actor=ACTOR,
            reason="policy of the demonstration",
            now=now,
        )
