"""The plan of MAML's inner loop is one for public data, whatever the planner asks of a tenant's release."""

from __future__ import annotations

import pytest

from personalization.planning.model_shape import ModelShape
from personalization.planning.planner import propose
from personalization.training.jobs.recipes import MamlRecipe
from personalization.training.starts.maml import _inner_plan
from privacy.policy.values import TenantPrivacyPolicy

SMOL = ModelShape(layers=30, hidden=576, query=576, key_value=192, intermediate=1536)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_tenants_plan_becomes_one_without_noise_metric_or_scales(steps):
    policy = TenantPrivacyPolicy(
        declared_users=300, lifetime_epsilon=4.0, period_epsilon=4.0, planned_releases=1
    )
    plan = propose(policy, SMOL)
    assert plan.scaled_layers > 0
    inner = _inner_plan(plan, MamlRecipe(inner_steps=steps), 5)
    assert (inner.steps, inner.scaled_layers, inner.damping, inner.noise_multiplier) == (steps, 0, 0.0, 0.0)
    assert (inner.family, inner.rank, inner.target_modules) == (plan.family, plan.rank, plan.target_modules)
