"""The versions of a tenant over HTTP: one whose slot has not come is the platform operator's to see, nobody else's."""

from __future__ import annotations

import asyncio
import json

from aiohttp.test_utils import make_mocked_request

from privacy.storage.session import transaction
from streams.http.adapters import AdapterRoutes
from streams.http.tokens import Access
from streams.storage.operator_tokens import new_token
from tests.fakes.training import Workshop


def test_a_tenant_sees_a_version_from_its_slots_instant_on(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant(release_padding_seconds=60)
    shop.open_round()
    shop.process().run_once()
    with transaction(engine) as session:
        token, _ = new_token(session, "acme", "bea", actor="ann", now=clock())
    routes = AdapterRoutes(Access(engine, "platform-token", clock))

    def seen(bearer):
        request = make_mocked_request(
            "GET",
            "/v1/tenants/acme/adapters",
            headers={"Authorization": f"Bearer {bearer}"},
            match_info={"tenant": "acme"},
        )
        answer = json.loads(asyncio.run(routes._adapters(request)).text)
        return [one["version"] for one in answer["adapters"]]

    assert (seen("platform-token"), seen(token)) == ([1], [])
    clock.advance(seconds=120)
    assert (seen("platform-token"), seen(token)) == ([1], [1])
