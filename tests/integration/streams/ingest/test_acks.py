"""A server whose clock ran ahead once is heard again afterwards."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlmodel import select

from privacy.storage.session import transaction
from streams.contracts.ack import AckStatus
from streams.ingest.acks import AckHandler
from streams.ingest.letters import DeadLetterSink
from streams.storage.tables import ServingAckRow
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, ack


def test_an_acknowledgement_from_the_future_is_refused_and_hides_none_that_follows(engine):
    world = IngestWorld(engine)
    acks = AckHandler(
        engine=engine, letters=DeadLetterSink(world.sender, "w"), clock=lambda: NOW, max_event_bytes=2048
    )
    ahead = ack("a1", at=datetime(2099, 1, 1, tzinfo=UTC))
    outcome = world.take(acks, ahead, ack("a2", status=AckStatus.FAILED, offset=1))
    assert (outcome.effects, outcome.dead_letters) == (1, 1)
    assert world.sender.reasons == ["in_the_future"]
    with transaction(engine) as session:
        assert [row.status for row in session.exec(select(ServingAckRow))] == [AckStatus.FAILED.value]
