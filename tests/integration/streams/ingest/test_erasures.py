"""An erasure is carried out whatever its sender's clock said; its deadline counts from its arrival at the latest."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlmodel import select

from personalization.signals.rows import SignalRow
from privacy.erasure.certificates import deadline
from privacy.erasure.tables import ErasureRow
from privacy.storage.session import transaction
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, consent, erasure, interaction


@pytest.mark.parametrize("at", [datetime(2099, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)])
def test_a_request_from_the_future_is_carried_out_and_dated_at_its_arrival(engine, at):
    world = IngestWorld(engine)
    world.take(world.consents, consent())
    world.take(world.interactions, interaction())
    assert world.take(world.erasures, erasure(at=at)).effects == 1
    assert world.count(SignalRow) == 0
    with transaction(engine) as session:
        (row,) = session.exec(select(ErasureRow))
        assert (row.requested_at, row.deadline_at) == (NOW, deadline(NOW))
        assert row.certificate["requested_at"] == NOW.isoformat()
