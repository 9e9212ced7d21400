"""From the events on the broker alone: what lines serve, how their rollouts went, and where the database differs."""

from __future__ import annotations

import json

import pytest
from sqlmodel import select

from personalization.rollouts.values import Stage
from streams.cli.main import main
from streams.client.signatures import TrustedKeys
from streams.client.testing import InMemoryBroker
from streams.contracts.codec import Record
from streams.contracts.topics import ADAPTER_EVENTS
from streams.errors import BrokerUnavailableError
from streams.outbox.stories import read_events, retell
from streams.outbox.tables import OutboxRow
from tests.fakes.rollouts import RolloutShop

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = RolloutShop(engine, clock, tmp_path)
    shop.publish()
    shop.verify(shop.publish())
    shop.run_tick()
    return shop


def sent(shop, broker=None):
    """A broker that has everything which the outbox has, as the relay sends it."""
    broker = broker or InMemoryBroker({ADAPTER_EVENTS.name: 1})
    with shop.session() as session:
        rows = session.exec(
            select(OutboxRow).where(OutboxRow.topic == ADAPTER_EVENTS.name).order_by(OutboxRow.outbox_id)
        ).all()
    sink = broker.open_sink()
    for row in rows:
        headers = [(name, text.encode()) for name, text in row.headers]
        sink.send(Record(row.topic, row.key, row.value, headers), lambda error: None)
    return broker


def retold(shop, broker, key=None):
    events = read_events(broker, TrustedKeys([key or shop.signer.public_key]))
    with shop.session() as session:
        return retell(session, events), events.refused


def test_the_events_alone_say_what_the_database_says(shop):
    broker = sent(shop)
    (line,), refused = retold(shop, sent(shop, broker))  # delivered twice
    assert (line.problem, line.waiting, refused) == ("", 0, 0)
    assert line.story.serving == shop.serving()
    assert line.story.states == shop.states()
    assert line.story.rollout.stage is Stage.CANARY
    shop.clock.advance(seconds=60)
    shop.run_tick()  # its guard is absent: rolled back, and the event waits
    (line,), _ = retold(shop, broker)
    assert (line.problem, line.waiting) == ("", 1)


def test_a_database_that_tells_another_story_is_named(shop):
    broker = sent(shop)
    with shop.session() as session:
        from personalization.registry import queries as registry

        line = registry.find_line(session, "acme", "default")
        line.current_version_id = None
        session.add(line)
    (line,), _ = retold(shop, broker)
    assert line.problem == "the database serves another version"


def test_events_that_nobody_trusted_signed_tell_nothing(shop):
    found, refused = retold(shop, sent(shop), key=bytes(32))
    assert found == []
    assert refused == 3
    with pytest.raises(BrokerUnavailableError, match="missing"):
        read_events(InMemoryBroker({}), TrustedKeys([bytes(32)]))


def test_the_command_tells_it_and_ends_with_1_where_it_differs(
    shop, database_url, tmp_path, monkeypatch, capsys
):
    broker = sent(shop)
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setattr("streams.broker.clients.client_broker", lambda _settings: broker)
    monkeypatch.setattr("streams.processes.keys.adapter_signer", lambda _settings: shop.signer)
    monkeypatch.setattr("streams.processes.keys.earlier_public_keys", lambda _settings: {})
    assert main(["adapters", "replay", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["lines"][0]["serving"] == shop.serving()
    assert main(["adapters", "replay"]) == 0
    assert "as the database says (3 events)" in capsys.readouterr().out
    with shop.session() as session:
        from personalization.registry import queries as registry

        line = registry.find_line(session, "acme", "default")
        line.epoch -= 1
        session.add(line)
    assert main(["adapters", "replay"]) == 1
    assert "lacks events" in capsys.readouterr().out
