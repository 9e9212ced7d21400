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


def seen_at(routes, path, bearer, **body):
    """What a route answers to a token."""
    app = web.Application(middlewares=[_errors_as_json])
    routes.add_to(app.router)

    async def ask():
        async with TestClient(TestServer(app)) as client:
            headers = {"Authorization": f"Bearer {bearer}"}
            call = (
                client.post(path, json=body, headers=headers) if body else client.get(path, headers=headers)
            )
            answer = await call
            return answer.status, await answer.json()

    return asyncio.run(ask())


def test_a_tenant_sees_a_candidate_from_its_slots_instant_on_and_until_then_what_stood_before(
    engine, clock, tmp_path
):
    shop = RolloutShop(engine, clock, tmp_path, release_padding_seconds=3600)
    first = shop.publish()
    clock.advance(seconds=7200)
    access = Access(engine, "platform-token", clock)
    routes = AdapterRoutes(access)
    with transaction(engine) as session:
        tokens = {
            role: new_token(session, "acme", role.value, actor="ann", now=clock(), role=role)[0]
            for role in (Role.READER, Role.SERVER)
        }

    def rollouts_of(bearer):
        _, told = seen_at(routes, "/v1/tenants/acme/rollouts", bearer)
        return [(one["stage"], one["candidate"], one["percent"]) for one in told["rollouts"]]

    def states_of(bearer):
        _, told = seen_at(routes, "/v1/tenants/acme/adapters", bearer)
        return [one["state"] for one in told["adapters"]]

    before = rollouts_of(tokens[Role.READER]), states_of(tokens[Role.READER])
    second = shop.publish()
    with transaction(engine) as session:
        names = [registry.get_version(session, one).served_name for one in (first, second)]
    assert rollouts_of("platform-token") == [("candidate", names[1], 0.0)]
    assert (rollouts_of(tokens[Role.READER]), states_of(tokens[Role.READER])) == before == ([], ["published"])
    reading = {"served_name": names[1], "name": "error_rate", "value": 0.0}
    path = "/v1/tenants/acme/guards"
    early = seen_at(routes, path, tokens[Role.SERVER], **reading)
    never = seen_at(routes, path, tokens[Role.SERVER], **{**reading, "served_name": "a-0-v9"})
    assert early[0] == never[0] == 409
    assert early[1]["error"]["code"] == never[1]["error"]["code"]

    clock.advance(seconds=7200)
    assert rollouts_of(tokens[Role.READER]) == [("candidate", names[1], 0.0)]
    assert seen_at(routes, path, tokens[Role.SERVER], **reading)[0] == 200
    shop.verify(second)
    shop.run_tick()
    on_the_way = rollouts_of(tokens[Role.READER])
    assert on_the_way == [("canary", names[1], 10.0)]
    third = shop.publish()  # takes the place of the candidate that runs, from its slot on
    assert shop.states()[second] == "rolled_back"
    assert rollouts_of(tokens[Role.READER]) == on_the_way
    assert states_of(tokens[Role.READER]) == ["published", "candidate"]
    clock.advance(seconds=7200)
    with transaction(engine) as session:
        newest = registry.get_version(session, third).served_name
    assert rollouts_of(tokens[Role.READER]) == [("candidate", newest, 0.0)]
    assert states_of(tokens[Role.READER]) == ["published", "rolled_back", "candidate"]


def test_guards_are_told_by_who_watches_servers_and_not_by_who_hears_users(engine, clock, tmp_path):
    shop = RolloutShop(engine, clock, tmp_path)
    shop.publish()
    candidate = shop.publish()
    with transaction(engine) as session:
        name = registry.get_version(session, candidate).served_name
        tokens = {
            role: new_token(session, "acme", role.value, actor="ann", now=clock(), role=role)[0]
            for role in (Role.READER, Role.SERVER, Role.ADMINISTRATOR)
        }
    routes = AdapterRoutes(Access(engine, "platform-token", clock))
    told = {
        role: seen_at(
            routes, "/v1/tenants/acme/guards", token, served_name=name, name="error_rate", value=0.01
        )[0]
        for role, token in tokens.items()
    }
    assert told == {Role.READER: 403, Role.SERVER: 200, Role.ADMINISTRATOR: 403}
    for guard, value in (("error_rate", 1.5), ("latency_p95_ms", -1.0), ("acceptance", 0.5)):
        reading = {"served_name": name, "name": guard, "value": value}
        assert seen_at(routes, "/v1/tenants/acme/guards", "platform-token", **reading)[0] == 409


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
