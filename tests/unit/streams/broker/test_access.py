"""Which access rules the topics need, and how a broker's entries are judged."""

from __future__ import annotations

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)
from kafka.errors import SecurityDisabledError

from streams.broker import access as topic_access
from streams.broker.access import AccessRule, Operation, Resource, is_allowed, rules_for
from streams.broker.topics import Severity
from streams.contracts.topics import ADAPTERS, CONSENT, DEAD_LETTERS, INTERACTIONS, Role

EVERYONE = {role: f"User:{role.value}" for role in Role}
READ = AccessRule(
    resource=Resource.TOPIC, name=INTERACTIONS.name, operation=Operation.READ, principal="User:worker"
)


def entry(
    *,
    name=INTERACTIONS.name,
    principal="User:worker",
    operation=ACLOperation.READ,
    permission=ACLPermissionType.ALLOW,
    pattern=ACLResourcePatternType.LITERAL,
    kind=ResourceType.TOPIC,
):
    return ACL(
        principal=principal,
        host="*",
        operation=operation,
        permission_type=permission,
        resource_pattern=ResourcePattern(kind, name, pattern),
    )


class StubAdmin:
    def __init__(self, entries):
        self.entries = list(entries)

    def describe_acls(self, acl_filter):
        return self.entries, None

    def create_acls(self, entries):
        self.entries.extend(entries)
        return {"succeeded": entries, "failed": []}


def test_rules_follow_the_roles():
    allowed = {(rule.principal, rule.operation, rule.name) for rule in rules_for(EVERYONE, group="g")}
    assert ("User:product", Operation.WRITE, INTERACTIONS.name) in allowed
    assert ("User:product", Operation.READ, INTERACTIONS.name) not in allowed
    assert ("User:serving", Operation.READ, ADAPTERS.name) in allowed
    assert ("User:serving", Operation.WRITE, ADAPTERS.name) not in allowed
    assert ("User:worker", Operation.WRITE, DEAD_LETTERS.name) in allowed
    assert ("User:worker", Operation.READ, "g") in allowed
    readers = {rule.principal for rule in rules_for(EVERYONE, group="g") if rule.name == CONSENT.name}
    assert "User:serving" not in readers
    assert [
        rule.arguments() for rule in rules_for({Role.SERVING: "User:s"}, group="g", topics=[ADAPTERS])
    ] == ["--add --allow-principal User:s --operation Read --topic discreet.adapters.v1"]


@pytest.mark.parametrize(
    "entries",
    [
        [entry()],
        [entry(operation=ACLOperation.ALL)],
        [entry(principal="User:*")],
        [entry(name="*")],
        [entry(name="discreet.", pattern=ACLResourcePatternType.PREFIXED)],
        [entry(), entry(principal="User:other", permission=ACLPermissionType.DENY)],
    ],
)
def test_entries_that_allow(entries):
    assert is_allowed(READ, entries)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [entry(operation=ACLOperation.WRITE)],
        [entry(principal="User:other")],
        [entry(name="discreet.")],
        [entry(name="other.", pattern=ACLResourcePatternType.PREFIXED)],
        [entry(kind=ResourceType.GROUP)],
        [entry(), entry(permission=ACLPermissionType.DENY)],
        [entry(), entry(name="*", principal="User:*", permission=ACLPermissionType.DENY)],
    ],
)
def test_entries_that_do_not_allow(entries):
    assert not is_allowed(READ, entries)


def test_missing_rights_are_errors_and_strangers_at_personal_data_are_warnings():
    rules = rules_for(EVERYONE, group="g")
    admin = StubAdmin([])
    assert len(topic_access.check_access(admin, rules)) == len(rules)
    assert topic_access.apply_access(admin, rules) == rules
    assert topic_access.apply_access(admin, rules) == ()
    assert topic_access.check_access(admin, rules) == []
    admin.entries += [entry(principal="User:curious"), entry(principal="User:curious", name=ADAPTERS.name)]
    (finding,) = topic_access.check_access(admin, rules)
    assert finding.severity is Severity.WARNING
    assert finding.sentence() == (
        "discreet.interactions.v1: Read of User:curious is allowed, wanted is not allowed"
    )


def test_a_broker_without_an_authorizer_is_named():
    class Open(StubAdmin):
        def describe_acls(self, acl_filter):
            raise SecurityDisabledError

    (finding,) = topic_access.check_access(Open([]), rules_for(EVERYONE, group="g"))
    assert (finding.severity, "no authorizer" in finding.found) == (Severity.WARNING, True)
