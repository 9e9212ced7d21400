"""Calibration finds the smallest sufficient noise, and refuses claims that would be false or empty."""

import dataclasses

import pytest

from privacy.accounting.calibration import (
    COUNT_SHARE,
    PlannedSchedule,
    calibrate,
    calibrate_policy,
    cohort_count,
    fits,
    release_mechanisms,
    schedule_of,
)
from privacy.accounting.composition import curve_of
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import AccountSettings, BudgetCaps, FilterRule
from privacy.errors import CalibrationError
from privacy.policy.values import TenantPrivacyPolicy

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
