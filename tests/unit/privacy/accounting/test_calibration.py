"""Calibration finds the smallest sufficient noise, and refuses claims that would be false or empty."""

import dataclasses

import pytest

from privacy.accounting.calibration import (
    COUNT_SHARE,
    FOUND_SHARE,
    LARGEST_VOTE_NOISE,
    LEADING_SHARE,
    OPENING_WEIGHT,
    STYLE_SHARE,
    UNKNOWN_KEYS,
    PlannedSchedule,
    asks_for_terms,
    calibrate,
    calibrate_policy,
    cohort_count,
    comparison_of,
    fits,
    release_mechanisms,
    round_curve,
    schedule_of,
    style_vote,
    style_vote_of,
    users_to_find,
)
from privacy.accounting.composition import best_epsilon, curve_of
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import SELECTION_SHARE, AccountSettings, BudgetCaps, FilterRule
from privacy.accounting.forecast import SpentBudget, noise_for
from privacy.errors import CalibrationError
from privacy.mechanisms.noisy_comparison import NoisyComparison
from privacy.mechanisms.partition_selection import LEADING_KEYS, LEADING_WEIGHT
from privacy.policy.values import TenantPrivacyPolicy, amended

CAPS = BudgetCaps(period_epsilon=2.0, period_delta=1e-6, lifetime_epsilon=6.0, lifetime_delta=1e-6)
SCHEDULE = PlannedSchedule(
    caps=CAPS, declared_users=400, sample_rate=0.1, steps=50, releases=12, releases_per_period=3
)


@pytest.mark.parametrize("rule", FilterRule)
def test_the_multiplier_is_enough_and_hardly_more(rule):
    schedule = dataclasses.replace(SCHEDULE, settings=AccountSettings(rule=rule))
    multiplier = calibrate(schedule)
    assert fits(schedule, multiplier)
    assert not fits(schedule, multiplier - 2e-4)
    assert multiplier == round(multiplier, 4)


@pytest.mark.parametrize(
    "change",
    [{"releases": 24, "releases_per_period": 6}, {"steps": 100}, {"sample_rate": 0.2}],
)
def test_more_of_anything_needs_more_noise(change):
    assert calibrate(dataclasses.replace(SCHEDULE, **change)) > calibrate(SCHEDULE)


def test_every_planned_release_of_a_policy_is_admitted_and_no_more():
    policy = TenantPrivacyPolicy(
        declared_users=300, sample_rate=0.2, lifetime_epsilon=5.0, planned_releases=20
    )
    release = sum(
        (curve_of(one) for one in release_mechanisms(policy, calibrate_policy(policy))), RdpCurve.zero()
    )
    opened = AccountSettings().opened(5.0, 1e-6, release)
    per_period = schedule_of(policy).releases_per_period
    assert per_period == 5  # a weekly schedule in 30 days
    period = AccountSettings().opened(2.0, 1e-6, release)
    fits_lifetime = not opened.admits(release * 20, release)
    fits_period = not period.admits(release * per_period, release)
    assert opened.admits(release * 19, release)
    assert period.admits(release * (per_period - 1), release)
    assert fits_lifetime or fits_period  # one of the two caps is the reason for the noise


def test_cohort_counts_take_a_tenth():
    count = curve_of(cohort_count(CAPS, releases=12, releases_per_period=3))
    opened = AccountSettings().opened(6.0, 1e-6, count)
    assert opened.used_fraction(count * 12) <= COUNT_SHARE


