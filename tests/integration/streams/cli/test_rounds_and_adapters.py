"""``discreet rounds`` and ``discreet adapters`` over a real database, as text and as JSON."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest

from personalization.errors import ArtifactNotFoundError
from privacy.errors import KeyUnavailableError
from privacy.keys.keyring import Keyring
from privacy.storage.session import transaction
from streams.cli.main import main
from streams.client import AdapterFeed, UpdateKind
from streams.client.testing import InMemoryBroker
from streams.contracts.topics import ADAPTERS
from streams.outbox.relay import OutboxRelay
from tests.fakes.stream_records import FakeSender
from tests.fakes.training import Workshop, outbox_events


@pytest.fixture
def shop(engine, database_url, clock, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(32)).decode())
    shop = Workshop(engine, clock, tmp_path, events=outbox_events())
    shop.add_tenant()
    for _ in range(2):
        shop.open_round()
        shop.process().run_once()
    return shop


def asked(capsys, *words):
    status = main([*words, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])


def test_rounds_are_opened_and_listed(shop, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    facts = asked(capsys, "rounds", "open", "acme", "--actor", "officer")
    assert (facts["state"], facts["opened_by"], facts["sequence"]) == ("due", "officer", 0)
    listed = asked(capsys, "rounds", "list", "--tenant", "acme")
    assert [row["state"] for row in listed].count("done") == 2
    assert main(["rounds", "list"]) == 0
    table = capsys.readouterr().out
    assert "published" in table
    cells = [[cell.strip() for cell in line.split("│")] for line in table.splitlines() if "acme" in line]
    shown = [(int(row[3]), int(row[4])) for row in cells]  # whole numbers, as in the JSON
    assert shown == [(row["period_index"], row["sequence"]) for row in listed]


def test_a_second_open_round_is_one_sentence_with_a_code(shop, capsys):
    asked(capsys, "rounds", "open", "acme")
    assert main(["rounds", "open", "acme"]) == 3
    error = capsys.readouterr().err
    assert "[personalization.round.conflict]" in error
    assert len(error.strip().splitlines()) == 1


def test_adapters_are_listed_shown_rolled_back_and_withdrawn(shop, capsys):
    first, second = asked(capsys, "adapters", "list")
    assert (first["state"], second["state"]) == ("superseded", "published")
    shown = asked(capsys, "adapters", "show", second["served_name"])
    assert shown["manifest"]["privacy"]["ledger_entry_hash"] == second["ledger_entry_hash"]
    assert asked(capsys, "adapters", "roll-back", "acme", "--reason", "tone")["version"] == 1
    withdrawn = asked(capsys, "adapters", "withdraw", first["served_name"], "--reason", "asked")
    assert withdrawn["withdrawn"] == [first["served_name"]]
    assert [row["state"] for row in asked(capsys, "adapters", "list")] == ["withdrawn", "rolled_back"]
    assert main(["adapters", "list"]) == 0
    assert first["served_name"][:8] in capsys.readouterr().out


def test_a_line_is_withdrawn_when_its_tenant_leaves(shop, capsys):
    names = [row["served_name"] for row in asked(capsys, "adapters", "list")]
    words = ("adapters", "withdraw-line", "acme", "--reason", "The tenant left.")
    assert asked(capsys, *words)["withdrawn"] == names
    listed = asked(capsys, "adapters", "list")
    assert [row["state"] for row in listed] == ["withdrawn", "withdrawn"]
    for row in listed:
        with pytest.raises(ArtifactNotFoundError, match="only its manifest is kept"):
            shop.artifacts.open(row["version_id"])
    assert asked(capsys, *words)["withdrawn"] == []
    assert main(["adapters", "withdraw-line", "acme", "--domain", "legal", "--reason", "x"]) == 1
    assert "[personalization.line.unknown]" in capsys.readouterr().err


def test_a_lost_topic_is_filled_again_from_the_registry(shop, capsys):
    sender = FakeSender()

    def told():
        relay = OutboxRelay(shop.engine, sender, batch_rows=100)
        while relay.relay_once(shop.clock.now() + timedelta(days=400)):
            pass
        records, sender.sent = [one for one in sender.sent if one.topic == ADAPTERS.name], []
        broker = InMemoryBroker()
        for record in records:
            broker.append(record)
        key = bytes.fromhex(asked(capsys, "adapters", "public-key")["public_key"])
        with AdapterFeed(broker, trusted_keys=[key, shop.signer.public_key]) as feed:
            return feed.snapshot()

    told()  # lost with the topic
    assert told() == []
    assert len(asked(capsys, "adapters", "announce", "--reason", "The topic was lost.")["lines"]) == 1
    (update,) = told()
    serves = next(row for row in asked(capsys, "adapters", "list") if row["state"] == "published")
    assert (update.kind, update.state.adapter.version_id) == (UpdateKind.SET, serves["version_id"])
    asked(capsys, "adapters", "withdraw-line", "acme", "--reason", "The tenant left.")
    (withdrawn,) = told()
    assert asked(capsys, "adapters", "announce", "--reason", "The topic was lost.")["lines"]
    (again,) = told()
    assert (again.kind, again.epoch) == (UpdateKind.WITHDRAWN, withdrawn.epoch + 1)


def test_an_unknown_adapter_is_one_sentence_with_a_code(shop, capsys):
    assert main(["adapters", "show", "a-000000000000-v1"]) == 1
    assert "[personalization.version.unknown]" in capsys.readouterr().err


def test_the_public_key_belongs_to_the_master_key(shop, capsys):
    facts = asked(capsys, "adapters", "public-key")
    assert len(bytes.fromhex(facts["public_key"])) == 32
    assert asked(capsys, "adapters", "public-key") == facts


def test_the_public_key_of_another_master_key_is_not_shown(shop, capsys, monkeypatch):
    with transaction(shop.engine) as session:
        Keyring(bytes(32)).tenant_keys(session, "acme", now=shop.clock.now())
    asked(capsys, "adapters", "public-key")
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(31) + b"x").decode())
    assert main(["adapters", "public-key"]) == KeyUnavailableError.exit_status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[privacy.key.unavailable]" in captured.err


def test_a_database_without_keys_takes_any_master_key(engine, database_url, capsys, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(31) + b"x").decode())
    assert len(bytes.fromhex(asked(capsys, "adapters", "public-key")["public_key"])) == 32
