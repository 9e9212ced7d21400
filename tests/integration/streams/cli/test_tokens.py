"""``discreet tokens`` makes, lists and revokes, and shows a token once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from privacy.audit import trail
from privacy.audit.records import OPERATOR_CHAIN
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.cli.main import main
from streams.storage.operator_tokens import holder_of


@pytest.fixture
def discreet(engine, database_url, monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=datetime.now(UTC))

    def run(*arguments):
        status = main(["tokens", *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def holder(engine, token, *, days=0):
    with transaction(engine) as session:
        return holder_of(session, token, datetime.now(UTC) + timedelta(days=days))


def test_a_token_from_its_making_to_its_end(discreet, engine):
    status, out, err = discreet(
        "create", "acme", "--name", "bea", "--role", "administrator", "--actor", "ann"
    )
    token = out.strip()
    assert (status, len(out.splitlines())) == (0, 1)
    assert "administrator of acme until" in err
    assert holder(engine, token).tenant_id == "acme"
    assert holder(engine, token, days=91) is None

    (listed,) = json.loads(discreet("list", "acme", "--json")[1])
    assert (listed["name"], listed["role"], listed["revoked_at"]) == ("bea", "administrator", None)
    assert token not in discreet("list")[1]

    assert discreet("revoke", listed["id"], "--actor", "ann")[0] == 0
    assert holder(engine, token) is None
    assert discreet("list")[1] == "There are no such tokens.\n"
    assert "revoked at" in discreet("list", "--all")[1]
    with transaction(engine) as session:
        actions = [(one.actor, one.action) for one in trail.read(session, "acme")]
    assert actions[1:] == [("ann", "token.created"), ("ann", "token.revoked")]


def test_a_token_that_reaches_the_platform_is_audited_in_the_operators_chain(discreet, engine):
    made = json.loads(discreet("create", "--name", "grafana", "--days", "30", "--actor", "ann", "--json")[1])
    assert (made["tenant"], made["role"]) == (None, "reader")
    assert holder(engine, made["token"]).role == "reader"
    assert holder(engine, made["token"], days=31) is None
    with transaction(engine) as session:
        (record,) = trail.read(session, OPERATOR_CHAIN)
    assert (record.action, record.detail["name"]) == ("token.created", "grafana")
    assert made["token"] not in json.dumps(record.to_document())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("create", "acme", "--name", "x", "--role", "operator"),
            "allowed for a token that reaches one tenant",
        ),
        (
            ("create", "--name", "x", "--role", "administrator"),
            "allowed for a token that reaches the whole platform",
        ),
        (
            ("create", "acme", "--name", "x", "--role", "root"),
            "allowed are reader, administrator, operator, server",
        ),
        (("create", "acme", "--name", "x", "--days", "400"), "allowed are 1 to 366"),
        (("create", "nobody", "--name", "x"), "is not registered"),
        (("revoke", "abc"), "there is no token"),
    ],
)
def test_what_may_not_be_is_refused_in_one_sentence(discreet, arguments, said):
    status, _, err = discreet(*arguments)
    assert status != 0
    assert said.lower() in err.lower()
    assert len(err.strip().splitlines()) == 1
