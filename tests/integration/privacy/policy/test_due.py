"""The clock's tick reads the policies of those alone whose instant has come, by the index on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import insert, text
from sqlmodel import select

from privacy.policy import versions as policies
from privacy.policy.due import Look, due_query, due_tenants, look_again
from privacy.policy.tables import TenantRow
from privacy.policy.values import TenantPrivacyPolicy
from privacy.storage.session import transaction

MANY = 3_000
HOUR = timedelta(hours=1)


def register(session, name, now, **changes):
    policies.register_tenant(session, name, actor="ann", now=now)
    policies.set_policy(session, name, {"declared_users": 90, **changes}, actor="ann", reason="r", now=now)


def next_due(engine, name):
    with transaction(engine) as session:
        return session.exec(select(TenantRow.next_due_at).where(TenantRow.tenant_id == name)).one()


def test_a_tenant_is_looked_at_from_its_first_release_on_and_soon_after_each_change(engine, clock):
    first = clock.now() + HOUR
    with transaction(engine) as session:
        policies.register_tenant(session, "bare", actor="ann", now=clock.now())
        register(session, "acme", clock.now(), schedule={"first_at": first, "every_seconds": 3600})
    assert next_due(engine, "bare") is None
    assert next_due(engine, "acme") == first
    clock.advance(days=2)
    with transaction(engine) as session:
        policies.set_policy(session, "acme", {"steps": 7}, actor="ann", reason="r", now=clock.now())
    assert next_due(engine, "acme") == clock.now()


def test_a_look_moves_the_instant_it_saw_and_no_other(engine, clock):
    with transaction(engine) as session:
        register(session, "acme", clock.now(), schedule={"first_at": clock.now(), "every_seconds": 3600})
    with transaction(engine) as session:
        (seen,) = due_tenants(session, clock.now(), most=10)
    assert (seen.tenant_id, seen.policy.declared_users) == ("acme", 90)
    clock.advance(seconds=5)
    with transaction(engine) as session:  # a new policy, while the other is still looking
        policies.set_policy(session, "acme", {"steps": 7}, actor="ann", reason="r", now=clock.now())
    with transaction(engine) as session:
        look_again(session, {seen: clock.now() + HOUR})
    assert next_due(engine, "acme") == clock.now()
    with transaction(engine) as session:
        look_again(session, dict.fromkeys(due_tenants(session, clock.now(), most=10), clock.now() + HOUR))
    assert next_due(engine, "acme") == clock.now() + HOUR


@pytest.fixture
def many(engine, clock):
    """Tenants that are due in an hour, and one that is due now."""
    later = clock.now() + HOUR
    with transaction(engine) as session:
        register(session, "due-now", clock.now(), schedule={"first_at": clock.now(), "every_seconds": 3600})
        register(session, "other", clock.now(), schedule={"first_at": later, "every_seconds": 3600})
        rows = [
            {
                "tenant_id": f"t{number}",
                "registered_at": clock.now(),
                "registered_by": "ann",
                "next_due_at": later + timedelta(seconds=number),
                "drift_due_at": later + timedelta(seconds=number),
            }
            for number in range(MANY)
        ]
        session.connection().execute(insert(TenantRow), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return engine


@pytest.mark.parametrize(
    ("look", "index"), [(Look.ROUNDS, "ix_tenants_next_due"), (Look.DRIFT, "ix_tenants_drift_due")]
)
def test_the_query_of_a_tick_uses_the_index(many, clock, look, index):
    explain = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}[many.dialect.name]
    with many.connect() as connection:
        compiled = due_query(clock.now(), 500, look).compile(
            dialect=many.dialect, compile_kwargs={"literal_binds": True}
        )
        plan = "\n".join(str(tuple(row)) for row in connection.execute(text(explain + str(compiled))))
    assert index in plan
    assert "SCAN tenants'" not in plan
    assert "Seq Scan" not in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


def test_a_tick_reads_no_policy_but_those_that_are_due(many, clock, monkeypatch):
    read = []
    original = TenantPrivacyPolicy.from_document.__func__

    def counted(cls, document):
        read.append(document)
        return original(cls, document)

    monkeypatch.setattr(TenantPrivacyPolicy, "from_document", classmethod(counted))
    with transaction(many) as session:
        assert [due.tenant_id for due in due_tenants(session, clock.now(), most=500)] == ["due-now"]
    assert len(read) == 1
