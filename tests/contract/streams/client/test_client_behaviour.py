"""One behaviour suite for every broker: in memory, embedded, and Apache Kafka where there is one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from streams.client import (
    AckStatus,
    AdapterFeed,
    AsyncInteractionPublisher,
    BrokerUnreachableError,
    ClosedError,
    ConsentPublisher,
    ConsentPurpose,
    DeliveryError,
    Edited,
    ErasurePublisher,
    EventRefusedError,
    InteractionPublisher,
    InteractionV1,
    KafkaBroker,
    Rating,
    Security,
    UpdateKind,
)
from streams.client.positions import FilePositions
from streams.client.testing import FakeLine, FakeSigner, InMemoryBroker
from streams.contracts import topics
from streams.contracts.codec import (
    Decoded,
    Record,
    decode_ack,
    decode_consent,
    decode_erasure,
    decode_interaction,
    tombstone,
)
from streams.contracts.signed_record import KEY_ID_HEADER, SIGNATURE_HEADER

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
LISTENERS = {
    "kafka": "DISCREET_TEST_KAFKA",
    "kafka-scram-tls": "DISCREET_TEST_KAFKA_SCRAM",
    "kafka-oauth": "DISCREET_TEST_KAFKA_OAUTH",
}
BROKERS = ["memory", "embedded", *(name for name, variable in LISTENERS.items() if os.environ.get(variable))]


def access_token():
    """An unsigned token, which the test broker accepts."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": "product", "iat": now - 5, "exp": now + 600})
    return "".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") + "." for p in parts)


def security(name):
    if name == "kafka-scram-tls":
        ca_file = Path(os.environ["DISCREET_TEST_KAFKA_CA"])
        return Security(
            tls=True, mechanism="SCRAM-SHA-512", username="product", password="for-tests", ca_file=ca_file
        )
    return Security(mechanism="OAUTHBEARER", token=access_token) if name == "kafka-oauth" else Security()


@dataclass
class RenamedTopics:
    """A broker whose topics carry a prefix, so that every test has fresh ones on a broker that many share."""

    inner: KafkaBroker
    prefix: str

    def open_sink(self):
        sink = self.inner.open_sink()
        send = sink.send
        sink.send = lambda record, on_done: send(record._replace(topic=self.prefix + record.topic), on_done)
        return sink

    def open_source(self, topic):
        return self.inner.open_source(self.prefix + topic)

    def create_topic(self, name, partitions, configs=None):
        options = {k: v for k, v in self.inner.common_options().items() if k != "metrics_enabled"}
        with KafkaAdminClient(**options) as admin:
            admin.create_topics(
                {
                    self.prefix + name: {
                        "num_partitions": partitions,
                        "replication_factor": 1,
                        "configs": configs or {},
                    }
                },
                wait_for_metadata=True,
            )


@pytest.fixture(params=BROKERS)
def broker(request):
    if request.param == "memory":
        return InMemoryBroker({})
    if request.param == "embedded":
        bootstrap = request.getfixturevalue("embedded_bootstrap")
    else:
        bootstrap = os.environ[LISTENERS[request.param]]
    kafka = KafkaBroker(
        bootstrap=bootstrap, security=security(request.param), connect_seconds=60, delivery_seconds=60
    )
    return RenamedTopics(kafka, f"t-{uuid.uuid4().hex[:8]}-")


@pytest.fixture
def line(tmp_path):
    return FakeLine(tmp_path / "artifacts")


@pytest.fixture
def trusted():
    return [FakeSigner().public_key]


def read_all(broker, topic):
    source = broker.open_source(topic)
    try:
        bounds = source.bounds()
        records = []
        while any(source.position(number) < end for number, (_, end) in bounds.items()):
            records.extend(source.poll(0.2))
        return records
    finally:
        source.close()


def interaction(number=1, **changes):
    fields = {
        "tenant_id": "acme",
        "user_id": f"user-{number % 7}",
        "interaction_id": f"i-{number}",
        "prompt": "Where is my parcel?",
        "completion": "On its way.",
        "outcome": Rating(rating=4),
        "notice_version": "2026-01",
        "occurred_at": NOW,
    }
    return InteractionV1(**{**fields, **changes})


