"""Topics are created and checked on a real broker, through the same command as by hand."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from streams import topics
from streams.cli.main import main
from streams.contracts.topics import CONSENT, INTERACTIONS, TOPICS
from streams.embedded_broker import EmbeddedBroker
from streams.errors import TopicMismatchError


@pytest.fixture
def admin(kafka_bootstrap):
    with topics.open_admin({"bootstrap_servers": kafka_bootstrap}) as admin:
        yield admin


@pytest.fixture
def wanted():
    """The contract's topics under names that no other test uses."""
    prefix = f"t-{uuid.uuid4().hex[:8]}-"
    return [replace(topic, name=prefix + topic.name, partitions=2) for topic in TOPICS]


def test_created_topics_pass_the_check(admin, wanted):
    missing = topics.check_topics(admin, topics=wanted)
    assert [each.found for each in missing] == ["missing"] * len(TOPICS)
    with pytest.raises(TopicMismatchError, match="discreet topics create"):
        topics.require_topics(admin, wanted)
    names = tuple(topic.name for topic in wanted)
    assert topics.create_topics(admin, topics=wanted) == topics.CreateResult(created=names, existing=())
    assert topics.create_topics(admin, topics=wanted) == topics.CreateResult(created=(), existing=names)
    assert topics.check_topics(admin, topics=wanted) == []
    topics.require_topics(admin, wanted)
    states = topics.describe_topics(admin, wanted)
    assert {(state.partitions, state.replication) for state in states.values()} == {(2, 1)}


def test_fewer_partitions_are_a_warning(admin, wanted):
    topics.create_topics(admin, topics=wanted, partitions=1)
    findings = topics.check_topics(admin, topics=wanted)
    assert {(each.what, each.severity) for each in findings} == {("partitions", topics.Severity.WARNING)}
    topics.require_topics(admin, wanted)


def test_wrong_settings_are_found_and_repaired(admin, wanted, kafka_bootstrap, request):
    topics.create_topics(admin, topics=wanted)
    consent = next(topic for topic in wanted if topic.name.endswith(CONSENT.name))
    resource = ConfigResource(ConfigResourceType.TOPIC, consent.name, {"cleanup.policy": "delete"})
    admin.alter_configs([resource], incremental=True)
    (finding,) = topics.check_topics(admin, topics=wanted)
    assert (finding.topic, finding.what, finding.found) == (consent.name, "cleanup.policy", "delete")
    assert topics.repair_settings(admin, topics=wanted) == (consent.name,)
    assert topics.check_topics(admin, topics=wanted) == []


def test_the_command_creates_checks_and_describes(capsys, monkeypatch):
    with EmbeddedBroker() as broker:
        monkeypatch.setenv("DISCREET_BROKER__BOOTSTRAP", broker.bootstrap)
        assert main(["topics", "check", "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["ok"] is False
        assert main(["topics", "create", "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["created"]) == len(TOPICS)
        assert main(["topics", "create", "--repair"]) == 0
        assert f"existing  {INTERACTIONS.name}" in capsys.readouterr().out
        assert main(["topics", "check"]) == 0
        assert "as the contract says" in capsys.readouterr().out
        assert main(["topics", "check", "--replication", "3"]) == 3
        assert "replication is 1, wanted is at least 3" in capsys.readouterr().out
        assert main(["topics", "describe", "--json"]) == 0
        rows = {row["topic"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows[INTERACTIONS.name]["partitions"] == INTERACTIONS.partitions
