"""``discreet dlq`` on a real broker: letters are listed without keys or values, and sent back once."""

import contextlib
import json
import os
import secrets
from dataclasses import replace

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import TopicAlreadyExistsError

from streams.broker.clients import KafkaSender
from streams.broker.embedded import EmbeddedBroker
from streams.cli.main import main
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.topics import DEAD_LETTERS
from streams.ingest.letters import DeadLetterSink, Refusal
from streams.settings import BrokerSettings
from tests.fakes.stream_records import NOW, FakeRecord, interaction

PARTITIONS = 2
KAFKA = os.environ.get("DISCREET_TEST_KAFKA", "")


@pytest.fixture(scope="module", params=["embedded", *(["kafka"] if KAFKA else [])])
def broker(request):
    if request.param == "kafka":
        yield KAFKA
        return
    with EmbeddedBroker() as running:
        yield running.bootstrap


@pytest.fixture(scope="module")
def source(broker):
    """A topic of the test's own, two of whose records were refused."""
    name = f"dlq-{secrets.token_hex(6)}"
    with KafkaAdminClient(bootstrap_servers=broker) as admin:
        for topic in (name, DEAD_LETTERS.name):
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics(
                    {topic: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True
                )
    sender = KafkaSender(BrokerSettings(bootstrap=broker))
    sink = DeadLetterSink(sender, "workers")
    unknown = Refusal(
        replace(interaction(offset=4), topic=name),
        DeadLetterReason.TENANT_UNKNOWN,
        "tenant_id: is not registered",
        attempts=1,
    )
    broken = Refusal(
        FakeRecord(b"\xffsecret", b"acme/ada", topic=name, offset=5),
        DeadLetterReason.JSON_INVALID,
        "not JSON",
        attempts=1,
    )
    sink.write([unknown, broken, unknown], NOW)  # a crash wrote one letter twice
    sender.close()
    return name


@pytest.fixture
def run(broker, monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_BROKER__BOOTSTRAP", broker)

    def command(*arguments):
        status = main(["dlq", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def received(bootstrap, topic):
    """Return everything that the topic holds now, read to the end that the broker names."""
    with KafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        records, ends = [], consumer.end_offsets(partitions)
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            records.extend(record for polled in consumer.poll(200).values() for record in polled)
        return records


def test_letters_are_listed_and_sent_back_once(run, broker, source):
    def asked(*arguments):
        return json.loads(run(*arguments, "--topic", source, "--json")[1])

    status, out, _ = run("list", "--topic", source, "--json")
    assert status == 0
    letters = json.loads(out)["letters"]
    assert sorted((letter["reason"], letter["offset"]) for letter in letters) == [
        ("json_invalid", 5),
        ("tenant_unknown", 4),
    ]
    assert "ada" not in out
    assert "secret" not in out
    dry = asked("replay", "--dry-run")
    assert (dry["sent"], dry["letters"]) == (False, {"json_invalid": 1, "tenant_unknown": 1})
    assert received(broker, source) == []
    sent = asked("replay", "--reason", "tenant_unknown")
    assert (sent["sent"], sent["letters"]) == (True, {"tenant_unknown": 1})
    assert sent["passed_over"] >= 1
    (record,) = received(broker, source)
    headers = dict(record.headers)
    assert headers["discreet_replayed_from"] == f"{source}/0/4".encode()
    assert not any(name.startswith("discreet_dlq_") for name in headers)
    assert (record.key, record.value) == (b"acme/ada", interaction(offset=4).value)
    assert asked("replay")["letters"] == {}
    assert asked("replay", "--from-start", "--dry-run")["letters"] == {
        "json_invalid": 1,
        "tenant_unknown": 1,
    }


def test_an_unknown_reason_is_one_sentence_with_the_allowed_ones(run):
    status, _, error = run("list", "--reason", "because")
    assert status == 2
    assert "allowed are consent_missing" in error


def test_tenant_and_reason_narrow_down_what_is_sent_back_and_a_dry_run_counts_both(run, broker, refused):
    def asked(*arguments):
        return json.loads(run(*arguments, "--topic", refused, "--json")[1])

    dry = asked("replay", "--dry-run", "--from-start")
    assert dry["letters"] == {"tenant_unknown": 2, "consent_missing": 2}
    assert dry["tenants"] == {"acme": 2, "globex": 1, "": 1}
    assert asked("replay", "--dry-run", "--from-start", "--tenant", "acme")["letters"] == {
        "tenant_unknown": 1,
        "consent_missing": 1,
    }
    both = asked("replay", "--dry-run", "--from-start", "--tenant", "acme", "--reason", "consent_missing")
    assert (both["letters"], both["tenants"]) == ({"consent_missing": 1}, {"acme": 1})
    assert received(broker, refused) == []
    assert "of no tenant: 1" in run("replay", "--dry-run", "--from-start", "--topic", refused)[1]
    sent = asked(
        "replay", "--from-start", "--tenant", "acme", "--tenant", "globex", "--reason", "consent_missing"
    )
    assert sent["tenants"] == {"acme": 1, "globex": 1}
    assert {record.key for record in received(broker, refused)} == {b"acme/ada", b"globex/ada"}
    assert {letter["tenant"] for letter in asked("list", "--tenant", "globex")["letters"]} == {"globex"}


@pytest.fixture
def refused(broker):
    """A topic of the test's own with letters of two tenants and of none, for two reasons."""
    name = f"dlq-{secrets.token_hex(6)}"
    with KafkaAdminClient(bootstrap_servers=broker) as admin:
        for topic in (name, DEAD_LETTERS.name):
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics(
                    {topic: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True
                )
    unknown, missing = DeadLetterReason.TENANT_UNKNOWN, DeadLetterReason.CONSENT_MISSING
    kinds = ((b"acme/ada", unknown), (b"acme/ada", missing), (b"globex/ada", missing), (None, unknown))
    sender = KafkaSender(BrokerSettings(bootstrap=broker))
    DeadLetterSink(sender, "workers").write(
        [
            Refusal(FakeRecord(b"{}", key, topic=name, offset=offset), reason, "a rule", attempts=1)
            for offset, (key, reason) in enumerate(kinds)
        ],
        NOW,
    )
    sender.close()
    return name