def test_interactions_arrive_as_they_were_sent_and_in_order_per_user(broker):
    broker.create_topic(topics.INTERACTIONS.name, 3)
    sent = [interaction(number, outcome=Edited(final_text=f"text {number} – ü")) for number in range(60)]
    with InteractionPublisher(broker, source="/test") as publisher:
        deliveries = [publisher.publish(event, event_id=f"e-{n}") for n, event in enumerate(sent)]
    assert all(delivery.done for delivery in deliveries)
    received = read_all(broker, topics.INTERACTIONS.name)
    decoded = [decode_interaction(r.headers, r.value, key=r.key) for r in received]
    assert all(isinstance(each, Decoded) for each in decoded)
    assert {each.envelope.id: each.data for each in decoded} == {
        f"e-{n}": event for n, event in enumerate(sent)
    }
    assert len({record.partition for record in received}) > 1
    for user in range(7):
        order = [int(d.data.interaction_id[2:]) for d in decoded if d.data.user_id == f"user-{user}"]
        assert order == sorted(order)


def test_trace_context_is_carried(broker):
    broker.create_topic(topics.INTERACTIONS.name, 1)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with InteractionPublisher(broker, source="/test") as publisher:
        publisher.publish(interaction(), traceparent=parent).wait(60)
    (record,) = read_all(broker, topics.INTERACTIONS.name)
    assert decode_interaction(record.headers, record.value).envelope.traceparent == parent


@pytest.mark.parametrize("broker", [each for each in BROKERS if each != "embedded"], indirect=True)
def test_an_event_that_the_broker_refuses_is_reported_and_the_others_arrive(broker):
    refuse = refuses_large_records(broker, topics.INTERACTIONS.name)  # the embedded broker takes any size
    told = []
    with InteractionPublisher(
        broker, source="/test", on_error=lambda delivery, error: told.append((delivery.event_id, error.code))
    ) as publisher:
        publisher.publish(interaction(1), event_id="small").wait(10)
        refuse()
        large = publisher.publish(interaction(2, prompt="x" * 16_000), event_id="large")
        with pytest.raises(DeliveryError):
            large.wait(20)
        with pytest.raises(DeliveryError, match="1 event"):
            publisher.flush()
        publisher.publish(interaction(3), event_id="after").wait(10)
    assert told == [("large", "client.delivery.failed")]
    stored = [decode_interaction(r.headers, r.value) for r in read_all(broker, topics.INTERACTIONS.name)]
    assert sorted(each.envelope.id for each in stored) == ["after", "small"]


def refuses_large_records(broker, topic):
    """Make a topic that takes small records only; return what to call before a large one is sent."""
    if isinstance(broker, InMemoryBroker):
        broker.create_topic(topic)
        return lambda: broker.fail_next([OSError("too large")])
    broker.create_topic(topic, 1, configs={"max.message.bytes": "4000"})
    return lambda: None


def test_room_for_few_events_is_used_again_and_again(broker):
    broker.create_topic(topics.INTERACTIONS.name, 1)
    with InteractionPublisher(broker, source="/test", max_pending=2, block_seconds=30) as publisher:
        for number in range(30):
            publisher.publish(interaction(number), event_id=f"e-{number}")
    stored = [decode_interaction(r.headers, r.value) for r in read_all(broker, topics.INTERACTIONS.name)]
    assert [each.envelope.id for each in stored] == [f"e-{number}" for number in range(30)]


def test_an_event_loop_publishes_and_awaits_deliveries(broker):
    broker.create_topic(topics.INTERACTIONS.name, 1)

    async def publish():
        async with AsyncInteractionPublisher(broker, source="/test") as publisher:
            deliveries = await asyncio.gather(
                *(publisher.publish(interaction(number), event_id=f"e-{number}") for number in range(20))
            )
            await asyncio.gather(*deliveries)
            with pytest.raises(EventRefusedError):
                await publisher.publish({"tenant_id": "acme"})

    asyncio.run(publish())
    stored = [decode_interaction(r.headers, r.value) for r in read_all(broker, topics.INTERACTIONS.name)]
    assert sorted(each.envelope.id for each in stored) == sorted(f"e-{number}" for number in range(20))


