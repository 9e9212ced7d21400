"""Topics are created and checked on a real broker, through the same command as by hand."""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from dataclasses import replace

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from streams.broker import access as topic_access
from streams.broker import topics
from streams.broker.embedded import EmbeddedBroker
from streams.cli.main import main
from streams.client import BrokerUnreachableError, KafkaBroker, Security
from streams.contracts.codec import Record
from streams.contracts.topics import ADAPTERS, CONSENT, INTERACTIONS, TOPICS, Role


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
    names = tuple(topic.name for topic in wanted)
    assert topics.create_topics(admin, topics=wanted) == topics.CreateResult(created=names, existing=())
    assert topics.create_topics(admin, topics=wanted) == topics.CreateResult(created=(), existing=names)
    assert topics.check_topics(admin, topics=wanted) == []
    states = topics.describe_topics(admin, wanted)
    assert {(state.partitions, state.replication) for state in states.values()} == {(2, 1)}


def test_fewer_partitions_are_a_warning(admin, wanted):
    topics.create_topics(admin, topics=wanted, partitions=1)
    findings = topics.check_topics(admin, topics=wanted)
    assert {(each.what, each.severity) for each in findings} == {("partitions", topics.Severity.WARNING)}


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


if "DISCREET_TEST_KAFKA" in os.environ:

    def test_the_command_repairs_apache_kafka(capsys, monkeypatch):
        """On a broker that others use too: nothing is assumed about what is there."""
        monkeypatch.setenv("DISCREET_BROKER__BOOTSTRAP", os.environ["DISCREET_TEST_KAFKA"])
        assert main(["topics", "create", "--repair", "--json"]) == 0
        done = json.loads(capsys.readouterr().out)
        assert {*done["created"], *done["existing"]} == {topic.name for topic in TOPICS}
        assert main(["topics", "check"]) == 0
        capsys.readouterr()
        with topics.open_admin({"bootstrap_servers": os.environ["DISCREET_TEST_KAFKA"]}) as admin:
            change = {"delete.retention.ms": "1"}
            admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, ADAPTERS.name, change)], incremental=True
            )
        assert main(["topics", "check", "--json"]) == 3
        findings = json.loads(capsys.readouterr().out)["findings"]
        assert [(ADAPTERS.name, "delete.retention.ms", "1")] == [
            (each["topic"], each["what"], each["found"]) for each in findings if each["severity"] == "error"
        ]
        assert main(["topics", "create", "--repair", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["repaired"] == [ADAPTERS.name]
        assert main(["topics", "check"]) == 0
        capsys.readouterr()
        assert main(["topics", "describe"]) == 0
        assert ADAPTERS.name in capsys.readouterr().out


if "DISCREET_TEST_KAFKA_OAUTH" in os.environ:
    # The plain listener is the administrator's; the other one lets in whom the token names.
    PLAIN, WITH_LOGIN = os.environ["DISCREET_TEST_KAFKA"], os.environ["DISCREET_TEST_KAFKA_OAUTH"]

    def access_token(subject):
        now = int(time.time())
        parts = ({"alg": "none"}, {"sub": subject, "iat": now - 5, "exp": now + 600})
        return "".join(
            base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") + "." for p in parts
        )

    def login(subject):
        security = Security(mechanism="OAUTHBEARER", token=lambda: access_token(subject))
        return KafkaBroker(bootstrap=WITH_LOGIN, security=security, connect_seconds=60, delivery_seconds=60)

    def test_access_rules_are_added_and_enforced(wanted, caplog):
        caplog.set_level("CRITICAL", logger="kafka")  # records of the log would keep connections
        interactions = next(topic for topic in wanted if topic.name.endswith(INTERACTIONS.name))
        rules = topic_access.rules_for(
            {Role.PRODUCT: "User:product", Role.WORKER: "User:worker"}, group="g", topics=wanted
        )
        with topics.open_admin({"bootstrap_servers": PLAIN}) as admin:
            topics.create_topics(admin, topics=wanted)
            assert {each.found for each in topic_access.check_access(admin, rules, wanted)} == {"not allowed"}
            assert set(topic_access.apply_access(admin, rules)) <= set(rules)
            assert topic_access.check_access(admin, rules, wanted) == []
        record = Record(interactions.name, b"k", b"v", [])
        outcomes = []
        sink = login("product").open_sink()
        sink.send(record, outcomes.append)
        sink.flush(60)
        sink.close(10)
        assert outcomes == [None]
        reader = login("product").open_source(interactions.name)
        with pytest.raises(BrokerUnreachableError, match="does not let us read"):
            for _ in range(200):
                reader.poll(0.5)
        reader.close()
        reader = login("worker").open_source(interactions.name)
        found = next(records for _ in range(300) if (records := reader.poll(0.2)))
        assert [each.value for each in found] == [b"v"]
        reader.close()

    def test_the_command_checks_and_adds_access_rules(capsys):
        unique = f"User:product-{uuid.uuid4().hex[:8]}"
        arguments = ["topics", "access", "--bootstrap", PLAIN, "--product", unique]
        assert main([*arguments, "--check"]) == 3
        assert f"Write of {unique} is not allowed" in capsys.readouterr().out
        assert main([*arguments, "--apply"]) == 0
        capsys.readouterr()
        assert main([*arguments, "--check", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["ok"] is True
