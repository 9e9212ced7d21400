"""The gateway tells its bridge what was asked for; a bridge that is away hears of it later."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from streams.errors import SettingsError
from streams.gateway.wanted import MOST_AT_ONCE, MOST_KEPT, BridgeWanted, NobodyToTell
from streams.processes.gateway import bridge_of
from streams.serving.engines.metrics import BridgeMetrics
from streams.serving.engines.routes import MOST_OF_ONE, MOST_WANTED, Routes
from streams.serving.engines.web import MAX_NAMES, BridgeWeb
from streams.settings import Settings
from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, wait_until

TOKEN = "bridge-token"
NAMES = [f"a-{number:012x}-v1" for number in range(MOST_AT_ONCE + 20)]


def told(url, *steps, token=TOKEN):
    """Run steps over one side of the gateway; returns it."""

    async def run():
        wanted = BridgeWanted(url=url, token=token, every_seconds=0.01)
        try:
            for step in steps:
                step(wanted)
                await wanted.tell()
        finally:
            await wanted.close()
        return wanted

    return asyncio.run(run())


@pytest.fixture
def bridge():
    routes = Routes()
    with BridgeWeb(port=0, token=TOKEN, routes=routes, metrics=BridgeMetrics()) as web:
        yield f"http://127.0.0.1:{web.port}", routes


def test_more_names_than_a_request_takes_all_arrive_once(bridge):
    assert MOST_AT_ONCE <= MAX_NAMES
    url, routes = bridge
    told(url, lambda wanted: wanted.note("acme", NAMES + NAMES), lambda _: None)
    assert set(routes.wanted()) == set(NAMES)
    assert routes.wanted() == {}, "what was told is not told again"


def test_a_bridge_is_told_whose_share_a_name_is_of_and_not_who_it_is(bridge):
    url, routes = bridge

    def note(wanted):
        wanted.note("acme", NAMES[:2])
        wanted.note("globex", NAMES[2:3])

    told(url, note)
    noted = routes.wanted()
    first, second, other = (noted[name] for name in NAMES[:3])
    assert first == second != other
    assert "acme" not in first
    told(url, lambda wanted: wanted.note("globex", NAMES[:1]))
    assert routes.wanted() == {NAMES[0]: other}, "at every gateway and after every start the same"


@pytest.mark.parametrize("shares", ["one", ["x"], [1, 2], ["x" * 65, "y"], None])
def test_shares_that_do_not_fit_their_names_are_refused(bridge, shares):
    url, routes = bridge
    body = json.dumps({"names": NAMES[:2], "shares": shares}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/wanted", body, headers), timeout=10)
    assert refused.value.code == 400
    refused.value.close()
    assert routes.wanted() == {}


def test_names_without_shares_are_taken_as_from_earlier_gateways(bridge):
    url, routes = bridge
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    body = json.dumps({"names": NAMES[:2]}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/v1/wanted", body, headers), timeout=10).close()
    assert routes.wanted() == dict.fromkeys(NAMES[:2], "")


def test_one_share_leaves_the_others_room_to_be_remembered():
    routes = Routes()
    routes.want({f"a-{number}": "greedy" for number in range(2 * MOST_WANTED)})
    routes.want({"b-1": "other"})
    found = routes.wanted()
    assert (len(found), found["b-1"]) == (MOST_OF_ONE + 1, "other")
    routes.want({"a-1": "greedy"})
    assert routes.wanted() == {"a-1": "greedy"}


def test_a_bridge_that_was_away_hears_of_it_later(bridge):
    url, routes = bridge

    def come_back(wanted):
        assert len(wanted._names) == 1
        wanted._url = f"{url}/v1/wanted"

    told("http://127.0.0.1:9", lambda wanted: wanted.note("acme", NAMES[:1]), come_back)
    assert set(routes.wanted()) == {NAMES[0]}


def test_a_wrong_token_tells_nothing(bridge):
    url, routes = bridge
    kept = told(url, lambda wanted: wanted.note("acme", NAMES[:1]), token="wrong")._names
    assert [name for name, _ in kept.items("acme")] == NAMES[:1]
    assert routes.wanted() == {}


def test_what_is_kept_for_a_bridge_that_is_away_is_bounded_and_shared():
    wanted = BridgeWanted(url="http://127.0.0.1:9", token=TOKEN, every_seconds=1.0)
    wanted.note("acme", (str(number) for number in range(2 * MOST_KEPT)))
    wanted.note("globex", NAMES[:3])
    assert len(wanted._names) == MOST_KEPT
    assert [name for name, _ in wanted._names.items("globex")] == NAMES[:3]


def test_a_bridge_without_its_token_is_refused_and_none_is_none():
    assert isinstance(bridge_of(Settings().gateway), NobodyToTell)
    with pytest.raises(SettingsError, match="BRIDGE_TOKEN"):
        bridge_of(Settings(gateway={"bridge_url": "http://127.0.0.1:6071"}).gateway)


def test_what_is_not_let_in_asks_for_nothing(bridge, tmp_path):
    url, routes = bridge
    with (
        engine("vllm") as behind,
        GatewayThread(
            tmp_path, url=behind.url, bridge_url=url, bridge_token=TOKEN, most_requests_per_tenant=1
        ) as gateway,
    ):
        token = gateway.token("acme")
        first, second = gateway.publish("acme"), gateway.publish("acme", domain="legal")
        behind.control(names=[first, second])

        def ask(model):
            return gateway.client(token).chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": "hi"}]
            )

        wait_until(lambda: ask("discreet").headers["x-discreet-version"] == first)
        behind.control(pause=2.0)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(ask, "discreet")
            wait_until(lambda: behind.seen()["running"] == 1)
            routes.wanted()
            for _ in range(3):
                with pytest.raises(openai.RateLimitError):
                    ask("discreet/legal")
            slow.result()
        behind.control(pause=0.0)
        ask("discreet")
        noted = {}
        wait_until(lambda: noted.update(routes.wanted()) or first in noted)
        assert second not in noted
        ask("discreet/legal")
        wait_until(lambda: noted.update(routes.wanted()) or second in noted)
        assert noted[first] == noted[second] != ""
