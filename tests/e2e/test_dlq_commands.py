"""``discreet dlq`` on a real broker: letters are listed without keys or values, and sent back once."""

import json

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from streams.broker import KafkaSender
from streams.cli.main import main
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.topics import DEAD_LETTERS, INTERACTIONS
from streams.dead_letters import DeadLetterSink, Refusal
from streams.embedded_broker import EmbeddedBroker
from streams.settings import BrokerSettings
from tests.fakes.stream_records import NOW, FakeRecord, interaction

PARTITIONS = 2


@pytest.fixture(scope="module")
def broker():
    with EmbeddedBroker() as running:
        admin = KafkaAdminClient(bootstrap_servers=running.bootstrap)
        admin.create_topics(
            {
                name: {"num_partitions": PARTITIONS, "replication_factor": 1}
                for name in (DEAD_LETTERS.name, INTERACTIONS.name)
            }
        )
        admin.close()
        sender = KafkaSender(BrokerSettings(bootstrap=running.bootstrap))
        sink = DeadLetterSink(sender, "workers")
        unknown = Refusal(
            interaction(offset=4), DeadLetterReason.TENANT_UNKNOWN, "tenant_id: is not registered"
        )
        broken = Refusal(
            FakeRecord(b"\xffsecret", b"acme/ada", offset=5), DeadLetterReason.JSON_INVALID, "not JSON"
        )
        sink.write([unknown, broken, unknown], NOW)  # a crash wrote one letter twice
        sender.close()
        yield running.bootstrap


@pytest.fixture
def run(broker, monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_BROKER__BOOTSTRAP", broker)

    def command(*arguments):
        status = main(["dlq", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def received(bootstrap):
    """Return everything that the topic holds now, read to the end that the broker names."""
    with KafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        partitions = [TopicPartition(INTERACTIONS.name, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        records, ends = [], consumer.end_offsets(partitions)
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            records.extend(record for polled in consumer.poll(200).values() for record in polled)
        return records


def test_letters_are_listed_and_sent_back_once(run, broker):
    status, out, _ = run("list", "--json")
    assert status == 0
    letters = json.loads(out)["letters"]
    assert sorted((letter["reason"], letter["offset"]) for letter in letters) == [
        ("json_invalid", 5),
        ("tenant_unknown", 4),
    ]
    assert "ada" not in out
    assert "secret" not in out
    assert json.loads(run("replay", "--dry-run", "--json")[1]) == {
        "sent": False,
        "letters": {"json_invalid": 1, "tenant_unknown": 1},
    }
    assert received(broker) == []
    sent = json.loads(run("replay", "--reason", "tenant_unknown", "--json")[1])
    assert sent == {"sent": True, "letters": {"tenant_unknown": 1}}
    (record,) = received(broker)
    headers = dict(record.headers)
    assert headers["discreet_replayed_from"] == b"discreet.interactions.v1/0/4"
    assert not any(name.startswith("discreet_dlq_") for name in headers)
    assert (record.key, record.value) == (b"acme/ada", interaction(offset=4).value)
    assert json.loads(run("replay", "--json")[1])["letters"] == {}
    assert json.loads(run("replay", "--from-start", "--dry-run", "--json")[1])["letters"] == {
        "json_invalid": 1,
        "tenant_unknown": 1,
    }


def test_an_unknown_reason_is_one_sentence_with_the_allowed_ones(run):
    status, _, error = run("list", "--reason", "because")
    assert status == 2
    assert "allowed are consent_missing" in error
