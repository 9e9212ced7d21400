"""Who may write and read which topic: the rules the contract needs, and whether a broker has them.

A broker with an authorizer lets nobody in whom no rule names. Write and read include the right to see that
the topic exists, and an idempotent producer needs no more than write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import KafkaError, RetriableError

from streams.broker.topics import Finding, Severity
from streams.contracts.topics import TOPICS, Role, Topic

ANYBODY = "User:*"


class Operation(StrEnum):
    """What a rule allows."""

    READ = "Read"
    WRITE = "Write"


class Resource(StrEnum):
    """What a rule is about."""

    TOPIC = "topic"
    GROUP = "group"


@dataclass(frozen=True, kw_only=True, order=True)
class AccessRule:
    """One principal may do one thing with one topic or group."""

    resource: Resource
    name: str
    operation: Operation
    principal: str

    def arguments(self) -> str:
        """Return the rule as arguments of Kafka's own ``kafka-acls`` tool."""
        return (
            f"--add --allow-principal {self.principal} --operation {self.operation.value} "
            f"--{self.resource.value} {self.name}"
        )


def rules_for(
    principals: Mapping[Role, str], *, group: str, topics: Sequence[Topic] = TOPICS
) -> tuple[AccessRule, ...]:
    """Return the rules that the topics need.

    Args:
        principals: who plays each role, such as ``{Role.WORKER: "User:discreet"}``; others get no rule.
        group: consumer group of the workers.
        topics: which ones.
    """
    rules = [
        AccessRule(resource=Resource.TOPIC, name=topic.name, operation=operation, principal=principals[role])
        for topic in topics
        for operation, roles in ((Operation.WRITE, topic.writers), (Operation.READ, topic.readers))
        for role in roles
        if role in principals
    ]
    if Role.WORKER in principals:
        worker = principals[Role.WORKER]
        rules.append(
            AccessRule(resource=Resource.GROUP, name=group, operation=Operation.READ, principal=worker)
        )
    return tuple(dict.fromkeys(rules))


def is_allowed(rule: AccessRule, entries: Iterable[ACL]) -> bool:
    """Decide as Kafka does: some entry must allow it and none may deny it."""
    matching = [entry for entry in entries if _concerns(rule, entry)]
    return any(entry.permission_type == ACLPermissionType.ALLOW for entry in matching) and not any(
        entry.permission_type == ACLPermissionType.DENY for entry in matching
    )


def check_access(
    admin: KafkaAdminClient, rules: Sequence[AccessRule], topics: Sequence[Topic] = TOPICS
) -> list[Finding]:
    """Compare a broker's entries with the rules.

    Missing rights are errors. Others than the roles who may read or write a topic with personal data are
    warnings.
    """
    entries = _entries(admin)
    if entries is None:
        text = "no authorizer: everybody may do everything"
        return [
            Finding(topic="all topics", what="access", wanted="rules", found=text, severity=Severity.WARNING)
        ]
    findings = [
        Finding(
            topic=rule.name,
            what=f"{rule.operation.value} of {rule.principal}",
            wanted="allowed",
            found="not allowed",
            severity=Severity.ERROR,
        )
        for rule in rules
        if not is_allowed(rule, entries)
    ]
    return findings + _others(rules, entries, [topic for topic in topics if topic.holds_personal_data])


def apply_access(admin: KafkaAdminClient, rules: Sequence[AccessRule]) -> tuple[AccessRule, ...]:
    """Add the rules that are missing; return them. Nothing is taken away.

    Raises:
        KafkaError: if the broker has no authorizer or refuses.
    """
    entries, error = admin.describe_acls(_everything())
    del error  # the client raises instead
    missing = tuple(rule for rule in rules if not is_allowed(rule, entries))
    if missing:
        result = admin.create_acls([_entry(rule) for rule in missing])
        for failure in result["failed"]:
            raise failure
    return missing


def _others(rules: Sequence[AccessRule], entries: Sequence[ACL], topics: Sequence[Topic]) -> list[Finding]:
    found = []
    for topic in topics:
        for operation in Operation:
            named = {
                rule.principal for rule in rules if (rule.name, rule.operation) == (topic.name, operation)
            }
            for principal in sorted({entry.principal for entry in entries} - named):
                rule = AccessRule(
                    resource=Resource.TOPIC, name=topic.name, operation=operation, principal=principal
                )
                if is_allowed(rule, entries):
                    found.append(
                        Finding(
                            topic=topic.name,
                            what=f"{operation.value} of {principal}",
                            wanted="not allowed",
                            found="allowed",
                            severity=Severity.WARNING,
                        )
                    )
    return found


def _concerns(rule: AccessRule, entry: ACL) -> bool:
    pattern = entry.resource_pattern
    if pattern.resource_type != ResourceType[rule.resource.name]:
        return False
    if pattern.pattern_type == ACLResourcePatternType.PREFIXED:
        named = rule.name.startswith(pattern.resource_name)
    else:
        named = pattern.resource_name in {rule.name, "*"}
    operations = {ACLOperation.ALL, ACLOperation[rule.operation.name]}
    return named and entry.operation in operations and entry.principal in {rule.principal, ANYBODY}


def _entry(rule: AccessRule) -> ACL:
    return ACL(
        principal=rule.principal,
        host="*",
        operation=ACLOperation[rule.operation.name],
        permission_type=ACLPermissionType.ALLOW,
        resource_pattern=ResourcePattern(ResourceType[rule.resource.name], rule.name),
    )


def _everything() -> ACLFilter:
    return ACLFilter(
        principal=None,
        host=None,
        operation=ACLOperation.ANY,
        permission_type=ACLPermissionType.ANY,
        resource_pattern=ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
    )


def _entries(admin: KafkaAdminClient) -> list[ACL] | None:
    """Return every entry, or ``None`` where the broker has no authorizer."""
    try:
        entries, _ = admin.describe_acls(_everything())
    except RetriableError:
        raise
    except KafkaError:
        return None
    return list(entries)