def test_votes_share_what_is_kept_for_them_and_fit_to_the_last_unit():
    vote = style_vote(CAPS, declared_users=1000, releases=12, releases_per_period=3)
    life = AccountSettings().opened(6.0, 1e-6, curve_of(vote))
    assert vote.delta == pytest.approx(SELECTION_SHARE * 1e-6 / 12)
    assert life.admits(curve_of(vote) * 11, curve_of(vote))
    assert not life.admits(curve_of(vote) * 12, curve_of(vote))
    for delta, releases in ((1e-15, 1000), (3.3e-7, 7), (1e-3, 1)):
        caps = dataclasses.replace(CAPS, lifetime_delta=delta, period_delta=delta)
        small = style_vote(caps, declared_users=10**7, releases=releases, releases_per_period=releases)
        opened = AccountSettings().opened(6.0, delta, curve_of(small))
        assert (curve_of(small) * releases).delta <= opened.selection_budget
        assert (curve_of(small) * releases).delta > 0.99 * opened.selection_budget


@pytest.mark.parametrize("users", [100, 300, 1000, 10_000, 10**9])
def test_a_vote_takes_no_more_than_its_share_and_finds_what_it_is_for(users):
    vote = style_vote(CAPS, declared_users=users, releases=12, releases_per_period=3)
    if users == 100:  # more than half of them would have to open alike, but where the vote leads
        assert vote.unknown_keys == LEADING_KEYS
        taken = []
        for epsilon, count in ((6.0, 12), (2.0, 3)):
            opened = AccountSettings().opened(epsilon, 1e-6, curve_of(vote))
            taken.append(curve_of(vote).at(opened.orders[0]) * count / opened.budget(opened.orders[0]))
        assert STYLE_SHARE < max(taken) <= LEADING_SHARE
        assert users_to_find(vote, LEADING_WEIGHT) / users < 0.5
        assert style_vote(CAPS, declared_users=50, releases=12, releases_per_period=3) is None
        return
    assert vote.unknown_keys == UNKNOWN_KEYS
    for epsilon, count in ((6.0, 12), (2.0, 3)):
        opened = AccountSettings().opened(epsilon, 1e-6, curve_of(vote))
        order = opened.orders[0]
        assert curve_of(vote).at(order) * count <= STYLE_SHARE * opened.budget(order)
    found = users_to_find(vote, OPENING_WEIGHT) / users
    if vote.noise_multiplier < LARGEST_VOTE_NOISE:
        assert found >= FOUND_SHARE
    assert found <= (0.5 if users < 1000 else 0.0801 if users >= 10_000 else 0.15)


def test_a_leading_vote_leaves_readings_of_drift_their_share_and_no_noise_is_out_of_range():
    few = TenantPrivacyPolicy(
        declared_users=50, lifetime_epsilon=2.0, period_epsilon=2.0, lifetime_delta=1e-5, period_delta=1e-5,
        planned_releases=1, sample_rate=1.0, steps=8,
    )  # fmt: skip
    leading = style_vote_of(few)
    assert leading.leads
    for share in (0.05, 0.1, 0.15):
        read = few.model_copy(update={"drift": few.drift.model_copy(update={"read": True, "share": share})})
        assert style_vote_of(read).noise_multiplier > leading.noise_multiplier
        assert calibrate_policy(read) < 10 * calibrate_policy(few), (
            "else nothing is left for the round itself"
        )
    tiny = dataclasses.replace(CAPS, lifetime_epsilon=0.05, period_epsilon=0.05, lifetime_delta=1e-8)
    assert style_vote(tiny, declared_users=10**6, releases=1100, releases_per_period=110) is None


def test_terms_are_asked_for_by_usual_votes_alone():
    for users, asked in ((300, True), (50, False), (20, False)):
        policy = TenantPrivacyPolicy(
            declared_users=users, lifetime_epsilon=2.0, period_epsilon=2.0, planned_releases=1, terms=True,
            lifetime_delta=1e-5, period_delta=1e-5,
        )  # fmt: skip
        assert asks_for_terms(policy) == asked
        assert not asks_for_terms(policy.model_copy(update={"terms": False}))


