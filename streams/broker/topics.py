"""Create the topics of the contract on a broker, compare what is there with the contract, repair it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, RetriableError, TopicAlreadyExistsError

from streams.client.kafka_broker import open_or_close
from streams.contracts.topics import TOPICS, Topic
from streams.errors import BrokerUnavailableError

UNKNOWN_TOPIC = 3  # Kafka's error code UNKNOWN_TOPIC_OR_PARTITION
TIMEOUT_SECONDS = 30.0


class Severity(StrEnum):
    """How bad a difference is."""

    ERROR = "error"  # events may be lost, kept too long, or not be accepted
    WARNING = "warning"  # works, but is not what the contract recommends


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference between a topic and its contract."""

    topic: str
    what: str
    wanted: str
    found: str
    severity: Severity

    def sentence(self) -> str:
        """Say it for people."""
        return f"{self.topic}: {self.what} is {self.found}, wanted is {self.wanted}"


@dataclass(frozen=True, kw_only=True)
class TopicState:
    """What a broker says about a topic.

    Attributes:
        partitions: number of partitions; 0 means that the topic does not exist.
        replication: smallest number of replicas of a partition.
        configs: settings and their values; empty when the broker does not tell.
        leaderless: number of partitions without a leader.
    """

    partitions: int
    replication: int
    configs: Mapping[str, str]
    leaderless: int = 0


@dataclass(frozen=True, kw_only=True)
class CreateResult:
    """What ``create_topics`` did."""

    created: tuple[str, ...]
    existing: tuple[str, ...]


@contextlib.contextmanager
def open_admin(options: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    """Open an administrator's connection; ``options`` are kafka-python's.

    Raises:
        BrokerUnavailableError: no broker answers.
    """
    where = options.get("bootstrap_servers")
    address = ",".join(where) if isinstance(where, list | tuple) else str(where)
    try:
        admin = open_or_close(
            KafkaAdminClient, {"bootstrap_timeout_ms": int(TIMEOUT_SECONDS * 1000), **options}
        )
    except RetriableError as error:
        raise BrokerUnavailableError(
            f"no broker answers at {address} ({type(error).__name__}); start it or correct the address"
        ) from error
    try:
        yield admin
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"the broker at {address} refused or did not answer ({type(error).__name__}); "
            "check that it is up and that this account may manage topics"
        ) from error
    finally:
        admin.close()


def create_topics(
    admin: KafkaAdminClient,
    *,
    replication: int = 1,
    partitions: int | None = None,
    topics: Sequence[Topic] = TOPICS,
) -> CreateResult:
    """Create the topics that do not exist yet; existing ones are left as they are.

    Args:
        admin: an open connection.
        replication: copies of each partition; from 3 on, two must confirm each write.
        partitions: number for every topic, instead of what the contract recommends.
        topics: which ones.
    """
    created, existing = [], []
    for topic in topics:
        wanted = {
            "num_partitions": partitions or topic.partitions,
            "replication_factor": replication,
            "configs": topic.configs(replication=replication),
        }
        try:
            admin.create_topics({topic.name: wanted}, wait_for_metadata=True)
        except TopicAlreadyExistsError:
            existing.append(topic.name)
        else:
            created.append(topic.name)
    return CreateResult(created=tuple(created), existing=tuple(existing))


def repair_settings(
    admin: KafkaAdminClient, *, replication: int = 1, topics: Sequence[Topic] = TOPICS
) -> tuple[str, ...]:
    """Set every topic's settings to what the contract says; return the topics that were changed.

    Partitions and replicas are left alone: more partitions would send a user's events to another one, and
    moving replicas is the cluster's own business.
    """
    changed = []
    for topic, state in zip(topics, describe_topics(admin, topics).values(), strict=True):
        wanted = topic.configs(replication=replication)
        wrong = {
            name: value
            for name, value in wanted.items()
            if not _satisfies(name, value, state.configs.get(name))
        }
        if state.configs and wrong:
            admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic.name, wrong)], incremental=True
            )
            changed.append(topic.name)
    return tuple(changed)


def describe_topics(admin: KafkaAdminClient, topics: Sequence[Topic] = TOPICS) -> dict[str, TopicState]:
    """Ask the broker for the state of each topic."""
    described = {each["name"]: each for each in admin.describe_topics([topic.name for topic in topics])}
    present = [topic.name for topic in topics if _exists(described.get(topic.name))]
    configs = _configs(admin, present)
    states = {}
    for topic in topics:
        if topic.name not in present:
            states[topic.name] = TopicState(partitions=0, replication=0, configs={})
            continue
        partitions = described[topic.name]["partitions"]
        states[topic.name] = TopicState(
            partitions=len(partitions),
            replication=min(len(each["replica_nodes"]) for each in partitions),
            configs=configs.get(topic.name, {}),
            leaderless=sum(each["leader_id"] < 0 for each in partitions),
        )
    return states


def compare(topic: Topic, state: TopicState, *, replication: int = 1) -> list[Finding]:
    """Return every difference between a topic and its contract; decides from the arguments alone.

    Args:
        topic: the contract.
        state: what the broker says.
        replication: how many copies are wanted.
    """

    def finding(what: str, wanted: object, found: object, severity: Severity = Severity.ERROR) -> Finding:
        return Finding(topic=topic.name, what=what, wanted=str(wanted), found=str(found), severity=severity)

    if state.partitions == 0:
        return [finding("topic", "present", "missing")]
    findings = []
    if state.leaderless:
        findings.append(finding("partitions without a leader", 0, state.leaderless))
    if state.replication < replication:
        findings.append(finding("replication", f"at least {replication}", state.replication))
    if state.partitions < topic.partitions:
        wanted = f"at least {topic.partitions}"
        findings.append(finding("partitions", wanted, state.partitions, Severity.WARNING))
    if not state.configs:
        findings.append(finding("settings", "readable", "not told by this broker", Severity.WARNING))
        return findings
    for name, value in topic.configs(replication=replication).items():
        found = state.configs.get(name)
        if not _satisfies(name, value, found):
            findings.append(finding(name, _wanted(name, value), "unset" if found is None else found))
    return findings


def check_topics(
    admin: KafkaAdminClient, *, replication: int = 1, topics: Sequence[Topic] = TOPICS
) -> list[Finding]:
    """Compare every topic on the broker with its contract."""
    states = describe_topics(admin, topics)
    return [each for topic in topics for each in compare(topic, states[topic.name], replication=replication)]


def _exists(described: Mapping[str, Any] | None) -> bool:
    return (
        described is not None and described["error_code"] != UNKNOWN_TOPIC and bool(described["partitions"])
    )


def _configs(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    try:
        answer = admin.describe_configs(resources, config_filter="all")
    except KafkaError:  # a broker need not tell; the check says so
        return {}
    return {
        name: {key: str(entry["value"]) for key, entry in entries.items()}
        for name, entries in answer.get("topic", {}).items()
    }


def _satisfies(name: str, wanted: str, found: str | None) -> bool:
    if found is None:
        return False
    if name in {"max.message.bytes", "min.insync.replicas"}:
        return int(found) >= int(wanted)
    if name == "cleanup.policy":
        return set(found.split(",")) == {wanted}
    return found == wanted


def _wanted(name: str, value: str) -> str:
    return f"at least {value}" if name in {"max.message.bytes", "min.insync.replicas"} else value
