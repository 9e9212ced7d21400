"""A shadow takes a place among its tenant's requests, where enough are free, and gives it back however it ends."""

from __future__ import annotations

import asyncio

import pytest

from streams.errors import EngineAwayError, GatewayError
from streams.gateway.limits import Places
from streams.gateway.requests import Form
from streams.gateway.shadowing import Shadow
from streams.gateway.upstreams import Call

CALL = Call(form=Form.CHAT, document={}, adapter="a-1", tenant="acme")


class Slow:
    """Answers when it is let."""

    def __init__(self, error=None):
        self.let, self.error = asyncio.Event(), error

    async def whole(self, _call):
        await self.let.wait()
        if self.error is not None:
            raise self.error
        return {"choices": [{"message": {"content": "said"}}]}


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "word"), [(None, "same"), (EngineAwayError("gone"), "failed"), (ValueError("odd"), None)]
)
def test_it_counts_among_what_is_in_progress_and_leaves_half_of_it_to_users(error, word):
    async def run():
        told, places = [], Places(most=8, most_per_tenant=4)
        shadow, engine = Shadow(lambda how, _: told.append(how), places), Slow(error)
        for _ in range(3):
            shadow.ask(engine, CALL, "said")
        assert (places.taken, told) == (2, ["skipped"]), "half of the tenant's places stay free"
        for _ in range(2):
            places.take("acme")
        with pytest.raises(GatewayError):
            places.take("acme")
        for _ in range(2):
            places.give_back("acme")
        engine.let.set()
        await settled()
        assert places.taken == 0
        assert told[1:] == ([word] * 2 if word else [])
        for _ in range(4):
            places.take("globex")
        shadow.ask(engine, CALL, "said")
        assert told[-1] == "skipped", "and half of everybody's"
        await shadow.close()

    asyncio.run(run())


def test_what_is_under_way_at_the_end_gives_its_place_back():
    async def run():
        places = Places(most=8, most_per_tenant=4)
        shadow = Shadow(lambda *_: None, places)
        shadow.ask(Slow(), CALL, "said")
        await settled()
        await shadow.close()
        await settled()
        return places.taken

    assert asyncio.run(run()) == 0
