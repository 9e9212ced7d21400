"""Every policy change is a new version with who, when and why, and is audited; old versions stay for good."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from privacy.audit import trail as audit_trail
from privacy.audit.records import OPERATOR_CHAIN, verify
from privacy.errors import LedgerIntegrityError, PolicyError, StorageError, UnknownTenantError
from privacy.policy import versions as policies
from privacy.storage.session import transaction

FIRST = {"declared_users": 200, "schedule.first_at": "2026-01-05T00:00:00Z"}


@pytest.fixture
def acme(engine, clock):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=clock())
    return "acme"


def set_policy(engine, clock, changes, tenant="acme", actor="ann", reason="why"):
    with transaction(engine) as session:
        return policies.set_policy(session, tenant, changes, actor=actor, reason=reason, now=clock())


def test_a_new_tenant_has_no_policy(engine, acme):
    with transaction(engine) as session:
        assert policies.current_policy(session, acme) is None
        assert policies.tenant(session, acme).policy is None
        assert policies.policy_history(session, acme) == []


def test_versions_keep_who_when_and_why(engine, clock, acme):
    first = set_policy(engine, clock, FIRST, reason="launch")
    at = clock.advance(days=1)
    second = set_policy(engine, clock, {"period_epsilon": 1}, actor="bob", reason="stricter")
    with transaction(engine) as session:
        history = policies.policy_history(session, acme)
        assert policies.current_policy(session, acme) == second
        assert verify(audit_trail.read(session, acme)) == 3
        changed = audit_trail.read(session, acme)[-1].detail["changed"]
    assert history == [first, second]
    assert (second.version, second.set_by, second.reason, second.set_at) == (2, "bob", "stricter", at)
    assert second.policy.declared_users == 200
    assert changed == {"period_epsilon": {"from": 2.0, "to": 1.0}}


def test_a_change_of_nothing_makes_no_version(engine, clock, acme):
    first = set_policy(engine, clock, FIRST)
    assert set_policy(engine, clock, {"declared_users": 200}) == first


def test_a_first_schedule_starts_with_the_next_period(engine, clock, acme):
    version = set_policy(engine, clock, {"declared_users": 200, "period_seconds": 3600})
    assert version.policy.schedule.first_at == datetime(2026, 3, 2, 10, tzinfo=UTC)
    assert version.policy.schedule.due_index(clock()) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"tenant": "nobody"}, "tenant 'nobody' is not registered"),
        ({"actor": " "}, "actor has 1 characters"),
        ({"reason": ""}, "reason is empty"),
        ({"changes": {"declared_users": 0}}, "declared_users is 0"),
    ],
)
def test_a_wrong_call_changes_nothing(engine, clock, acme, call, message):
    with pytest.raises(PolicyError, match=message):
        set_policy(engine, clock, **{"changes": FIRST} | call)
    with transaction(engine) as session:
        assert policies.current_policy(session, acme) is None


def test_a_tenant_is_registered_once(engine, clock, acme):
    with pytest.raises(PolicyError, match="already registered"), transaction(engine) as session:
        policies.register_tenant(session, acme, actor="ann", now=clock())
    with pytest.raises(UnknownTenantError), transaction(engine) as session:
        policies.policy_history(session, "nobody")


def test_tenants_are_listed_with_their_newest_policy(engine, clock, acme):
    with transaction(engine) as session:
        policies.register_tenant(session, "zeta", actor="ann", now=clock())
    set_policy(engine, clock, FIRST)
    newest = set_policy(engine, clock, {"steps": 5})
    with transaction(engine) as session:
        listed = policies.list_tenants(session)
    assert [(tenant.tenant_id, tenant.policy) for tenant in listed] == [("acme", newest), ("zeta", None)]


def test_administrators_who_write_at_once_get_different_versions(engine, clock, acme):
    set_policy(engine, clock, FIRST)
    barrier = threading.Barrier(3)

    def change(steps):
        barrier.wait()
        set_policy(engine, clock, {"steps": steps})

    threads = [threading.Thread(target=change, args=(steps,)) for steps in (11, 12, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with transaction(engine) as session:
        assert [version.version for version in policies.policy_history(session, acme)] == [1, 2, 3, 4]
        assert verify(audit_trail.read(session, acme)) == 5


def test_writers_of_one_chain_queue_up(engine, clock):
    barrier = threading.Barrier(3)

    def act(name):
        barrier.wait()
        for _ in range(5):
            with transaction(engine) as session:
                audit_trail.append(
                    session, OPERATOR_CHAIN, actor=name, action="round.opened", detail={}, now=clock()
                )

    threads = [threading.Thread(target=act, args=(name,)) for name in ("ann", "bob", "cat")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with transaction(engine) as session:
        assert verify(audit_trail.read(session, OPERATOR_CHAIN)) == 15


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE policies SET set_by = 'nobody'",
        "DELETE FROM policies",
        "UPDATE audit_trail SET actor = 'nobody'",
        "DELETE FROM audit_trail WHERE sequence = 1",
    ],
)
def test_the_database_itself_refuses_to_rewrite_the_past(engine, clock, acme, statement):
    set_policy(engine, clock, FIRST)
    with pytest.raises(StorageError) as refusal, transaction(engine) as session:
        session.execute(text(statement))
    assert "append-only" in str(refusal.value.__cause__)
    with transaction(engine) as session:
        assert policies.policy_history(session, acme)[0].set_by == "ann"


def test_the_ways_around_are_refused_too(engine, clock, acme):
    set_policy(engine, clock, FIRST)
    detour = {
        "sqlite": "INSERT OR REPLACE INTO policies "
        "SELECT tenant_id, version, document, digest, set_at, 'nobody', reason FROM policies",
        "postgresql": "TRUNCATE policies",
    }[engine.dialect.name]
    with pytest.raises(StorageError) as refusal, transaction(engine) as session:
        session.execute(text(detour))
    assert "append-only" in str(refusal.value.__cause__)


def test_tampering_past_the_database_is_found_by_the_chain(engine, clock, acme):
    set_policy(engine, clock, FIRST)
    with transaction(engine) as session:
        if engine.dialect.name == "sqlite":
            session.execute(text("DROP TRIGGER audit_trail_no_update"))
        else:
            session.execute(text("ALTER TABLE audit_trail DISABLE TRIGGER ALL"))
        session.execute(text("UPDATE audit_trail SET actor = 'nobody' WHERE sequence = 1"))
    with transaction(engine) as session, pytest.raises(LedgerIntegrityError, match="record 1"):
        verify(audit_trail.read(session, acme))
