"""Times that leave are those of public slots: the same whatever a round took, and a round past its slot forfeits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from personalization.registry.announcements import AdapterEventKind
from personalization.registry.tables import AdapterVersionRow
from personalization.rounds.slots import told_at
from personalization.rounds.states import OutcomeCode
from personalization.rounds.tables import RoundRow
from privacy.ledger import ReservationState
from privacy.ledger.tables import LedgerEntryRow
from tests.fakes.training import Workshop, failed

HOUR = timedelta(hours=1)
SLOT = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant(release_padding_seconds=3600)
    return shop


def test_a_round_is_told_at_the_end_of_the_window_after_the_one_it_began_in():
    assert told_at(SLOT, SLOT, HOUR) == SLOT + 2 * HOUR
    assert told_at(SLOT, SLOT + HOUR - timedelta(microseconds=1), HOUR) == SLOT + 2 * HOUR
    assert told_at(SLOT, SLOT + HOUR, HOUR) == SLOT + 3 * HOUR
    assert told_at(SLOT, SLOT - HOUR, HOUR) == SLOT + 2 * HOUR  # a clock that was set back
    assert told_at(SLOT, SLOT + HOUR, timedelta(0)) == SLOT


def told(shop, clock, took, tenant="acme"):
    """Run one round that takes so long and return every time that it published."""
    shop.trainer.during = lambda _stop: clock.advance(seconds=took.total_seconds())
    began = clock.now()
    shop.open_round(tenant)
    shop.process(lease=timedelta(days=1)).run_once()
    event = shop.events.committed[-1]
    with shop.session() as session:
        row = session.exec(select(RoundRow).where(RoundRow.tenant_id == tenant)).one()
        version = session.get(AdapterVersionRow, row.version_id)
        entries = session.exec(
            select(LedgerEntryRow.recorded_at).where(
                LedgerEntryRow.reservation_id == row.reservation_id, LedgerEntryRow.kind == "committed"
            )
        ).all()
    times = (
        event.occurred_at,
        datetime.fromisoformat(event.version.manifest.created_at),
        version.published_at,
        *map(datetime.fromisoformat, entries),
    )
    return {time - began for time in times}


def test_what_is_published_says_nothing_of_how_long_training_took(shop, clock):
    shop.add_tenant("slow", release_padding_seconds=3600)
    assert told(shop, clock, timedelta(seconds=2)) == {2 * HOUR}
    assert told(shop, clock, timedelta(minutes=50), tenant="slow") == {2 * HOUR}


def test_without_padding_the_slot_itself_is_stamped(shop, clock):
    shop.add_tenant("prompt", release_padding_seconds=0)
    assert told(shop, clock, timedelta(minutes=3), tenant="prompt") == {timedelta(0)}


def test_a_round_that_is_longer_than_its_slot_forfeits_at_a_public_instant(shop, clock):
    began = clock.now()
    shop.trainer.during = lambda _stop: clock.advance(seconds=2 * 3600 + 1)
    shop.open_round()
    shop.process(lease=timedelta(days=1)).run_once()
    (event,) = shop.events.committed
    assert (event.kind, event.reason_code) == (AdapterEventKind.DECLINED, OutcomeCode.FORFEITED.value)
    assert event.occurred_at == began + 2 * HOUR
    assert "slot" in event.reason
    with shop.session() as session:
        assert shop.ledger.spend(session, "acme", 0).reservations == {ReservationState.FORFEITED: 1}


def test_a_declined_or_failed_round_is_told_at_the_same_instant_and_with_no_more_words(shop, clock):
    began = clock.now()
    shop.trainer.failures.append(failed())
    shop.trainer.during = lambda _stop: clock.advance(seconds=100)
    shop.open_round()
    shop.process(lease=timedelta(days=1)).run_once()
    (event,) = shop.events.committed
    assert event.occurred_at == began + 2 * HOUR
    assert event.reason == "The round could not be finished; its charge stays."
    assert event.reason_code == OutcomeCode.TRAINING_FAILED.value
