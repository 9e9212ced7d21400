"""What counts as a difference between a topic and its contract, and which access rules topics need."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streams.broker.topics import Severity, TopicState, compare
from streams.cli.main import main
from streams.contracts.topics import ADAPTERS, CONSENT, DEAD_LETTERS, INTERACTIONS, TOPICS, Cleanup


def good(topic, replication=1):
    return TopicState(
        partitions=topic.partitions, replication=replication, configs=topic.configs(replication=replication)
    )


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_topic_as_the_contract_says_has_no_findings(topic):
    assert compare(topic, good(topic)) == []
    assert compare(topic, good(topic, 3), replication=3) == []


def test_a_missing_topic_is_an_error():
    (finding,) = compare(CONSENT, TopicState(partitions=0, replication=0, configs={}))
    assert (finding.severity, finding.found) == (Severity.ERROR, "missing")
    assert finding.sentence() == "discreet.consent.v1: topic is missing, wanted is present"


@pytest.mark.parametrize(
    ("topic", "name", "value"),
    [
        (CONSENT, "cleanup.policy", "delete"),
        (CONSENT, "cleanup.policy", "compact,delete"),
        (CONSENT, "max.compaction.lag.ms", "9223372036854775807"),
        (INTERACTIONS, "retention.ms", "-1"),
        (INTERACTIONS, "max.message.bytes", "1000"),
        (ADAPTERS, "delete.retention.ms", "1"),
    ],
)
def test_a_setting_that_differs_is_an_error(topic, name, value):
    state = good(topic)
    (finding,) = compare(topic, replace(state, configs={**state.configs, name: value}))
    assert (finding.what, finding.found, finding.severity) == (name, value, Severity.ERROR)
    unset = {key: text for key, text in state.configs.items() if key != name}
    (finding,) = compare(topic, replace(state, configs=unset))
    assert finding.found == "unset"


def test_larger_limits_are_fine():
    state = good(INTERACTIONS)
    larger = {**state.configs, "max.message.bytes": "99999999", "min.insync.replicas": "2"}
    assert compare(INTERACTIONS, replace(state, configs=larger, partitions=100)) == []


def test_replication_leaders_and_partitions():
    state = good(INTERACTIONS)
    findings = compare(INTERACTIONS, replace(state, leaderless=2, partitions=4), replication=3)
    assert [(each.what, each.severity) for each in findings] == [
        ("partitions without a leader", Severity.ERROR),
        ("replication", Severity.ERROR),
        ("partitions", Severity.WARNING),
        ("min.insync.replicas", Severity.ERROR),
    ]


def test_a_broker_that_does_not_tell_settings_gets_a_warning():
    (finding,) = compare(INTERACTIONS, replace(good(INTERACTIONS), configs={}))
    assert finding.severity is Severity.WARNING


def test_the_contract_keeps_personal_data_no_longer_than_needed():
    kept = {topic.name: topic.retention_seconds for topic in TOPICS}
    assert kept[DEAD_LETTERS.name] == kept[INTERACTIONS.name]
    for topic in TOPICS:
        if topic.holds_personal_data:
            assert topic.retention_seconds is not None
            assert topic.retention_seconds <= 30 * 86_400
        if topic.cleanup is Cleanup.COMPACT:
            assert "max.compaction.lag.ms" in topic.configs()


def test_the_contract_can_be_shown_without_a_broker(capsys):
    assert main(["topics", "describe", "--offline", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["topic"] for row in rows] == [topic.name for topic in TOPICS]
    assert main(["topics", "describe", "--offline"]) == 0
    assert "discreet.consent.v1" in capsys.readouterr().out
    assert main(["topics", "access", "--json", "--serving", "User:gpu"]) == 0
    assert any("User:gpu" in rule for rule in json.loads(capsys.readouterr().out))
