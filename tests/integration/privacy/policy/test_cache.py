"""The cache of policies is never staler than its bound, and an unchanged policy is not parsed again."""

import pytest

from privacy.policy import versions as policies
from privacy.policy.cache import TenantPolicies
from privacy.storage.session import transaction
from tests.fakes.stream_records import NOW


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def acme(engine):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)

    def change(**changes):
        with transaction(engine) as session:
            policies.set_policy(session, "acme", changes, actor="ann", reason="r", now=NOW)

    return change


def look(engine, cache, *names):
    with transaction(engine) as session:
        return cache.lookup(session, names)


def test_a_change_is_in_force_after_the_bound_at_the_latest(engine, acme):
    clock = Clock()
    cache = TenantPolicies(2.0, clock)
    assert look(engine, cache, "acme") == {"acme": None}
    acme(declared_users=90, contribution_bound=3)
    assert look(engine, cache, "acme") == {"acme": None}  # within the bound the old answer may stand
    clock.now = 2.0
    assert look(engine, cache, "acme")["acme"].contribution_bound == 3
    acme(contribution_bound=5)
    clock.now = 3.9
    assert look(engine, cache, "acme")["acme"].contribution_bound == 3
    clock.now = 4.0
    assert look(engine, cache, "acme")["acme"].contribution_bound == 5


def test_a_new_tenant_is_known_at_once_and_an_unknown_one_is_left_out(engine, acme):
    clock = Clock()
    cache = TenantPolicies(60.0, clock)
    assert look(engine, cache, "globex", "acme") == {"acme": None}
    with transaction(engine) as session:
        policies.register_tenant(session, "globex", actor="ann", now=NOW)
    assert set(look(engine, cache, "globex", "acme")) == {"globex", "acme"}


def test_an_unchanged_policy_is_not_parsed_again(engine, acme):
    clock = Clock()
    cache = TenantPolicies(1.0, clock)
    acme(declared_users=90)
    first = look(engine, cache, "acme")["acme"]
    clock.now = 5.0
    assert look(engine, cache, "acme")["acme"] is first
