"""Choices among templates over HTTP: asked for by who may, of one's own tenant alone, and told at public instants."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import aiohttp
import pytest
from sqlmodel import select

from personalization.choices.tables import PromptChoiceRow
from personalization.choices.values import ChoiceOutcome
from personalization.errors import TrainingFailedError
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies
from privacy.policy.ceilings import PolicyCeilings
from privacy.storage.session import reading, transaction
from streams.http.server import HttpServer
from streams.http.tokens import Access
from streams.storage.operator_tokens import Role, new_token
from tests.fakes.choosing import ChoosingWorld
from tests.integration.streams.http.test_operator_api import Probes

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CHOOSE, CHOICES = "/v1/tenants/acme/prompts:choose", "/v1/tenants/acme/prompts/choices"
ASKED = {"candidates": ["v1", "v2", "v3"], "reason": "which do users like", "epsilon": 1}
PLATFORM = "platform-token"


class AskedWorld(ChoosingWorld):
    """Its operator API, and tokens by name."""

    def __init__(self, engine, **policy):
        super().__init__(engine, users=2, **policy)
        with transaction(engine) as session:
            policies.register_tenant(session, "globex", actor="ann", now=self.now)
            self.tokens = {
                name: new_token(session, tenant, name, role=role, days=9, actor="ann", now=self.now)[0]
                for name, tenant, role in (
                    ("bea", "acme", Role.ADMINISTRATOR),
                    ("rob", "acme", Role.READER),
                    ("sam", "acme", Role.SERVER),
                    ("eve", "globex", Role.ADMINISTRATOR),
                )
            }

    def http(self, *requests, keys=None, ceilings=None):
        """Return status and body of each (method, path, whose token, body), one after the other."""
        known = [self.signer.public_key] if keys is None else keys

        async def main():
            server = HttpServer(
                host="127.0.0.1",
                port=0,
                probes=Probes(),
                exposition=lambda: b"",
                access=Access(self.engine, PLATFORM, lambda: self.now),
                ceilings=ceilings or PolicyCeilings(),
                signed_by=lambda: known,
            )
            answers = []
            async with server, aiohttp.ClientSession() as client:
                for method, path, name, body in requests:
                    headers = {"Authorization": f"Bearer {self.tokens.get(name, name)}"} if name else {}
                    url = f"http://127.0.0.1:{server.port}{path}"
                    async with client.request(method, url, headers=headers, json=body) as response:
                        answers.append((response.status, await response.json()))
            return answers

        return asyncio.run(main())


def test_a_choice_is_asked_for_listed_and_told_and_the_act_is_audited(engine):
    world = AskedWorld(engine)
    world.answer(1)
    (asked, again, listed) = world.http(
        ("POST", CHOOSE, "bea", ASKED), ("POST", CHOOSE, "bea", ASKED), ("GET", CHOICES, "rob", None)
    )
    made = asked[1]["prompt_choice"]
    assert (asked[0], made["domain"], made["state"], made["epsilon"], made["percent"], made["actor"]) == (
        201, "default", "due", 1.0, 10.0, "bea",
    )  # fmt: skip
    assert made["users_needed"] <= made["declared_users"] == 200
    assert 0 < made["epsilon_at_delta"] < 2
    assert (again[0], again[1]["error"]["code"]) == (409, "personalization.prompt.choice")
    (one,) = listed[1]["prompt_choices"]
    assert (one["choice_id"], one["state"], one["template"]) == (made["choice_id"], "due", None)
    assert world.tick() == [ChoiceOutcome.CHOSEN]
    told, none = world.http(
        ("GET", CHOICES, "rob", None), ("GET", f"{CHOICES}?domain=other&limit=3", PLATFORM, None)
    )
    (one,) = told[1]["prompt_choices"]
    assert (one["outcome"], one["drawn"] in one["candidates"], one["damaged"]) == ("chosen", True, False)
    assert none == (200, {"tenant": "acme", "prompt_choices": []})
    with reading(engine) as session:
        acts = [(one.actor, one.action) for one in audit_trail.read(session, "acme")]
    assert acts.count(("bea", "prompt.choice_asked")) == 1


def test_who_may_not_or_asks_for_what_cannot_be_is_refused_and_nothing_is_opened(engine):
    world = AskedWorld(engine)
    refused = world.http(
        *(("POST", CHOOSE, name, ASKED) for name in ("eve", "sam", "rob", "")),
        *(("GET", CHOICES, name, None) for name in ("eve", "sam", "")),
        ("GET", f"{CHOICES}?limit=0", "rob", None),
        ("POST", CHOOSE, "bea", {**ASKED, "candidates": "v1,v2"}),
        ("POST", CHOOSE, "bea", {**ASKED, "epsilon": True}),
        ("POST", CHOOSE, "bea", {**ASKED, "percent": 10**400}),
        ("POST", CHOOSE, "bea", {**ASKED, "candidates": ["v1"] * 17}),
        ("POST", CHOOSE, "bea", {**ASKED, "more": 1}),
        ("POST", CHOOSE, "bea", {**ASKED, "candidates": ["v1", "v9"]}),
        ("POST", CHOOSE, "bea", {**ASKED, "epsilon": 0.05}),
    )
    assert [status for status, _ in refused] == [404, 403, 403, 401, 404, 403, 401, *[400] * 6, 404, 409]
    assert "need" in refused[-1][1]["error"]["text"]
    for options, said in (
        ({"keys": []}, "DISCREET_SERVING__PUBLIC_KEYS"),
        ({"keys": [bytes(32)]}, "signed by no key"),
        ({"ceilings": PolicyCeilings(lifetime_epsilon=1.0)}, "above what the platform allows"),
    ):
        ((status, body),) = world.http(("POST", CHOOSE, "bea", ASKED), **options)
        assert (status, said in body["error"]["text"]) == (409, True), body
    assert world.rows() == []


def test_the_tenants_own_see_how_a_choice_ended_at_its_public_instant(engine):
    """How long votes took depends on what users wrote, and so does when they were not had."""
    world = AskedWorld(engine, release_padding_seconds=3600)
    world.answer(1)
    began = world.now
    assert world.http(("POST", CHOOSE, "bea", ASKED))[0][0] == 201

    def fail(_should_stop):
        world.now += timedelta(minutes=7)
        raise TrainingFailedError("planted")

    world.voting.during = fail
    ask, budget = ("POST", CHOOSE, "bea", ASKED), ("GET", "/v1/tenants/acme/budget", "bea", None)
    listing = [("GET", CHOICES, name, None) for name in ("bea", PLATFORM)]
    assert world.tick() == []
    *listed, (_, spent), (again, _) = world.http(*listing, budget, ask)
    for _, body in listed:
        (one,) = body["prompt_choices"]
        assert (one["state"], one["outcome"], one["closed_at"]) == ("leased", None, None)
    assert (spent["reservations"], again) == ({"running": 1}, 409), "nor do other routes tell it"
    world.now = told_at = began + timedelta(hours=2)
    assert world.tick() == [ChoiceOutcome.FORFEITED]
    *listed, (_, spent), (again, _) = world.http(*listing, budget, ask)
    for _, body in listed:
        (one,) = body["prompt_choices"]
        assert (one["state"], one["outcome"], one["closed_at"]) == (
            "failed",
            "forfeited",
            told_at.isoformat(),
        )
    assert (spent["reservations"], again) == ({"forfeited": 1}, 201)
    assert len(world.voting.jobs) == 1, "it was not asked for again"


def test_what_a_trainer_from_before_closed_early_is_shown_at_its_public_instant_all_the_same(engine):
    world = AskedWorld(engine, release_padding_seconds=3600)
    world.answer(1)
    assert world.http(("POST", CHOOSE, "bea", ASKED))[0][0] == 201
    assert world.tick() == []
    closed_at = world.now
    with transaction(engine) as session:
        row = session.exec(select(PromptChoiceRow)).one()
        row.state, row.outcome, row.closed_at, row.drawn_json = "failed", "forfeited", closed_at, None
        session.add(row)
    seen = world.http(("GET", CHOICES, "bea", None), ("GET", CHOICES, PLATFORM, None))
    states = [(body["prompt_choices"][0]["state"], body["prompt_choices"][0]["outcome"]) for _, body in seen]
    assert states == [("leased", None), ("failed", "forfeited")]
    world.now += timedelta(hours=2)
    (one,) = world.http(("GET", CHOICES, "bea", None))[0][1]["prompt_choices"]
    assert (one["state"], one["closed_at"] > closed_at.isoformat()) == ("failed", True)
