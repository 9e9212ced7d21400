"""The gateway tells its bridge what was asked for; a bridge that is away hears of it later."""

from __future__ import annotations

import asyncio

import pytest

from streams.errors import SettingsError
from streams.gateway.wanted import MOST_AT_ONCE, MOST_KEPT, BridgeWanted, NobodyToTell
from streams.processes.gateway import bridge_of
from streams.serving.engines.metrics import BridgeMetrics
from streams.serving.engines.routes import Routes
from streams.serving.engines.web import MAX_NAMES, BridgeWeb
from streams.settings import Settings

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
    told(url, lambda wanted: wanted.note(NAMES + NAMES), lambda _: None)
    assert routes.wanted() == frozenset(NAMES)
    assert routes.wanted() == frozenset(), "what was told is not told again"


def test_a_bridge_that_was_away_hears_of_it_later(bridge):
    url, routes = bridge

    def come_back(wanted):
        assert len(wanted._names) == 1
        wanted._url = f"{url}/v1/wanted"

    told("http://127.0.0.1:9", lambda wanted: wanted.note(NAMES[:1]), come_back)
    assert routes.wanted() == {NAMES[0]}


def test_a_wrong_token_tells_nothing(bridge):
    url, routes = bridge
    assert list(told(url, lambda wanted: wanted.note(NAMES[:1]), token="wrong")._names) == NAMES[:1]
    assert routes.wanted() == frozenset()


def test_what_is_kept_for_a_bridge_that_is_away_is_bounded():
    wanted = BridgeWanted(url="http://127.0.0.1:9", token=TOKEN, every_seconds=1.0)
    wanted.note(str(number) for number in range(2 * MOST_KEPT))
    assert len(wanted._names) == MOST_KEPT


def test_a_bridge_without_its_token_is_refused_and_none_is_none():
    assert isinstance(bridge_of(Settings().gateway), NobodyToTell)
    with pytest.raises(SettingsError, match="BRIDGE_TOKEN"):
        bridge_of(Settings(gateway={"bridge_url": "http://127.0.0.1:6071"}).gateway)
