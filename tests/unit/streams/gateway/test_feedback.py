"""Feedback: what a body may say, what is published, what is only counted, and what is told to come again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from streams.client import AsyncInteractionPublisher, DeliveryError
from streams.client.testing import InMemoryBroker
from streams.contracts.codec import decode_interaction
from streams.contracts.topics import INTERACTIONS
from streams.errors import GatewayError
from streams.gateway.callers import Caller, Right
from streams.gateway.feedback import Fate, FeedbackDesk, read_feedback
from streams.gateway.kpis import Kpis
from streams.gateway.remembered import Remembered, Shown

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def caller(tenant="acme", rights=frozenset(Right)):
    return Caller(tenant_id=tenant, name="backend", rights=rights)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"id": "c", "outcome": "liked"},
        {"id": "", "outcome": "accepted"},
        {"id": "c" * 129, "outcome": "accepted"},
        {"id": "c", "outcome": "edited"},
        {"id": "c", "outcome": "edited", "final_text": 3},
        {"id": "c", "outcome": "edited", "final_text": "x" * 16_385},
        {"id": "c", "outcome": "rating"},
        {"id": "c", "outcome": "rating", "rating": 6},
        {"id": "c", "outcome": "rating", "rating": True},
        {"id": "c", "outcome": "accepted", "final_text": "x"},
        {"id": "c", "outcome": "rejected", "rating": 1},
        {"id": "c", "outcome": "accepted", "tenant": "globex"},
    ],
)
def test_what_is_no_feedback_is_refused(body):
    with pytest.raises(GatewayError) as refused:
        read_feedback(body)
    assert refused.value.status == 400


class Desk:
    def __init__(self, *, notice="n1", rights=frozenset(Right)):
        self.broker = InMemoryBroker()
        self.rights = rights
        self.remembered = Remembered(most=9, most_bytes=99_999, seconds=60.0)
        self.notice = notice

    def take(self, *bodies, tenant="acme"):
        async def run():
            async with AsyncInteractionPublisher(self.broker, source="/gateway") as publisher:
                desk = FeedbackDesk(
                    self.remembered, lambda *_: self.notice, publisher, Kpis(), clock=lambda: NOW
                )
                return [await desk.take(caller(tenant, self.rights), read_feedback(body)) for body in bodies]

        return asyncio.run(run())

    def published(self):
        return [
            decode_interaction(record.headers, record.value, key=record.key)
            for record in self.broker.records(INTERACTIONS.name)
        ]


def keep(desk, answer_id="c1", **changes):
    shown = {"prompt": "p?", "completion": "c!", "domain": "legal", "served_name": "a-x-v2", **changes}
    desk.remembered.keep(answer_id, "acme", "ann", Shown(**shown))


@pytest.mark.parametrize(
    "outcome",
    [
        {"outcome": "accepted"},
        {"outcome": "edited", "final_text": "better"},
        {"outcome": "rejected"},
        {"outcome": "rating", "rating": 4},
        {"outcome": "correction", "final_text": "right"},
    ],
)
def test_feedback_becomes_an_interaction_with_what_was_asked_and_shown(outcome):
    desk = Desk()
    keep(desk)
    assert desk.take({"id": "c1", "user": "ann", **outcome}) == [Fate.PUBLISHED]
    (decoded,) = desk.published()
    event = decoded.data
    assert (event.tenant_id, event.user_id, event.interaction_id) == ("acme", "ann", "c1")
    assert (event.prompt, event.completion, event.domain) == ("p?", "c!", "legal")
    assert (event.served_name, event.notice_version, event.occurred_at) == ("a-x-v2", "n1", NOW)
    expected = {("kind" if name == "outcome" else name): value for name, value in outcome.items()}
    assert event.outcome.model_dump() == expected


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ({"id": "unknown", "user": "ann"}, {}),
        ({"id": "c1", "user": "bob"}, {}),
        ({"id": "c1"}, {}),
        ({"id": "c1", "user": "ann"}, {"notice": None}),
        ({"id": "c1", "user": "ann"}, {"rights": frozenset({Right.FEEDBACK})}),
        ({"id": "c1", "user": "ann", "tenant": "globex"}, {}),
    ],
)
def test_what_may_not_be_published_is_counted_and_looks_alike(body, changes):
    desk = Desk(**changes)
    keep(desk)
    tenant = body.pop("tenant", "acme")
    assert desk.take({**body, "outcome": "accepted"}, tenant=tenant) == [Fate.COUNTED]
    assert desk.published() == []


def test_the_same_feedback_sent_twice_has_one_id_and_another_has_another():
    desk = Desk()
    keep(desk)
    edited = {"id": "c1", "user": "ann", "outcome": "edited", "final_text": "better"}
    desk.take(edited, edited, {**edited, "final_text": "best"})
    ids = sorted(decoded.envelope.id for decoded in desk.published())
    assert len(ids) == 3
    assert len(set(ids)) == 2
    assert "better" not in "".join(ids)


def test_nobody_accepts_what_was_not_seen_to_its_end():
    desk = Desk()
    keep(desk, whole=False)
    assert desk.take({"id": "c1", "user": "ann", "outcome": "accepted"}) == [Fate.COUNTED]
    assert desk.take({"id": "c1", "user": "ann", "outcome": "rejected"}) == [Fate.PUBLISHED]


def test_a_broker_that_does_not_confirm_is_told_and_the_answer_stays():
    desk = Desk()
    keep(desk)
    accepted = read_feedback({"id": "c1", "user": "ann", "outcome": "accepted"})

    async def run():
        async with AsyncInteractionPublisher(desk.broker, source="/gateway") as publisher:
            taker = FeedbackDesk(desk.remembered, lambda *_: "n1", publisher, Kpis(), clock=lambda: NOW)
            desk.broker.fail_next([DeliveryError("away")])
            with pytest.raises(GatewayError) as refused:
                await taker.take(caller(), accepted)
            with pytest.raises(DeliveryError):
                await publisher.flush()
            return refused.value, await taker.take(caller(), accepted)

    refused, fate = asyncio.run(run())
    assert (refused.status, refused.retry_after, fate) == (503, 1, Fate.PUBLISHED)
    assert len(desk.published()) == 1
