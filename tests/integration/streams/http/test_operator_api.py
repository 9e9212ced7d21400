"""The operator API over real HTTP: the platform operator sees all, a tenant's administrator one tenant."""

import asyncio
from datetime import timedelta
from functools import partial

import aiohttp
import pytest

from privacy.policy import versions as policies
from privacy.policy.ceilings import PolicyCeilings
from privacy.storage.session import transaction
from streams.http.limits import RateLimit
from streams.http.server import HttpServer
from streams.http.tokens import Access
from streams.storage.operator_tokens import Role, holder_of, new_token
from tests.fakes.stream_records import NOW


class Probes:
    alive = True
    ready = False


@pytest.fixture
def ask(engine):
    with transaction(engine) as session:
        for name in ("acme", "globex"):
            policies.register_tenant(session, name, actor="ann", now=NOW)
            policies.set_policy(session, name, {"declared_users": 90}, actor="ann", reason="r", now=NOW)

    def run(*requests):
        async def main():
            access = Access(engine, "platform-token", lambda: NOW)
            server = HttpServer(
                host="127.0.0.1",
                port=0,
                probes=Probes(),
                exposition=lambda: b"x 1\n",
                access=access,
                ceilings=PolicyCeilings(contribution_bound=16),
            )
            answers = []
            async with server, aiohttp.ClientSession() as session:
                for method, path, given, body in requests:
                    token = given(answers) if callable(given) else given
                    headers = {"Authorization": f"Bearer {token}"} if token else {}
                    url = f"http://127.0.0.1:{server.port}{path}"
                    async with session.request(method, url, headers=headers, json=body) as response:
                        plain = response.content_type == "text/plain"
                        answers.append(
                            (response.status, await (response.text() if plain else response.json()))
                        )
            return answers

        return asyncio.run(main())

    return run


ADMIN = "platform-token"


def made(answers):
    return next(body["token"] for status, body in answers if status == 201)


def test_probes_need_no_token_and_metrics_do(ask):
    answers = ask(
        ("GET", "/healthz", None, None),
        ("GET", "/readyz", None, None),
        ("GET", "/metrics", None, None),
        ("GET", "/metrics", ADMIN, None),
    )
    assert [status for status, _ in answers] == [200, 503, 401, 200]


