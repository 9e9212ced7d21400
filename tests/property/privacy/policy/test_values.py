"""A policy is either valid in every field or refused with a ``PolicyError`` that names one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import PolicyError
from privacy.policy.values import Schedule, TenantPrivacyPolicy, amended

FIELDS = list(TenantPrivacyPolicy.model_fields)
anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.text(max_size=5), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "schedule.first_at", "nonsense"]), anything, max_size=4))
def test_any_change_gives_a_sound_policy_or_a_refusal_that_names_a_field(changes):
    try:
        policy = amended(TenantPrivacyPolicy(declared_users=500), changes)
    except PolicyError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert any(name.split(".")[0] in refusal for name in [*changes, *FIELDS])
        assert "allowed" in refusal
        return
    assert policy.period_delta <= policy.lifetime_delta < 1 / policy.declared_users
    assert 0 < policy.period_epsilon <= policy.lifetime_epsilon < 65
    assert policy.sample_rate * policy.declared_users >= 5
    assert TenantPrivacyPolicy.from_document(policy.to_document()) == policy


@given(
    st.integers(946_684_800, 4_102_444_800).map(lambda unix: datetime.fromtimestamp(unix, UTC)),
    st.integers(1, 10_000_000),
    st.integers(0, 1000),
    st.floats(0, 1, exclude_max=True),
)
def test_every_instant_belongs_to_exactly_one_release(first_at, every_seconds, index, share):
    schedule = Schedule(first_at=first_at, every_seconds=every_seconds)
    inside = schedule.due_at(index) + timedelta(microseconds=int(share * every_seconds * 1_000_000))
    assert schedule.due_index(inside) == index
