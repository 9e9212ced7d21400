"""Behind one model name, each request of a tenant with several lines gets the adapter of the domain it is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streams.gateway.budgeted import FEWEST
from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, wait_until

ROWS = [
    json.loads(row)
    for row in (Path(__file__).parents[3] / "data" / "routing.jsonl").read_text("utf-8").splitlines()
]
DOMAINS = ("legal", "finance", "operations")
CLAUSE = "Draft a clause that limits liability under the contract."


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    routes = folder / "routes.jsonl"
    routes.write_text("\n".join(json.dumps({"tenant": "*", **row}) for row in ROWS if row["part"] == "known"))
    with (
        engine("vllm") as behind,
        GatewayThread(folder, url=behind.url, routes=routes, latency_budgets={"slow": 0.01}) as gateway,
    ):
        gateway.tokens = {tenant: gateway.token(tenant) for tenant in ("acme", "single", "slow")}
        gateway.names = {name: gateway.publish("acme", domain=name) for name in (*DOMAINS, "default")}
        gateway.names["single"] = gateway.publish("single")
        gateway.names["slow"] = gateway.publish("slow")
        behind.control(names=list(gateway.names.values()))
        gateway.consent("acme", "ann")
        wait_until(lambda: all(version(gateway, "acme", f"/{n}") == gateway.names[n] for n in DOMAINS))
        wait_until(lambda: version(gateway, "single") == gateway.names["single"])
        yield gateway


def ask(gateway, tenant, prompt, suffix="", **more):
    return gateway.client(gateway.tokens[tenant]).chat.completions.with_raw_response.create(
        model="discreet" + suffix, messages=[{"role": "user", "content": prompt}], **more
    )


def version(gateway, tenant, suffix=""):
    return ask(gateway, tenant, "hello", suffix).headers["x-discreet-version"]


def test_nineteen_of_twenty_requests_are_answered_by_their_domains_adapter(gateway):
    asked = [row for row in ROWS if row["part"] == "asked"]
    right = []
    for row in asked[::4]:
        got = ask(gateway, "acme", row["prompt"]).headers["x-discreet-version"]
        right.append(got == gateway.names[row["domain"] or "default"])
    assert sum(right) / len(right) >= 0.95


def test_a_decision_stands_in_the_headers_and_feedback_counts_for_the_domain(gateway):
    raw = ask(gateway, "acme", CLAUSE, user="ann")
    assert raw.headers["x-discreet-route"] == "domain/legal"
    assert raw.headers["x-discreet-version"] == gateway.names["legal"]
    told = gateway.client(gateway.tokens["acme"]).post(
        "/feedback", cast_to=object, body={"id": raw.parse().id, "outcome": "accepted", "user": "ann"}
    )
    assert told["result"] == "published"
    event = gateway.interactions()[-1].data
    assert (event.domain, event.served_name) == ("legal", gateway.names["legal"])


def test_who_names_a_domain_or_has_one_line_is_not_routed(gateway):
    named = ask(gateway, "acme", CLAUSE, "/finance")
    assert named.headers["x-discreet-version"] == gateway.names["finance"]
    assert "x-discreet-route" not in named.headers
    assert "x-discreet-route" not in ask(gateway, "single", CLAUSE).headers


def test_an_adapter_is_left_out_where_it_does_not_fit_a_tenants_latency_budget(gateway):
    for _ in range(FEWEST):  # what it costs is measured first
        assert version(gateway, "single") == gateway.names["single"]
    told = ask(gateway, "slow", "hello").headers
    assert (told["x-discreet-reason"], told["x-discreet-version"]) == ("over_budget", "base")
    assert told["x-discreet-dropped"] == "adapter"
    assert version(gateway, "single") == gateway.names["single"]  # it has no budget
