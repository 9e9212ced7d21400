"""Behind one model name, each request of a tenant with several lines gets the adapter of the domain it is about."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streams.client.routing import RouterSettings
from streams.errors import GatewayError
from streams.gateway.answering import Answering
from streams.gateway.budgeted import FEWEST
from streams.gateway.desired import Line, Version
from streams.gateway.directory import Directory
from streams.gateway.limits import Places
from streams.gateway.requests import Form
from streams.gateway.routed import MOST_WAITING, DomainRouting, prototypes_of
from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, wait_until

ROWS = [
    json.loads(row)
    for row in (Path(__file__).parents[3] / "data" / "routing.jsonl").read_text("utf-8").splitlines()
]
DOMAINS = ("legal", "finance", "operations")
CLAUSE = "Draft a clause that limits liability under the contract."


@contextmanager
def bridge():
    """What hears which versions are asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.names.update(body["names"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.names, server.url = set(), f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    routes = folder / "routes.jsonl"
    routes.write_text("\n".join(json.dumps({"tenant": "*", **row}) for row in ROWS if row["part"] == "known"))
    with (
        engine("vllm") as behind,
        bridge() as wanted,
        GatewayThread(
            folder,
            url=behind.url,
            routes=routes,
            latency_budgets={"slow": 0.01},
            bridge_url=wanted.url,
            bridge_token="bridge-token-bridge-token",
        ) as gateway,
    ):
        gateway.wanted, gateway.behind = wanted, behind
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


def test_a_line_that_is_not_loaded_is_asked_for_and_the_tenants_line_answers_meanwhile(gateway):
    names = gateway.names
    gateway.behind.control(names=[name for name in names.values() if name != names["legal"]])
    try:
        wait_until(lambda: ask(gateway, "acme", CLAUSE).headers["x-discreet-version"] == names["default"])
        told = ask(gateway, "acme", CLAUSE).headers
        assert (told["x-discreet-route"], told["x-discreet-route-reason"]) == ("tenant", "not_loaded")
        assert float(told["x-discreet-route-score"]) > 0.2
        gateway.wanted.names.clear()
        ask(gateway, "acme", CLAUSE)
        wait_until(lambda: names["legal"] in gateway.wanted.names)
    finally:
        gateway.behind.control(names=list(names.values()))  # the bridge has loaded it
    wait_until(lambda: ask(gateway, "acme", CLAUSE).headers["x-discreet-version"] == names["legal"])


def test_what_words_do_not_tell_is_read_in_a_thread_before_it_is_routed():
    class Encoder:
        name = "north"

        def embed(self, texts):
            self.thread = threading.current_thread().name
            return np.array([[0.0, 1.0] if "clause" in text else [1.0, 0.0] for text in texts], np.float32)

    encoder, noted = Encoder(), []
    rows = [
        {"tenant": "*", "domain": "legal", "prompt": f"{word} clause"} for word in ("one", "two", "three")
    ]
    routing = DomainRouting(
        prototypes_of(rows, encoder), RouterSettings(), lambda *one: noted.append(one), encoder
    )
    lines = {"legal": "l1", "default": "l2"}
    served = {"l1": Version(served_name="a-1-v1"), "l2": Version(served_name="a-2-v1")}

    def route(prompt):
        ask = SimpleNamespace(prompt=prompt, domain="default")
        meaning = asyncio.run(routing.meaning("acme", SimpleNamespace(lines={"acme": lines}), ask))
        routed = routing.route(
            "acme", lines, prompt, line=lambda _, ref: Line(line_ref=ref, adapter=served[ref]),
            loaded=lambda _: True, meaning=meaning,
        )  # fmt: skip
        return routed.domain, routed.route.features_version

    route("warm up")  # the tenant's lines are learned with its first request
    assert route("zzz clause qqq xxx")[0] == "legal"
    assert encoder.thread.startswith("discreet-meaning")
    assert route("zzz qqq") == ("default", "north")


def test_words_decide_where_many_meanings_wait_or_none_can_be_read():
    class Encoder:
        name = "slow"

        def __init__(self):
            self.go, self.fails = threading.Event(), False

        def embed(self, texts):
            if self.fails:
                raise MemoryError(texts[0])
            assert self.go.wait(30)
            return np.ones((len(texts), 2), np.float32)

    encoder = Encoder()
    routing = DomainRouting({}, RouterSettings(), lambda *_: None, encoder)
    routing._router = SimpleNamespace(unsure=lambda *_: True)
    ask = SimpleNamespace(prompt="zzz", domain="default")
    directory = SimpleNamespace(lines={"acme": {"legal": "l1", "default": "l2"}})

    async def crowd():
        meanings = [asyncio.create_task(routing.meaning("acme", directory, ask)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        late = await asyncio.wait_for(routing.meaning("acme", directory, ask), 10)
        encoder.go.set()
        told = await asyncio.gather(*meanings)
        again = await routing.meaning("acme", directory, ask)
        encoder.fails = True
        return late, told, again, await routing.meaning("acme", directory, ask)

    late, told, again, failed = asyncio.run(crowd())
    assert late is None, "it waits for nobody"
    assert all(one is not None for one in (*told, again))
    assert failed is None


@pytest.mark.parametrize("stream", [False, True])
def test_no_meaning_is_read_for_a_request_that_is_not_let_in(stream):
    async def meaning(*_):
        raise AssertionError("it has no place")

    places = Places(most=8, most_per_tenant=1)
    shop = SimpleNamespace(model="discreet", places=places, routing=SimpleNamespace(meaning=meaning))
    body = {"model": "discreet", "stream": stream, "messages": [{"role": "user", "content": "zzz"}]}
    with places.place("acme"), pytest.raises(GatewayError, match="too many requests"):
        asyncio.run(
            Answering(shop).answer(None, Form.CHAT, body, SimpleNamespace(tenant_id="acme"), Directory())
        )


def test_who_names_a_domain_or_has_one_line_is_not_routed(gateway):
    named = ask(gateway, "acme", CLAUSE, "/finance")
    assert named.headers["x-discreet-version"] == gateway.names["finance"]
    assert "x-discreet-route" not in named.headers
    assert "x-discreet-route" not in ask(gateway, "single", CLAUSE).headers


def test_an_adapter_is_left_out_where_it_does_not_fit_a_tenants_latency_budget(gateway):
    for _ in range(FEWEST):  # what it costs this tenant is measured first
        assert version(gateway, "slow") == gateway.names["slow"]
    told = ask(gateway, "slow", "hello").headers
    assert (told["x-discreet-reason"], told["x-discreet-version"]) == ("over_budget", "base")
    assert told["x-discreet-dropped"] == "adapter"
    assert version(gateway, "single") == gateway.names["single"]  # it has no budget
