"""Each policy value is checked, and a refusal names the field, the value and what is allowed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from privacy.canonical import digest_of
from privacy.errors import PolicyError
from privacy.policy.values import (
    DataPurpose,
    Schedule,
    Start,
    TenantPrivacyPolicy,
    amended,
    checked_tenant_id,
    period_index,
)

BASE = TenantPrivacyPolicy(declared_users=100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"declared_users": 0}, "declared_users is 0; allowed is 1 to 1,000,000,000 users"),
        ({"declared_users": "many"}, "declared_users is 'many'; allowed is 1 to 1,000,000,000 users"),
        ({"period_seconds": 0}, "period_seconds is 0; allowed is 1 to 316,224,000 seconds"),
        ({"period_epsilon": 100}, "period_epsilon is 100; allowed is 0.01 to 64, at most lifetime_epsilon"),
        ({"period_epsilon": 9}, "period_epsilon is 9; allowed is 0.01 to 64, at most lifetime_epsilon"),
        ({"lifetime_epsilon": float("nan")}, "lifetime_epsilon is nan; allowed is 0.01 to 64"),
        ({"lifetime_epsilon": float("inf")}, "lifetime_epsilon is inf; allowed is 0.01 to 64"),
        ({"lifetime_delta": 0.01}, "lifetime_delta is 0.01; allowed is 1e-15 to 1e-3"),
        ({"period_delta": 1e-5}, "period_delta is 1e-05; allowed is 1e-15 to 1e-3, below 1/declared_users"),
        ({"contribution_bound": 0}, "contribution_bound is 0; allowed is 1 to 1,000 signals"),
        (
            {"minimum_cohort": 101},
            "minimum_cohort is 101; allowed is 1 to 1,000,000,000 users, at most declared",
        ),
        ({"sample_rate": 0}, "sample_rate is 0; allowed is above 0, at most 1"),
        ({"sample_rate": 0.04}, "sample_rate is 0.04; allowed is above 0, at most 1"),
        ({"clipping_norm": 0}, "clipping_norm is 0; allowed is 0.000001 to 1,000,000"),
        ({"steps": 1.5}, "steps is 1.5; allowed is 1 to 100,000 steps"),
        ({"planned_releases": -1}, "planned_releases is -1; allowed is 1 to 100,000 releases"),
        ({"schedule": 5}, "schedule is 5; allowed is an object with first_at and every_seconds"),
        ({"schedule.every_seconds": 0}, "schedule.every_seconds is 0; allowed is 1 to 31,622,400 seconds"),
        (
            {"schedule.first_at": "2026-01-05T00:00:00"},
            "schedule.first_at is '2026-01-05T00:00:00'; allowed is",
        ),
        ({"schedule.last_at": 1}, "schedule.last_at is not a policy field; allowed are schedule.first_at"),
        ({"retention_days": 0}, "retention_days is 0; allowed is 1 to 3,660 days"),
        ({"purposes": []}, "purposes is []; allowed is one or more of training"),
        ({"purposes": ["trainning"]}, "allowed is one or more of training, evaluation, sharing"),
        ({"sharing_opt_in": "maybe"}, "sharing_opt_in is 'maybe'; allowed is true or false"),
        ({"domains": ["a", "a"]}, "domains is ['a', 'a']; allowed is 1 to 100 different names"),
        ({"domains": ["A b"]}, "domains is ['A b']; allowed is 1 to 100 different names"),
        ({"start": "zero"}, "start is 'zero'; allowed is one of meta, previous, average"),
        ({"epsilon": 1}, "epsilon is not a policy field; allowed are declared_users, period_seconds"),
    ],
)
def test_a_wrong_value_is_refused_by_name(changes, message):
    with pytest.raises(PolicyError) as refusal:
        amended(BASE, changes)
    assert message in str(refusal.value)


def test_declared_users_has_no_default():
    with pytest.raises(PolicyError, match="declared_users is not given"):
        amended(None, {})


def test_delta_must_be_below_one_over_the_declared_users():
    with pytest.raises(PolicyError, match=r"period_delta is 1e-06; .* \(declared_users is 1000000\)"):
        TenantPrivacyPolicy(declared_users=1_000_000)
    assert TenantPrivacyPolicy(
        declared_users=1_000_000, period_delta=9e-7, lifetime_delta=9e-7
    ).declared_users


def test_every_field_says_what_it_allows():
    silent = [name for name, text in TenantPrivacyPolicy.allowed_ranges().items() if text == "a value"]
    assert silent == []


def test_a_policy_survives_its_document_and_json():
    policy = amended(
        BASE,
        {
            "schedule": {"first_at": "2026-03-01T02:00:00+02:00", "every_seconds": 3600},
            "purposes": ["training", "sharing", "training"],
            "start": "average",
            "sharing_opt_in": "true",
        },
    )
    assert policy.purposes == (DataPurpose.TRAINING, DataPurpose.SHARING)
    assert policy.start is Start.AVERAGE
    assert policy.schedule.first_at == datetime(2026, 3, 1, tzinfo=UTC)
    assert TenantPrivacyPolicy.from_document(policy.to_document()) == policy
    assert TenantPrivacyPolicy.model_validate_json(policy.model_dump_json()) == policy
    assert policy.digest() != BASE.digest()


def test_votes_on_style_are_on_and_do_not_change_the_digest_of_a_policy_from_before():
    assert BASE.styles
    assert "styles" in BASE.to_document()
    assert amended(BASE, {"styles": True}).digest() == BASE.digest()
    off = amended(BASE, {"styles": "false"})
    assert not off.styles
    assert off.digest() != BASE.digest()


@pytest.mark.parametrize(
    "changes",
    [{}, {"memory": True}, {"rollout.steps": [10, 50]}, {"drift.share": 0.1}, {"suites.depth": "quick"}],
)
def test_what_is_stored_is_read_back_and_names_no_later_field_that_is_not_used(changes):
    policy = amended(BASE, changes)
    stored = policy.to_stored()
    assert TenantPrivacyPolicy.from_document(stored) == policy
    used = {name.partition(".")[0] for name in changes}
    assert set(stored) & {"memory", "remember", "drift", "suites", "rollout", "terms", "population"} == used


def test_a_change_of_one_schedule_field_keeps_the_other():
    changed = amended(
        amended(BASE, {"schedule.every_seconds": 60}), {"schedule": {"first_at": "2026-01-01T00:00Z"}}
    )
    assert changed.schedule == Schedule(first_at=datetime(2026, 1, 1, tzinfo=UTC), every_seconds=60)


def test_a_policy_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        BASE.steps = 5


def test_due_index_follows_the_public_clock():
    schedule = Schedule(first_at=datetime(2026, 1, 1, tzinfo=UTC), every_seconds=60)
    assert schedule.due_index(schedule.first_at - timedelta(microseconds=1)) is None
    assert schedule.due_index(schedule.first_at) == 0
    assert schedule.due_index(schedule.first_at + timedelta(seconds=59.999999)) == 0
    assert schedule.due_index(schedule.due_at(7)) == 7


def test_period_index_does_not_depend_on_the_time_zone():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert BASE.period_index(at) == BASE.period_index(at.astimezone(timezone(timedelta(hours=9))))
    start = BASE.period_start(BASE.period_index(at))
    assert start <= at < start + timedelta(seconds=BASE.period_seconds)
    assert period_index(datetime(1969, 12, 31, 23, 59, tzinfo=UTC), 60) == -1


def test_a_naive_time_has_no_period():
    with pytest.raises(ValueError, match="no time zone"):
        BASE.period_index(datetime(2026, 1, 1))  # noqa: DTZ001  # the point of the test


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a" * 64, "a\n"])
def test_a_tenant_id_is_a_slug(name):
    with pytest.raises(PolicyError, match="tenant_id is"):
        checked_tenant_id(name)


def test_a_tenant_id_may_have_63_characters():
    assert checked_tenant_id("0" + "a-" * 31) == "0" + "a-" * 31


@pytest.mark.parametrize("name", ["acceptance", "error_rate_of_users", "rating"])
def test_what_users_do_with_answers_is_no_guard(name):
    with pytest.raises(PolicyError, match="guards"):
        amended(None, {"declared_users": 100, "rollout.guards": {name: 0.5}})


def test_steps_of_a_rollout_rise_and_are_off_by_default():
    policy = amended(None, {"declared_users": 100})
    assert policy.rollout.steps == ()
    with pytest.raises(PolicyError, match="steps"):
        amended(policy, {"rollout.steps": [50, 5]})


def test_limits_of_the_suites_are_changed_one_by_one_and_are_no_part_of_earlier_digests():
    policy = amended(None, {"declared_users": 100})
    assert policy.suites.depth == "off"
    changed = amended(policy, {"suites.depth": "quick", "suites.choice_margin": "0.2"})
    assert (changed.suites.depth, changed.suites.choice_margin, changed.suites.divergence_margin) == (
        "quick",
        0.2,
        0.5,
    )
    assert changed.digest() != policy.digest()
    with pytest.raises(PolicyError, match=r"suites\.depth"):
        amended(policy, {"suites.depth": "some"})


REACTIONS = {
    "declared_users": 1_000,
    "purposes": ["training", "evaluation"],
    "rollout.steps": [10, 50],
    "rollout.decide": "reactions",
}


def test_reactions_decide_where_a_policy_says_so_and_leave_earlier_digests_alone():
    policy = amended(None, REACTIONS)
    assert policy.rollout.by_reactions
    assert TenantPrivacyPolicy.from_document(policy.to_document()) == policy
    stepped = amended(None, {"declared_users": 1_000, "rollout.steps": [10, 50]})
    assert not stepped.rollout.by_reactions
    document = stepped.to_document()
    later = (
        "release_padding_seconds",
        "population",
        "styles",
        "terms",
        "suites",
        "remember",
        "memory",
        "drift",
    )
    for name in later:
        del document[name]
    names = (
        "decide",
        "reaction_epsilon",
        "looks",
        "look_seconds",
        "reactions_per_user",
        "reacting_users",
        "undecided",
    )
    for name in names:
        del document["rollout"][name]
    assert stepped.digest() == digest_of(document, ascii_only=True), "as it was before reactions could decide"
    assert policy.digest() != stepped.digest()
    off = amended(policy, {"rollout.decide": "checks"})
    assert not off.rollout.by_reactions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout.steps": [10, 100]}, "rollout.steps ends with 100"),
        ({"rollout.steps": [5]}, "rollout.steps ends with 5"),
        ({"purposes": ["training"]}, "who consent to evaluation"),
        (
            {"rollout.reaction_epsilon": 3},
            "reaction_epsilon is 3; allowed is 0.1 to 8, at most period_epsilon",
        ),
        ({"retention_days": 11}, "4 looks take at most retention_days"),
        ({"rollout.looks": 17}, "rollout.looks is 17; allowed is 1 to 16 looks"),
        ({"rollout.undecided": "promote"}, "one of hold, roll_back"),
        ({"rollout.decide": "people"}, "one of checks, reactions"),
    ],
)
def test_reactions_that_could_not_decide_are_refused(changes, message):
    with pytest.raises(PolicyError, match=re.escape(message)):
        amended(None, {**REACTIONS, **changes})


def test_memory_is_off_and_no_part_of_earlier_digests():
    policy = amended(None, {"declared_users": 100})
    assert not policy.memory
    document = {name: value for name, value in policy.to_document().items() if name != "memory"}
    assert type(policy).from_document(document).digest() == policy.digest()
    assert amended(policy, {"memory": "true"}).digest() != policy.digest()
