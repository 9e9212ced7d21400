"""Publishers: back-pressure, delivery errors that surface, and the façade for event loops."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import warnings
from datetime import UTC, datetime

import pytest

from streams.client import (
    AsyncInteractionPublisher,
    BrokerUnreachableError,
    BufferFullError,
    DeliveryError,
    EventRefusedError,
    InteractionPublisher,
    KafkaBroker,
    Security,
)
from streams.client.testing import InMemoryBroker
from streams.contracts.topics import INTERACTIONS

EVENT = {
    "tenant_id": "acme",
    "user_id": "u-1",
    "interaction_id": "i-1",
    "prompt": "Where is it?",
    "completion": "There.",
    "outcome": {"kind": "accepted"},
    "notice_version": "1",
    "occurred_at": datetime(2026, 3, 2, tzinfo=UTC),
}


class StuckSink:
    """Takes records and confirms none until it is told to."""

    def __init__(self):
        self.waiting = []

    def send(self, record, on_done):
        self.waiting.append(on_done)

    def flush(self, timeout_seconds):
        while self.waiting:
            self.waiting.pop(0)(None)

    def close(self, timeout_seconds):
        self.waiting.clear()


class StuckBroker:
    def __init__(self):
        self.sink = StuckSink()

    def open_sink(self):
        return self.sink


def test_publishing_blocks_when_too_many_events_wait_and_then_refuses():
    broker = StuckBroker()
    publisher = InteractionPublisher(broker, source="/t", max_pending=3, block_seconds=0.01)
    deliveries = [publisher.publish(EVENT) for _ in range(3)]
    with pytest.raises(BufferFullError) as refused:
        publisher.publish(EVENT)
    assert refused.value.retryable
    assert not any(delivery.done for delivery in deliveries)
    broker.sink.waiting.pop(0)(None)
    publisher.publish(EVENT)
    publisher.flush()
    assert all(delivery.done for delivery in deliveries)


def test_a_blocked_publisher_goes_on_when_there_is_room():
    broker = StuckBroker()
    publisher = InteractionPublisher(broker, source="/t", max_pending=1, block_seconds=30)
    publisher.publish(EVENT)
    thread = threading.Thread(target=publisher.publish, args=(EVENT,))
    thread.start()
    broker.sink.waiting.pop(0)(None)
    thread.join(60)
    assert not thread.is_alive()
    assert len(broker.sink.waiting) == 1


def test_an_event_that_was_not_delivered_is_reported_everywhere():
    broker = InMemoryBroker()
    seen = []
    publisher = InteractionPublisher(
        broker, source="/t", on_error=lambda d, e: seen.append((d.event_id, e.code))
    )
    broker.fail_next([OSError("disk full at u-1"), OSError("again")])
    first = publisher.publish(EVENT, event_id="e-1")
    publisher.publish(EVENT, event_id="e-2")
    publisher.publish(EVENT, event_id="e-3").wait(1)
    with pytest.raises(DeliveryError, match="OSError") as failed:
        first.wait(1)
    assert "u-1" not in str(failed.value)
    assert seen == [("e-1", "client.delivery.failed"), ("e-2", "client.delivery.failed")]
    with pytest.raises(DeliveryError, match=r"2 event\(s\) were not delivered"):
        publisher.flush()
    publisher.flush()  # reported once
    assert len(broker.records(INTERACTIONS.name)) == 1


def test_leaving_the_block_reports_what_was_not_delivered():
    broker = InMemoryBroker()
    broker.fail_next([OSError()])
    with pytest.raises(DeliveryError), InteractionPublisher(broker, source="/t") as publisher:
        publisher.publish(EVENT)


def test_an_error_inside_the_block_is_not_hidden_by_a_failed_delivery():
    broker = InMemoryBroker()
    broker.fail_next([OSError()])

    def fail_after_publishing():
        with InteractionPublisher(broker, source="/t") as publisher:
            publisher.publish(EVENT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_publishing()


def test_room_is_given_back_when_the_broker_is_away():
    broker = InMemoryBroker()
    publisher = InteractionPublisher(broker, source="/t", max_pending=1, block_seconds=0.01)
    broker.set_reachable(False)
    for _ in range(3):
        with pytest.raises(BrokerUnreachableError):
            publisher.publish(EVENT)
    broker.set_reachable(True)
    publisher.publish(EVENT).wait(1)


def test_waiting_for_a_delivery_has_a_time_out():
    publisher = InteractionPublisher(StuckBroker(), source="/t")
    with pytest.raises(DeliveryError, match=r"within 0\.01 s"):
        publisher.publish(EVENT).wait(0.01)


def test_events_get_random_identities_unless_one_is_given():
    broker = InMemoryBroker()
    with InteractionPublisher(broker, source="/t") as publisher:
        ids = {publisher.publish(EVENT).event_id for _ in range(3)} | {
            publisher.publish(EVENT, event_id="x").event_id
        }
    assert len(ids) == 4
    assert "x" in ids
    assert {json.loads(record.value)["user_id"] for record in broker.records(INTERACTIONS.name)} == {"u-1"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": object()}, "JSON"),
        ({"occurred_at": "2026-01-01T00:00:00"}, "occurred_at"),
        ({"user_id": None}, "user_id"),
    ],
)
def test_a_mapping_that_is_no_event_is_refused(changes, field):
    with (
        InteractionPublisher(InMemoryBroker(), source="/t") as publisher,
        pytest.raises(EventRefusedError, match=field),
    ):
        publisher.publish({**EVENT, **changes})


def test_a_source_is_required():
    with pytest.raises(ValueError, match="source"):
        InteractionPublisher(InMemoryBroker(), source="")


def test_an_event_loop_publishes_without_blocking():
    broker = InMemoryBroker()

    async def run():
        async with AsyncInteractionPublisher(broker, source="/t") as publisher:
            deliveries = await asyncio.gather(
                *(publisher.publish(EVENT, event_id=f"e-{n}") for n in range(20))
            )
            await deliveries[0]
            broker.fail_next([OSError()])
            failing = await publisher.publish(EVENT)
            with pytest.raises(DeliveryError):
                await failing
            with pytest.raises(DeliveryError):
                await publisher.flush()

    asyncio.run(run())
    assert len(broker.records(INTERACTIONS.name)) == 20


def test_giving_up_waiting_does_not_cancel_the_event():
    broker = StuckBroker()

    async def run():
        publisher = AsyncInteractionPublisher(broker, source="/t")
        delivery = await publisher.publish(EVENT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(delivery, 0.01)
        await publisher.flush()
        await delivery
        await publisher.close()

    asyncio.run(run())


def test_an_address_without_a_broker_is_reported(caplog):
    caplog.set_level("CRITICAL", logger="kafka")  # records of the log would keep the sockets
    broker = KafkaBroker(bootstrap="127.0.0.1:1", connect_seconds=0.3)
    threads = threading.active_count()
    with warnings.catch_warnings():
        # kafka-python leaves the sockets of refused connections to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(BrokerUnreachableError, match=r"127\.0\.0\.1:1"):
            InteractionPublisher(broker, source="/t")
        with pytest.raises(BrokerUnreachableError, match=r"127\.0\.0\.1:1"):
            broker.open_source("t")
        for _ in range(5):  # one pass frees coroutines, a later one their sockets
            gc.collect()
    assert threading.active_count() <= threads  # and nothing is left running


@pytest.mark.parametrize(
    ("security", "options"),
    [
        (Security(), {"security_protocol": "PLAINTEXT"}),
        (Security(tls=True, ca_file="/ca"), {"security_protocol": "SSL", "ssl_cafile": "/ca"}),
        (
            Security(tls=True, mechanism="SCRAM-SHA-512", username="a", password="b"),
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": "a",
                "sasl_plain_password": "b",
            },
        ),
        (
            Security(tls=True, certificate_file="/c", key_file="/k"),
            {"security_protocol": "SSL", "ssl_certfile": "/c", "ssl_keyfile": "/k"},
        ),
    ],
)
def test_security_becomes_options_of_the_kafka_library(security, options):
    assert security.options() == options
    assert "'b'" not in repr(security)


def test_tokens_are_asked_for_each_time():
    tokens = iter(["one", "two"])
    options = Security(mechanism="OAUTHBEARER", token=lambda: next(tokens)).options()
    provider = options["sasl_oauth_token_provider"]
    assert (options["security_protocol"], provider.token(), provider.token()) == (
        "SASL_PLAINTEXT",
        "one",
        "two",
    )


@pytest.mark.parametrize(
    "wrong", [{"mechanism": "GSSAPI"}, {"mechanism": "OAUTHBEARER"}, {"mechanism": "PLAIN", "username": "a"}]
)
def test_security_that_cannot_work_is_refused(wrong):
    with pytest.raises(ValueError, match="mechanism"):
        Security(**wrong)


def test_the_version_of_the_broker_can_be_set():
    assert KafkaBroker(bootstrap="h:1,i:2", api_version=(2, 3)).common_options()["api_version"] == (2, 3)
    assert KafkaBroker(bootstrap="h:1,i:2").common_options()["bootstrap_servers"] == ["h:1", "i:2"]
