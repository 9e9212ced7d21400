"""The planner uses public numbers alone, keeps S comfortable, and declines when it cannot be."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalization.planning.model_shape import BaseModelShapeError, ModelShape, read_shape
from personalization.planning.plan import ALL_LINEAR, FEED_FORWARD, Family, Subspace, TrainingPlan
from personalization.planning.planner import (
    DAMPING,
    DAMPINGS,
    LARGEST_RATE,
    TRAVEL,
    TRAVELS,
    Declined,
    DeclineReason,
    PlannerSettings,
    clarity_of,
    james_stein,
    propose,
    trained_parameters,
)
from personalization.rounds.states import OutcomeCode
from privacy.accounting.calibration import style_vote_of
from privacy.accounting.forecast import ALIGNMENT, DEFAULT_PARAMETERS
from privacy.policy.values import TenantPrivacyPolicy

SMOL = ModelShape(layers=30, hidden=576, query=576, key_value=192, intermediate=1536)


def policy(**changes):
    return TenantPrivacyPolicy(
        **{
            "declared_users": 300,
            "lifetime_epsilon": 4.0,
            "period_epsilon": 4.0,
            "planned_releases": 1,
            **changes,
        }
    )


def test_more_users_are_damped_less_and_travel_farther_and_few_get_nothing():
    plans = [
        propose(policy(declared_users=users, lifetime_delta=1e-6, period_delta=1e-6), SMOL)
        for users in (20, 60, 100, 300, 1000, 3000)
    ]
    assert [isinstance(plan, Declined) for plan in plans] == [True, False, False, False, False, False]
    assert plans[0].code is DeclineReason.SIGNAL_TOO_SMALL
    dampings, travels = ([value(plan) for plan in plans[1:]] for value in (lambda p: p.damping, travel))
    assert dampings == sorted(dampings, reverse=True)
    assert travels == sorted(travels)
    assert dampings[0] > dampings[2] > dampings[-1] == DAMPINGS[0]
    assert TRAVELS[0] <= travels[0] < travels[2] < travels[-1] == pytest.approx(TRAVELS[1])
    starved = propose(policy(declared_users=20, lifetime_epsilon=0.2, period_epsilon=0.2), SMOL)
    assert (starved.code, starved.clarity < 0.1) == (DeclineReason.SIGNAL_TOO_SMALL, True)


def travel(plan):
    return plan.steps * plan.learning_rate


def test_damping_and_travel_follow_the_strength_of_the_release():
    chosen = policy(steps=40)
    plan = propose(chosen, SMOL)
    strength = chosen.declared_users * math.sqrt(40) * plan.sample_rate / plan.noise_multiplier
    assert plan.damping == pytest.approx(DAMPING / strength)
    assert travel(plan) == pytest.approx(TRAVEL * math.sqrt(strength))
    assert DAMPINGS[0] < plan.damping < DAMPINGS[1]  # inside the bounds, so the law was seen


def test_a_single_step_is_at_most_so_much_of_a_natural_gradient_step():
    assert propose(policy(steps=2, declared_users=2000), SMOL).learning_rate == LARGEST_RATE


def test_larger_ranks_are_taken_where_there_are_users_enough():
    limits = PlannerSettings(ranks=(4, 8, 16))
    sizes = []
    for users in (10, 20, 3000):
        chosen = policy(declared_users=users, minimum_cohort=5, lifetime_delta=1e-6, period_delta=1e-6)
        plan = propose(chosen, SMOL, settings=limits)
        sizes.append(trained_parameters(plan, SMOL))
    assert sizes == [3 * 4**2, 3 * 8**2, 3 * 16**2]


@pytest.mark.parametrize(
    ("changes", "in_metric"),
    [
        ({}, True),
        ({"ranks": (4, 8)}, True),
        ({"subspace": Subspace.WEIGHTS}, False),
        ({"families": (Family.B_ONLY,), "ranks": (1,)}, False),
        ({"max_top_layers": 4}, False),
    ],
)
def test_attention_is_trained_outside_the_metric_alone(changes, in_metric):
    plan = propose(policy(declared_users=20_000), SMOL, settings=PlannerSettings(**changes))
    assert (plan.damping > 0) is in_metric
    assert plan.target_modules == (FEED_FORWARD if in_metric else ALL_LINEAR)


def test_the_plan_carries_the_policys_numbers():
    plan = propose(policy(sample_rate=0.5, steps=12, clipping_norm=0.003, contribution_bound=5), SMOL)
    assert isinstance(plan, TrainingPlan)
    assert (plan.expected_cohort, plan.steps) == (150, 12)
    assert (plan.clipping_norm, plan.contribution_bound) == (0.003, 5)


def test_a_clipping_norm_far_above_any_gradient_is_lowered():
    assert propose(policy(clipping_norm=5.0), SMOL).clipping_norm == 1.0
    weights = PlannerSettings(subspace=Subspace.WEIGHTS)
    assert propose(policy(clipping_norm=1.0), SMOL, settings=weights).clipping_norm == 0.01


def test_fewer_steps_are_larger():
    short, long = (propose(policy(steps=steps, declared_users=20_000), SMOL) for steps in (20, 40))
    assert travel(short) == pytest.approx(travel(long))
    weights = PlannerSettings(subspace=Subspace.WEIGHTS)
    short, long = (propose(policy(steps=steps), SMOL, settings=weights) for steps in (10, 40))
    assert short.learning_rate * 10 == pytest.approx(long.learning_rate * 40) == 2.0


def test_the_public_subspace_has_its_own_step_and_clip():
    plan, plain = (
        propose(policy(steps=30), SMOL, settings=PlannerSettings(subspace=source))
        for source in (Subspace.PUBLIC_GRADIENTS, Subspace.WEIGHTS)
    )
    assert (plan.subspace, plan.clipping_norm) == (Subspace.PUBLIC_GRADIENTS, 1.0)
    assert (plain.subspace, plain.clipping_norm) == (Subspace.WEIGHTS, 0.01)
    assert travel(plan) > travel(plain) == pytest.approx(2.0)


def test_a_release_is_shrunk_more_the_noisier_it_is():
    assert propose(policy(), SMOL).shrinkage == 1.0
    limits = PlannerSettings(shrink=True)
    clear, noisy = (
        propose(policy(lifetime_epsilon=epsilon, period_epsilon=epsilon), SMOL, line_rank=16, settings=limits)
        for epsilon in (8.0, 1.0)
    )
    assert 0.5 < noisy.shrinkage < clear.shrinkage < 1.0
    assert james_stein(0.0) == 0.0


def test_a_lines_rank_never_changes():
    for rank in (4, 8, 16):
        plan = propose(policy(), SMOL, line_rank=rank)
        assert plan.rank == rank


def test_s_is_the_law_at_full_batch():
    plan = propose(policy(sample_rate=1.0), SMOL)
    d = trained_parameters(plan, SMOL)
    mu = math.sqrt(plan.steps) / plan.noise_multiplier
    assert clarity_of(plan, 300, d) == pytest.approx(300 * ALIGNMENT * mu / math.sqrt(d))


def test_the_forecast_reckons_with_what_is_trained_by_default():
    assert trained_parameters(propose(policy(), SMOL), SMOL) == DEFAULT_PARAMETERS


def test_a_policy_without_training_among_its_purposes_is_declined():
    assert propose(policy(purposes=("evaluation",)), SMOL).code is DeclineReason.PURPOSE_NOT_ALLOWED


@pytest.mark.parametrize(
    ("family", "expected"),
    [(Family.CORE, 3 * 64), (Family.B_ONLY, 8 * 5184), (Family.FULL, 8 * (5184 + 4992))],
)
def test_trained_parameters_of_each_family(family, expected):
    limits = PlannerSettings(families=(family,), max_top_layers=1, ranks=(8,))
    plan = propose(
        policy(declared_users=100_000, lifetime_delta=1e-6, period_delta=1e-6), SMOL, settings=limits
    )
    assert trained_parameters(plan, SMOL) == expected


def test_the_shape_is_read_from_a_config(tmp_path):
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path) == ModelShape(layers=2, hidden=32, query=32, key_value=16, intermediate=64)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseModelShapeError):
        read_shape(tmp_path)


@settings(max_examples=25, deadline=None)
@given(users=st.integers(10, 5000), epsilon=st.floats(0.1, 16), releases=st.integers(1, 12))
def test_every_plan_has_enough_signal_or_a_vote_on_style_or_is_declined(users, epsilon, releases):
    chosen = policy(
        declared_users=users,
        minimum_cohort=5,
        lifetime_epsilon=epsilon,
        period_epsilon=epsilon,
        planned_releases=releases,
        lifetime_delta=1e-6,
        period_delta=1e-6,
    )
    plan = propose(chosen, SMOL)
    if isinstance(plan, TrainingPlan):
        expected = clarity_of(plan, users, trained_parameters(plan, SMOL))
        if expected < PlannerSettings().smallest_clarity:  # a card makes such a release
            assert style_vote_of(chosen).leads
            assert (plan.shrinkage, plan.scaled_layers) == (james_stein(expected), 0)
            assert plan.shrinkage < james_stein(PlannerSettings().smallest_clarity) < 0.2
        else:
            assert plan.shrinkage == 1.0
    else:
        assert style_vote_of(chosen) is None or not style_vote_of(chosen).leads
        assert plan.code is DeclineReason.SIGNAL_TOO_SMALL


def test_a_round_can_be_closed_for_every_reason_of_the_planner():
    assert [OutcomeCode.of_decline(reason).value for reason in DeclineReason] == [
        one.value for one in DeclineReason
    ]


def test_one_of_the_steps_is_spent_on_the_public_part_where_there_may_be_one():
    told = propose(policy(), SMOL)
    assert told.scaled_layers == 8  # a quarter of 30, rounded up
    silent = propose(policy(styles=False), SMOL)
    assert silent.scaled_layers == 0
    few = propose(policy(steps=3), SMOL)
    assert (few.steps, few.scaled_layers) == (3, 0)
    wide = propose(policy(), SMOL, settings=PlannerSettings(subspace=Subspace.WEIGHTS))
    assert wide.scaled_layers == 0
