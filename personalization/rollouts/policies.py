"""What a tenant's policy says about rollouts, as a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.rollouts.values import ComparisonPlan, Plan
from privacy.accounting.calibration import comparison_of

if TYPE_CHECKING:
    from privacy.policy.values import TenantPrivacyPolicy


def plan_for(policy: TenantPrivacyPolicy) -> Plan | None:
    """Return the plan of a tenant's rollouts; ``None`` where every version goes to everybody at once."""
    asked = policy.rollout
    if not asked.steps:
        return None
    mechanism = comparison_of(policy)
    comparison = None
    if mechanism is not None:
        comparison = ComparisonPlan(
            mechanism=mechanism,
            share=asked.steps[-1] / 100,
            look_seconds=asked.look_seconds,
            reactions_per_user=asked.reactions_per_user,
            reacting_users=asked.reacting_users,
            undecided=asked.undecided,
        )
    return Plan(
        steps=asked.steps,
        bake_seconds=asked.bake_seconds,
        guards=tuple(sorted(asked.guards.items())),
        served=asked.served,
        hold_seconds=asked.hold_seconds,
        comparison=comparison,
    )