def test_a_policy_without_styles_charges_no_vote_and_needs_less_noise():
    policy = TenantPrivacyPolicy(declared_users=1000)
    without = policy.model_copy(update={"styles": False})
    assert style_vote_of(without) is None
    assert style_vote_of(policy) in release_mechanisms(policy, 3.0)
    assert len(release_mechanisms(without, 3.0)) == 2
    assert calibrate_policy(without) < calibrate_policy(policy)
    starved = TenantPrivacyPolicy(declared_users=60)
    assert style_vote_of(starved) is None
    assert calibrate_policy(starved) == calibrate_policy(starved.model_copy(update={"styles": False}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"declared_users": 2_000_000, "sample_rate": 0.001}, "below 1/2000000"),
        ({"relation": "replace_one"}, "add_or_remove_one"),
        ({"sample_rate": 0.01, "declared_users": 300}, "nobody"),
        ({"sample_rate": 0.0}, "sample rate"),
        ({"releases": 0}, "at least 1"),
        ({"releases": 100_000, "releases_per_period": 100_000, "steps": 100_000}, "do not fit"),
        ({"caps": dataclasses.replace(CAPS, lifetime_epsilon=80.0)}, "0.01 to 64"),
        ({"caps": dataclasses.replace(CAPS, period_epsilon=0.005)}, "0.01 to 64"),
    ],
)
def test_unsound_requests_are_refused(change, says):
    with pytest.raises(CalibrationError, match=says):
        calibrate(dataclasses.replace(SCHEDULE, **change))


def test_every_planned_release_keeps_room_for_its_comparison():
    changes = {
        "declared_users": 1_000,
        "planned_releases": 6,
        "lifetime_epsilon": 6.0,
        "period_epsilon": 4.0,
        "purposes": ["training", "evaluation"],
        "rollout.steps": [50],
    }
    alone = amended(None, changes)
    policy = amended(alone, {"rollout.decide": "reactions", "rollout.reaction_epsilon": 1.0})
    assert comparison_of(alone) is None
    comparison = comparison_of(policy)
    assert best_epsilon(curve_of(comparison), policy.lifetime_delta)[0] <= 1.0
    less = NoisyComparison(noise_multiplier=comparison.noise_multiplier - 2e-4, looks=comparison.looks)
    assert best_epsilon(curve_of(less), policy.lifetime_delta)[0] > 1.0
    noise = calibrate_policy(policy)
    assert noise > calibrate_policy(alone)
    schedule = schedule_of(policy)
    assert comparison in release_mechanisms(policy, noise)
    assert comparison not in schedule.beside, "a round does not reserve it"
    training = round_curve(schedule, noise)
    later = curve_of(comparison)
    for epsilon, count, late in (
        (6.0, 6, 6),
        (4.0, schedule.releases_per_period, schedule.releases_per_period + 1),
    ):
        opened = AccountSettings().opened(epsilon, 1e-6, training)
        assert opened.admits(training * (count - 1) + later * late, training)


def test_comparisons_that_leave_nothing_for_training_are_refused():
    with pytest.raises(CalibrationError, match="do not fit"):
        calibrate_policy(
            amended(
                None,
                {
                    "declared_users": 1_000,
                    "purposes": ["training", "evaluation"],
                    "rollout.steps": [50],
                    "rollout.decide": "reactions",
                    "rollout.reaction_epsilon": 2.0,
                    "planned_releases": 40,
                },
            )
        )


def test_a_forecast_keeps_the_room_that_the_plan_keeps_for_a_comparison_that_slips():
    policy = amended(
        TenantPrivacyPolicy(
            declared_users=500, period_epsilon=2.0, lifetime_epsilon=8.0, planned_releases=1, styles=False
        ),
        {
            "purposes": ["training", "evaluation"],
            "retention_days": 30,
            "rollout.steps": [50.0],
            "rollout.decide": "reactions",
        },
    )
    wished = noise_for(policy, releases=1, releases_per_period=1, spent=SpentBudget())
    assert wished == pytest.approx(calibrate_policy(policy), rel=0.02)
