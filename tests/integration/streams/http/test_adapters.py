"""The versions of a tenant over HTTP: one whose slot has not come is the platform operator's to see, nobody else's."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from personalization.registry import queries as registry
from personalization.rollouts.evidence import GUARD_POSTED
from privacy.audit import trail
from privacy.storage.session import transaction
from streams.http.adapters import AdapterRoutes
from streams.http.server import _errors_as_json
from streams.http.tokens import Access
from streams.storage.operator_tokens import Role, new_token
from tests.fakes.rollouts import RolloutShop
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


def test_a_guard_is_told_over_http_and_the_rollout_shown(engine, clock, tmp_path):
    shop = RolloutShop(engine, clock, tmp_path)
    shop.publish()
    candidate = shop.publish()
    shop.verify(candidate)
    shop.run_tick()
    with transaction(engine) as session:
        reader, _ = new_token(session, "acme", "bea", actor="ann", now=clock(), role=Role.READER)
        served_name = registry.get_version(session, candidate).served_name
    access = Access(engine, "platform-token", clock)
    app = web.Application(middlewares=[_errors_as_json])
    AdapterRoutes(access).add_to(app.router)

    async def ask():
        async with TestClient(TestServer(app)) as client:
            headers = {"Authorization": "Bearer platform-token"}
            reading = {"served_name": served_name, "name": "error_rate", "value": 0.5}
            sent = await client.post("/v1/tenants/acme/guards", json=reading, headers=headers)
            assert (sent.status, await sent.json()) == (200, {"status": "kept"})
            shown = await client.get("/v1/tenants/acme/rollouts", headers=headers)
            refused = []
            for bad in ({**reading, "value": True}, {**reading, "value": "1"}, {"name": "error_rate"}):
                answered = await client.post("/v1/tenants/acme/guards", json=bad, headers=headers)
                refused.append(answered.status)
            viewer = {"Authorization": f"Bearer {reader}"}
            denied = await client.post("/v1/tenants/acme/guards", json=reading, headers=viewer)
            return await shown.json(), refused, denied.status

    shown, refused, denied = asyncio.run(ask())
    assert [(one["candidate"], one["percent"]) for one in shown["rollouts"]] == [(served_name, 10.0)]
    assert all(400 <= status < 500 for status in [*refused, denied])
    with transaction(engine) as session:
        posted = [one for one in trail.read(session, "acme") if one.action == GUARD_POSTED]
    assert [(one.actor, one.detail["guard"], one.detail["value"]) for one in posted] == [
        ("platform operator", "error_rate", 0.5)
    ], "what was kept, and nothing of what was refused"
    assert posted[0].detail["candidate"] == served_name
    shop.run_tick()
    assert shop.states()[candidate] == "rolled_back"