def test_a_tenants_administrator_sees_and_changes_that_tenant_only(ask):
    make = ("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "bea"})
    change = {"changes": {"contribution_bound": 4}, "reason": "fewer"}
    answers = ask(
        make,
        ("GET", "/v1/tenants", made, None),
        ("PUT", "/v1/tenants/acme/policy", made, change),
        ("GET", "/v1/tenants/acme/budget", made, None),
        ("GET", "/v1/tenants/globex/policy", made, None),
        ("PUT", "/v1/tenants/globex/policy", made, change),
        ("GET", "/v1/tenants/nobody/policy", made, None),
        ("POST", "/v1/tenants/acme/tokens", made, {"name": "eve"}),
        ("GET", "/metrics", made, None),
        ("GET", "/v1/tenants/acme/policy/history", ADMIN, None),
    )
    assert [status for status, _ in answers] == [201, 200, 200, 200, 404, 404, 404, 403, 403, 200]
    assert [entry["tenant"] for entry in answers[1][1]["tenants"]] == ["acme"]
    # Another tenant looks exactly like one that does not exist.
    other, missing = answers[4][1]["error"], answers[6][1]["error"]
    assert other["text"].replace("globex", "*") == missing["text"].replace("nobody", "*")
    assert [version["set_by"] for version in answers[-1][1]["versions"]] == ["ann", "bea"]


def test_only_the_platforms_operator_ties_a_tenant_to_a_population(ask):
    change = {"changes": {"population": "staff"}, "reason": "the same people"}
    answers = ask(
        ("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "bea"}),
        ("PUT", "/v1/tenants/acme/policy", made, change),
        ("PUT", "/v1/tenants/acme/policy", ADMIN, change),
        ("GET", "/v1/tenants/acme/policy", made, None),
    )
    assert [status for status, _ in answers] == [201, 403, 200, 200]
    assert answers[-1][1]["policy"]["population"] == "staff"


def test_no_tenant_goes_above_what_the_platform_allows_and_nothing_of_such_a_change_is_kept(ask):
    def change(**changes):
        return ("PUT", "/v1/tenants/acme/policy", made, {"changes": changes, "reason": "more"})

    answers = ask(
        ("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "bea"}),
        change(period_epsilon=64, lifetime_epsilon=64, minimum_cohort=1),
        change(contribution_bound=1000),
        change(lifetime_delta=1e-4),
        change(contribution_bound=16, lifetime_epsilon=16),
        ("GET", "/v1/tenants/acme/policy", made, None),
    )
    assert [status for status, _ in answers] == [201, 422, 422, 422, 200, 200]
    refused = answers[1][1]["error"]
    assert refused["code"] == "privacy.policy.above_ceiling"
    assert "period_epsilon is 64; the platform allows at most 8" in refused["text"]
    assert "minimum_cohort is 1; the platform allows no fewer than 10" in refused["text"]
    assert answers[-1][1]["version"] == 2


def test_a_revoked_or_unknown_token_opens_nothing(ask):
    answers = ask(
        ("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "bea"}),
        ("DELETE", "/v1/tenants/acme/tokens/bea", ADMIN, None),
        ("GET", "/v1/tenants", made, None),
        ("GET", "/v1/tenants", "guess", None),
    )
    assert [status for status, _ in answers] == [201, 200, 401, 401]


def test_a_wrong_value_names_field_and_range(ask):
    body = {"changes": {"sample_rate": 3}, "reason": "more"}
    ((status, answer),) = ask(("PUT", "/v1/tenants/acme/policy", ADMIN, body))
    assert status == 422
    assert "sample_rate is 3" in answer["error"]["text"]


def test_the_database_holds_no_token(ask, engine):
    answers = ask(("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "bea"}))
    with engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT token_digest FROM operator_tokens").scalar_one()
    assert made(answers).encode() not in bytes(stored)


def test_budget_plan_and_statement_are_for_the_tenant_only(ask):
    make = ("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "ann"})
    answers = ask(
        make,
        ("GET", "/v1/tenants/acme/budget", made, None),
        ("GET", "/v1/tenants/acme/budget/plan?releases=5&per_period=2", made, None),
        ("GET", "/v1/tenants/acme/budget/plan?releases=-1", made, None),
        ("GET", "/v1/tenants/acme/statement", made, None),
        ("GET", "/v1/tenants/globex/budget/plan", made, None),
        ("GET", "/v1/tenants/globex/statement", made, None),
        ("GET", "/v1/tenants/acme/budget/plan", None, None),
    )
    assert [status for status, _ in answers] == [201, 200, 200, 422, 404, 404, 404, 401]
    assert answers[1][1]["period_cap"] == 2.0
    names = [row["name"] for row in answers[2][1]["outlooks"]]
    assert names[:2] == ["now", "wish: 5 releases"]
    assert "no ledger" in answers[4][1]["error"]["text"]
    assert "not registered" in answers[6][1]["error"]["text"]


def test_wrong_tokens_are_limited_and_never_wait_for_the_database(ask, engine):
    """Each used to take the write lock of SQLite; here somebody else holds it."""
    wrong = [("GET", "/v1/tenants", "A" * 43, None)] * 12
    with transaction(engine) as writing:
        policies.register_tenant(writing, "initech", actor="ann", now=NOW)
        answers = ask(*wrong[:2], ("GET", "/v1/tenants", ADMIN, None), *wrong[2:])
    assert [status for status, _ in answers] == [401, 401, 200, *[401] * 8, 429, 429]
    assert answers[-1][1]["error"]["code"] == "http.too_many_requests"


def test_the_same_plan_is_calculated_once(ask, monkeypatch):
    calls = []
    monkeypatch.setattr("privacy.reports.budgets.what_if", lambda *_, **__: calls.append(1) or [])
    plan = ("GET", "/v1/tenants/acme/budget/plan", ADMIN, None)
    change = {"changes": {"period_epsilon": 1.5}, "reason": "less"}
    answers = ask(plan, plan, ("PUT", "/v1/tenants/acme/policy", ADMIN, change), plan)
    assert [status for status, _ in answers] == [200] * 4
    assert len(calls) == 2  # once for each policy
    assert answers[0] == answers[1]


def test_a_tenants_administrators_have_a_rate(ask, monkeypatch):
    # A clock that stands, so that a loaded machine is not slower than the rate.
    monkeypatch.setattr("streams.http.tokens.RateLimit", partial(RateLimit, monotonic=lambda: 0.0))
    answers = ask(
        ("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "bea"}),
        *[("GET", "/v1/tenants/nobody/policy", made, None)] * 120,
        ("GET", "/v1/tenants", ADMIN, None),
    )
    statuses = [status for status, _ in answers]
    assert statuses[1:61] == [404] * 60
    assert 429 in statuses[61:-1]
    assert statuses[-1] == 200


def make(**body):
    return ("POST", "/v1/tenants/acme/tokens", ADMIN, {"name": "bea", **body})


def test_a_reader_reads_its_tenant_and_changes_nothing(ask):
    change = {"changes": {"contribution_bound": 4}, "reason": "fewer"}
    answers = ask(
        make(role="reader", days=1),
        ("GET", "/v1/tenants/acme/policy", made, None),
        ("GET", "/v1/tenants/acme/tokens", made, None),
        ("PUT", "/v1/tenants/acme/policy", made, change),
        ("GET", "/v1/tenants/globex/policy", made, None),
        ("GET", "/v1/tenants/globex/tokens", made, None),
        ("GET", "/metrics", made, None),
    )
    assert [status for status, _ in answers] == [201, 200, 200, 403, 404, 404, 403]
    (listed,) = answers[2][1]["tokens"]
    assert (listed["name"], listed["role"], listed["created_by"]) == ("bea", "reader", "platform operator")
    assert listed["id"] == answers[0][1]["id"]
    assert "token" not in listed


def test_a_token_ends(ask, engine):
    ((status, body),) = ask(make(days=2))
    assert status == 201
    with transaction(engine) as session:
        last = NOW + timedelta(days=2) - timedelta(seconds=1)
        assert holder_of(session, body["token"], last).name == "bea"
        assert holder_of(session, body["token"], NOW + timedelta(days=2)) is None


@pytest.mark.parametrize(
    "body",
    [
        {"role": "operator"},
        {"role": "root"},
        {"role": ["reader"]},
        {"days": 0},
        {"days": 367},
        {"days": True},
    ],
)
def test_a_token_that_may_not_be_is_refused(ask, body):
    assert [status for status, _ in ask(make(**body), ("GET", "/v1/tenants/acme/tokens", ADMIN, None))] == [
        422,
        200,
    ]


def test_tokens_that_reach_the_platform_read_or_operate_all_tenants(ask, engine):
    tokens = {}
    with transaction(engine) as session:
        for role in (Role.READER, Role.OPERATOR):
            tokens[role], _ = new_token(session, None, role.value, role=role, actor="ann", now=NOW)
    change = {"changes": {"contribution_bound": 4}, "reason": "fewer"}
    requests = [
        ("GET", "/metrics", None),
        ("GET", "/v1/tenants/globex/policy", None),
        ("PUT", "/v1/tenants/globex/policy", change),
        ("POST", "/v1/tenants/acme/tokens", {"name": "bea"}),
        ("DELETE", "/v1/tenants/acme/tokens/bea", None),
    ]
    statuses = {
        role: [status for status, _ in ask(*((method, path, token, body) for method, path, body in requests))]
        for role, token in tokens.items()
    }
    assert statuses[Role.READER] == [200, 200, 403, 403, 403]
    assert statuses[Role.OPERATOR] == [200, 200, 200, 201, 200]
    with transaction(engine) as session:
        assert policies.current_policy(session, "globex").set_by == "operator"
