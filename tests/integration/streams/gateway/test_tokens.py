"""Tokens of the gateway in the database, and what the gateway reads of it."""

from __future__ import annotations

import json

import pytest
from sqlmodel import select
from typer.testing import CliRunner

from personalization.registry.queries import ensure_line
from privacy.audit import trail
from privacy.errors import PolicyError, StorageError, UnknownTenantError
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.cli.gateway import app
from streams.gateway.callers import Caller, Right
from streams.gateway.directory import DirectoryWatch, directory_reader
from streams.gateway.tables import GatewayTokenRow
from streams.gateway.tokens import (
    callers_by_digest,
    list_gateway_tokens,
    new_gateway_token,
    revoke_gateway_tokens,
)
from streams.storage.operator_tokens import token_digest
from streams.storage.serving_acks import keep_newest


@pytest.fixture
def session(engine, clock):
    with transaction(engine) as session:
        for tenant in ("acme", "globex"):
            policies.register_tenant(session, tenant, actor="test", now=clock.now())
        yield session


def made(session, clock, tenant="acme", name="backend", rights=frozenset(Right)):
    return new_gateway_token(session, tenant, name, rights=rights, actor="test", now=clock.now())


def test_a_token_is_known_by_its_digest_alone(session, clock):
    token = made(session, clock, rights={Right.CHAT})
    (row,) = session.exec(select(GatewayTokenRow)).all()
    assert token.startswith("dg-")
    assert len(token) > 43
    assert bytes(row.token_digest) == token_digest(token)
    assert token not in str(row)
    assert callers_by_digest(session) == {
        token_digest(token): Caller(tenant_id="acme", name="backend", rights=frozenset({Right.CHAT}))
    }


def test_a_revoked_token_lets_nobody_in(session, clock):
    made(session, clock)
    kept = made(session, clock, name="other")
    assert revoke_gateway_tokens(session, "acme", "backend", actor="test", now=clock.now()) == 1
    assert revoke_gateway_tokens(session, "acme", "backend", actor="test", now=clock.now()) == 0
    assert revoke_gateway_tokens(session, "globex", "other", actor="test", now=clock.now()) == 0
    assert list(callers_by_digest(session)) == [token_digest(kept)]
    assert [row.name for row in list_gateway_tokens(session, "acme")] == ["other"]


def test_making_and_revoking_stand_in_the_audit_trail(session, clock):
    made(session, clock)
    revoke_gateway_tokens(session, "acme", "backend", actor="test", now=clock.now())
    actions = [entry.action for entry in trail.read(session, "acme")]
    assert actions[-2:] == ["gateway_token.created", "gateway_token.revoked"]


def test_what_makes_no_token(session, clock):
    with pytest.raises(UnknownTenantError):
        made(session, clock, tenant="nobody")
    with pytest.raises(PolicyError):
        made(session, clock, name=" ")
    with pytest.raises(PolicyError):
        made(session, clock, rights=())


def test_the_directory_holds_lines_tokens_and_what_one_server_verified(engine, session, clock):
    token = made(session, clock)
    line = ensure_line(session, "acme", "default", now=clock.now()).line_ref
    ack = {
        "line_ref": line, "version_id": "sha256:" + 64 * "0", "engine": "vllm", "epoch": 1, "reason": None,
        "probe_effect": 0.1, "occurred_at": clock.now(),
    }  # fmt: skip
    keep_newest(
        session,
        [
            {**ack, "served_name": "a-x-v1", "server_id": "ours", "status": "unloaded"},
            {**ack, "served_name": "a-x-v2", "server_id": "ours", "status": "verified"},
            {**ack, "served_name": "a-x-v3", "server_id": "ours", "status": "loaded"},
            {**ack, "served_name": "a-x-v4", "server_id": "theirs", "status": "verified"},
        ],
    )
    session.commit()
    directory = directory_reader(engine, "ours")()
    assert directory.lines == {"acme": {"default": line}}
    assert directory.verified == {"a-x-v2"}
    assert directory.callers[token_digest(token)].tenant_id == "acme"


def test_what_was_read_last_is_trusted_for_a_while(engine):
    now, away = [0.0], []

    def read():
        if away:
            raise StorageError("away")
        return directory_reader(engine, "ours")()

    watch = DirectoryWatch(read, every_seconds=1.0, trust_seconds=10.0, monotonic=lambda: now[0])
    assert watch.current is None
    watch.refresh()
    assert watch.current is not None
    away.append(True)
    now[0] = 10.0
    watch.refresh()
    assert watch.current is not None
    now[0] = 10.1
    assert watch.current is None
    away.clear()
    watch.refresh()
    assert watch.current is not None


def test_the_command_makes_lists_and_revokes(engine, session, database_url, monkeypatch):
    session.commit()
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    run = CliRunner().invoke
    made_one = run(app, ["tokens", "create", "acme", "backend", "--right", "chat", "--json"])
    token = json.loads(made_one.stdout)["token"]
    assert run(app, ["tokens", "list"]).stdout.split() == ["acme", "backend", "chat"]
    assert json.loads(run(app, ["tokens", "list", "globex", "--json"]).stdout) == []
    with transaction(engine) as other:
        assert callers_by_digest(other)[token_digest(token)].rights == {Right.CHAT}
    assert run(app, ["tokens", "revoke", "acme", "backend"]).stdout == "1 tokens were revoked.\n"
    wrong = run(app, ["tokens", "create", "acme", "x", "--right", "everything"])
    assert "is no right" in str(wrong.exception)