def test_consent_and_erasure_have_the_keys_of_the_contract(broker):
    broker.create_topic(topics.CONSENT.name, 2)
    broker.create_topic(topics.ERASURES.name, 2)
    person = {"tenant_id": "acme", "user_id": "u/1 ü"}
    with ConsentPublisher(broker, source="/test") as consents:
        consents.grant(**person, notice_version="2", occurred_at=NOW)
        consents.withdraw(**person, notice_version="2", purpose=ConsentPurpose.SHARING, occurred_at=NOW)
    with ErasurePublisher(broker, source="/test") as erasures:
        erasures.request(**person, request_id="r-1", occurred_at=NOW)
    seen = {
        (each.envelope.type, each.data.purpose)
        for each in (
            decode_consent(r.headers, r.value, key=r.key) for r in read_all(broker, topics.CONSENT.name)
        )
    }
    assert seen == {
        ("consent.granted.v1", ConsentPurpose.TRAINING),
        ("consent.withdrawn.v1", ConsentPurpose.SHARING),
    }
    (record,) = read_all(broker, topics.ERASURES.name)
    decoded = decode_erasure(record.headers, record.value, key=record.key)
    assert (decoded.envelope.id, decoded.data.request_id) == ("r-1", "r-1")


def test_an_invalid_event_is_refused_before_anything_is_sent(broker):
    broker.create_topic(topics.INTERACTIONS.name, 1)
    with InteractionPublisher(broker, source="/test") as publisher:
        secret = "my secret words"
        with pytest.raises(EventRefusedError, match=r"tenant_id") as refused:
            publisher.publish({**interaction().model_dump(), "tenant_id": "Not A Slug", "prompt": secret})
        assert secret not in str(refused.value)
        with pytest.raises(EventRefusedError, match="user_id"):
            publisher.publish(interaction().model_copy(update={"user_id": ""}))
        with pytest.raises(EventRefusedError, match="bytes"):
            publisher.publish(
                interaction(
                    prompt="ü" * 16_000, completion="ü" * 16_384, outcome=Edited(final_text="ü" * 999)
                )
            )
    assert read_all(broker, topics.INTERACTIONS.name) == []


@pytest.mark.parametrize("broker", [each for each in BROKERS if each != "embedded"], indirect=True)
def test_a_missing_topic_is_reported_when_publishing(broker):  # the embedded broker makes what is asked for
    if isinstance(broker, RenamedTopics):
        broker.inner = replace(broker.inner, options={"max_block_ms": 1000})
    publisher = InteractionPublisher(broker, source="/test")
    with pytest.raises((BrokerUnreachableError, DeliveryError)):
        publisher.publish(interaction()).wait(60)
    publisher.close()


def test_a_closed_publisher_and_feed_say_so(broker, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    publisher = InteractionPublisher(broker, source="/test")
    publisher.close()
    publisher.close()
    with pytest.raises(ClosedError):
        publisher.publish(interaction())
    feed = AdapterFeed(broker, trusted_keys=trusted)
    feed.close()
    feed.close()
    with pytest.raises(ClosedError):
        feed.poll(0)


def test_many_threads_share_one_publisher(broker):
    broker.create_topic(topics.INTERACTIONS.name, 4)
    with InteractionPublisher(broker, source="/test", max_pending=50) as publisher:

        def publish(thread):
            for number in range(100):
                publisher.publish(interaction(number), event_id=f"{thread}-{number}")

        threads = [threading.Thread(target=publish, args=(each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ids = [
        decode_interaction(r.headers, r.value).envelope.id for r in read_all(broker, topics.INTERACTIONS.name)
    ]
    assert sorted(ids) == sorted(f"{thread}-{number}" for thread in range(4) for number in range(100))


def test_a_feed_starts_with_the_last_state_of_each_line_and_follows(broker, tmp_path, trusted):
    broker.create_topic(topics.ADAPTERS.name, 2)
    lines = [FakeLine(tmp_path, line_ref=f"{number:012d}") for number in range(3)]
    for line in lines:
        for number in (1, 2):
            line.publish(broker, line.version(number))
    lines[2].withdraw(broker)
    with AdapterFeed(broker, trusted_keys=trusted) as feed:
        updates = {update.line_ref: update for update in feed.snapshot()}
        assert feed.caught_up
        assert set(updates) == {line.line_ref for line in lines}
        assert updates[lines[0].line_ref].state.adapter.manifest.version == 2
        assert updates[lines[2].line_ref].kind is UpdateKind.WITHDRAWN
        lines[1].publish(broker, lines[1].version(3))
        following = next(iter_updates(feed))
        assert (following.line_ref, following.epoch) == (lines[1].line_ref, 3)
        assert following.state.adapter.manifest.version == 3


def iter_updates(feed, polls=50):
    for _ in range(polls):
        yield from feed.poll(0.2)


def test_repeated_and_late_states_have_no_effect(broker, line, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    first, second = line.version(1), line.version(2)
    line.publish(broker, first, epoch=1)
    line.publish(broker, second, epoch=2)
    line.publish(broker, second, epoch=2)
    line.publish(broker, first, epoch=1)
    line.publish(broker, first, epoch=3)  # a roll-back: an older version under a newer epoch
    with AdapterFeed(broker, trusted_keys=trusted) as feed:
        updates = feed.poll(2)
        assert [(u.epoch, u.state.adapter.manifest.version) for u in updates] == [(1, 1), (2, 2), (3, 1)]
        assert (feed.counts.updates, feed.counts.stale) == (3, 2)


def test_a_late_state_does_not_bring_back_a_withdrawn_line(broker, line, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    line.publish(broker, line.version(1), epoch=4)
    line.withdraw(broker, epoch=6)
    line.publish(broker, line.version(2), epoch=5)
    with AdapterFeed(broker, trusted_keys=trusted) as feed:
        (update,) = feed.snapshot()
        assert (update.kind, update.epoch) == (UpdateKind.WITHDRAWN, 6)


def forged(line, epoch):
    """A tombstone as anybody with the right to write makes it."""
    return tombstone(line.line_ref, epoch, event_id=f"forged-{epoch}", source="/forger", time=NOW)


def test_a_forged_tombstone_neither_withdraws_nor_moves_the_order(broker, line, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    line.publish(broker, line.version(1), epoch=4)
    signed = {KEY_ID_HEADER, SIGNATURE_HEADER}
    refused = []
    with AdapterFeed(broker, trusted_keys=trusted, on_refused=refused.append) as feed:
        assert [u.epoch for u in feed.poll(2)] == [4]
        with InteractionPublisher(broker, source="/test") as publisher:
            publisher.send_record(forged(line, 10**15), "unsigned")
            publisher.send_record(Record(topics.ADAPTERS.name, line.line_ref.encode(), None, []), "by hand")
        line.withdraw(broker, epoch=5)
        (genuine,) = [
            r
            for r in read_all(broker, topics.ADAPTERS.name)
            if r.value is None and SIGNATURE_HEADER in dict(r.headers)
        ]
        stolen = [pair for pair in genuine.headers if pair[0] in signed]
        with InteractionPublisher(broker, source="/test") as publisher:
            record = forged(line, 10**15)
            publisher.send_record(record._replace(headers=[*record.headers, *stolen]), "stolen signature")
        line.publish(broker, line.version(2), epoch=8)
        updates = [update for _ in range(4) for update in feed.poll(1)]
        assert [(u.kind.value, u.epoch) for u in updates] == [("withdrawn", 5), ("set", 8)]
        assert [one.code for one in refused] == 3 * ["client.adapter.signature_invalid"]


def test_an_old_signed_version_under_a_higher_epoch_is_refused(broker, line, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    line.publish(broker, line.version(1), epoch=1)
    line.publish(broker, line.version(2), epoch=2)
    (old, *_) = read_all(broker, topics.ADAPTERS.name)
    document = json.loads(old.value)
    replayed = json.dumps({**document, "epoch": 9}).encode()
    headers = [(n, b"9" if n == "ce_sequence" else v) for n, v in old.headers]
    with InteractionPublisher(broker, source="/test") as publisher:
        publisher.send_record(Record(topics.ADAPTERS.name, old.key, replayed, headers), "replayed")
        publisher.send_record(Record(topics.ADAPTERS.name, old.key, old.value, list(old.headers)), "again")
    with AdapterFeed(broker, trusted_keys=trusted) as feed:
        (update,) = feed.snapshot()
        assert (update.epoch, update.state.adapter.manifest.version) == (2, 2)
        assert (feed.counts.refused, feed.counts.stale) == (1, 1)


def test_records_of_workers_that_did_not_sign_count_where_that_is_allowed(broker, line, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    line.publish(broker, line.version(1), epoch=4)
    (signed,) = read_all(broker, topics.ADAPTERS.name)
    plain = [(name, value) for name, value in signed.headers if not name.startswith("discreet_")]
    with InteractionPublisher(broker, source="/test") as publisher:
        publisher.send_record(
            Record(topics.ADAPTERS.name, signed.key, signed.value.replace(b'"epoch":4', b'"epoch":5'), plain),
            "old",
        )
        publisher.send_record(Record(topics.ADAPTERS.name, line.line_ref.encode(), None, []), "by hand")
    line.publish(broker, line.version(2), epoch=6)
    with AdapterFeed(broker, trusted_keys=trusted, require_signed=False) as feed:
        assert [(u.kind.value, u.epoch) for u in feed.poll(2)] == [
            ("set", 4), ("set", 5), ("withdrawn", 5), ("set", 6),
        ]  # fmt: skip
    with AdapterFeed(broker, trusted_keys=trusted) as feed:
        assert [(u.kind.value, u.epoch) for u in feed.poll(2)] == [("set", 4), ("set", 6)]


def test_a_server_that_starts_anew_does_not_go_back_behind_what_it_saw(broker, line, trusted, tmp_path):
    broker.create_topic(topics.ADAPTERS.name, 1)
    line.publish(broker, line.version(1), epoch=7)
    seen = tmp_path / "epochs.json"
    with AdapterFeed(broker, trusted_keys=trusted, seen=seen) as feed:
        assert [u.epoch for u in feed.snapshot()] == [7]
    with AdapterFeed(broker, trusted_keys=trusted, seen=seen) as feed:  # it holds nothing: the same again
        assert [u.epoch for u in feed.snapshot()] == [7]
    broker.create_topic(topics.ADAPTERS.name, 1) if isinstance(broker, InMemoryBroker) else None
    line.withdraw(broker, epoch=6)  # by a worker whose database was set back
    refused = []
    with AdapterFeed(broker, trusted_keys=trusted, seen=seen, on_refused=refused.append) as feed:
        if isinstance(broker, InMemoryBroker):  # the topic holds nothing but the rewound withdrawal
            assert feed.snapshot() == []
            assert [one.code for one in refused] == ["client.adapter.rewound"]
        line.withdraw(broker, epoch=9)
        assert [(u.kind.value, u.epoch) for u in feed.snapshot()] == [("withdrawn", 9)]


def test_what_is_not_verified_is_refused_and_the_line_keeps_what_it_had(broker, tmp_path, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    line = FakeLine(tmp_path)
    good = line.version(1)
    line.publish(broker, good)
    line.publish(broker, good.model_copy(update={"version_id": "sha256:" + 64 * "1"}))
    facts = good.manifest.privacy.model_copy(update={"cumulative_epsilon": 0.1})
    changed = good.model_copy(update={"manifest": good.manifest.model_copy(update={"privacy": facts})})
    line.publish(broker, changed)
    stranger = FakeLine(tmp_path, signer=FakeSigner(b"another seed of a test key 32 by"))
    stranger.epoch = line.epoch
    stranger.publish(broker, stranger.version(2))
    other = FakeLine(tmp_path, line_ref="000000000002")
    line.publish(broker, other.version(1))
    with InteractionPublisher(broker, source="/test") as publisher:
        publisher.send_record(Record(topics.ADAPTERS.name, line.line_ref.encode(), b"{", []), "garbage")
    refused = []
    with AdapterFeed(broker, trusted_keys=trusted, on_refused=refused.append) as feed:
        (update,) = feed.snapshot()
        assert update.state.adapter == good
        assert [each.code for each in refused] == [
            "client.adapter.digest_mismatch",
            "client.adapter.digest_mismatch",
            "client.adapter.signature_invalid",
            "client.adapter.refused",
            "client.adapter.signature_invalid",
        ]
        assert feed.counts.refused == 5


def test_a_feed_resumes_where_it_was_saved(broker, line, trusted, tmp_path):
    broker.create_topic(topics.ADAPTERS.name, 2)
    positions = tmp_path / "position.json"
    line.publish(broker, line.version(1))
    with AdapterFeed(broker, trusted_keys=trusted, positions=positions) as feed:
        assert [update.epoch for update in feed.snapshot()] == [1]
        feed.save()
    line.publish(broker, line.version(2))
    with AdapterFeed(broker, trusted_keys=trusted, positions=positions) as feed:
        assert [update.epoch for update in feed.snapshot()] == [2]  # not saved: handed out again
    with AdapterFeed(broker, trusted_keys=trusted, positions=positions) as feed:
        updates = feed.follow(stop=lambda: True)
        assert [update.epoch for update in updates] == [2]
    with AdapterFeed(broker, trusted_keys=trusted, positions=positions) as feed:
        assert feed.snapshot() == []


@pytest.mark.parametrize("days", [-2, 30])
def test_a_position_of_unknown_age_is_compared_with_the_full_state(broker, line, trusted, tmp_path, days):
    broker.create_topic(topics.ADAPTERS.name, 1)
    store = FilePositions(tmp_path / "position.json")
    line.publish(broker, line.version(1))
    with AdapterFeed(broker, trusted_keys=trusted, positions=store) as feed:
        feed.snapshot()
        feed.save()
    saved = store.load()
    saved.saved_at -= days * 86_400  # long ago, or by a clock that was set back since
    saved.epochs["a-line-that-is-gone"] = 7
    store.save(saved)
    with AdapterFeed(broker, trusted_keys=trusted, positions=store) as feed:
        assert [(update.line_ref, update.kind) for update in feed.snapshot()] == [
            ("a-line-that-is-gone", UpdateKind.WITHDRAWN)
        ]


def test_a_position_of_a_topic_that_was_made_anew_is_forgotten(broker, line, trusted, tmp_path):
    broker.create_topic(topics.ADAPTERS.name, 1)
    store = FilePositions(tmp_path / "position.json")
    line.publish(broker, line.version(1))
    with AdapterFeed(broker, trusted_keys=trusted, positions=store) as feed:
        feed.snapshot()
        feed.save()
    saved = store.load()
    saved.offsets = {0: 1000}
    store.save(saved)
    line.publish(broker, line.version(2))
    with AdapterFeed(broker, trusted_keys=trusted, positions=store) as feed:
        assert [update.epoch for update in feed.snapshot()] == [2]


def test_a_feed_opened_before_its_topic_exists_waits_for_it(broker, line, trusted):
    with AdapterFeed(broker, trusted_keys=trusted) as feed:
        assert feed.snapshot() == []
        broker.create_topic(topics.ADAPTERS.name, 2)
        line.publish(broker, line.version(1))
        assert next(iter_updates(feed)).epoch == 1


def test_only_the_lines_that_were_asked_for_are_handed_out(broker, tmp_path, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    lines = [FakeLine(tmp_path, line_ref=f"{number:012d}") for number in range(2)]
    for line in lines:
        line.publish(broker, line.version(1))
    with AdapterFeed(broker, trusted_keys=trusted, lines={lines[1].line_ref}) as feed:
        assert [update.line_ref for update in feed.snapshot()] == [lines[1].line_ref]


def test_acks_are_published_under_the_type_of_their_status(broker, line, trusted):
    broker.create_topic(topics.ADAPTERS.name, 1)
    broker.create_topic(topics.SERVING_ACKS.name, 1)
    version = line.version(1)
    with AdapterFeed(broker, trusted_keys=trusted, server_id="gpu-3", engine="peft") as feed:
        feed.ack(version, AckStatus.LOADED, epoch=1)
        feed.ack(version, AckStatus.VERIFIED, epoch=1, probe_effect=0.25)
        feed.ack(version, AckStatus.FAILED, epoch=1, reason="rank-too-large")
    acks = [decode_ack(r.headers, r.value, key=r.key) for r in read_all(broker, topics.SERVING_ACKS.name)]
    assert [(a.envelope.type, a.data.status, a.data.server_id) for a in acks] == [
        ("serving.loaded.v1", "loaded", "gpu-3"),
        ("serving.verified.v1", "verified", "gpu-3"),
        ("serving.failed.v1", "failed", "gpu-3"),
    ]
    assert acks[1].data.probe_effect == 0.25
    assert NOW - acks[0].data.occurred_at < timedelta(days=3650)


if "kafka-scram-tls" in BROKERS:

    @pytest.mark.parametrize("broker", ["kafka-scram-tls"], indirect=True)
    def test_a_broker_that_does_not_let_us_in_is_reported(broker, caplog):
        caplog.set_level("CRITICAL", logger="kafka")
        wrong = replace(broker.inner.security, password="wrong")
        with pytest.raises(BrokerUnreachableError, match="security settings"):
            InteractionPublisher(replace(broker.inner, connect_seconds=1, security=wrong), source="/test")
