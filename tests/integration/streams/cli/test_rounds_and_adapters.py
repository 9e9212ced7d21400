"""``discreet rounds`` and ``discreet adapters`` over a real database, as text and as JSON."""

from __future__ import annotations

import base64
import json

import pytest

from personalization.adapters.signing import ManifestSigner, key_id, signing_seed
from personalization.errors import ArtifactNotFoundError
from streams.cli.main import main
from streams.outbox.events import OutboxAdapterEvents
from tests.fakes.keys import store_url
from tests.fakes.training import Workshop


@pytest.fixture
def shop(engine, database_url, clock, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_KEYS__URL", store_url(database_url))
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(32)).decode())
    shop = Workshop(engine, clock, tmp_path, events=OutboxAdapterEvents())
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


def test_an_unknown_adapter_is_one_sentence_with_a_code(shop, capsys):
    assert main(["adapters", "show", "a-000000000000-v1"]) == 1
    assert "[personalization.version.unknown]" in capsys.readouterr().err


def test_the_public_key_is_that_of_the_installations_own_signing_key(shop, capsys, monkeypatch, tmp_path):
    facts = asked(capsys, "adapters", "public-key")
    assert len(bytes.fromhex(facts["public_key"])) == 32
    assert asked(capsys, "adapters", "public-key") == facts
    file = tmp_path / "adapter-signing.key"
    assert file.stat().st_mode & 0o777 == 0o600
    seed = base64.b64decode(file.read_text())
    assert ManifestSigner(seed).public_key.hex() == facts["public_key"]
    # The key that was derived from the master key until now is another one, and servers may go on trusting it.
    derived = ManifestSigner(signing_seed(bytes(32))).public_key
    assert facts["earlier"] == [{"public_key": derived.hex(), "key_id": key_id(derived)}]
    assert derived.hex() != facts["public_key"]
    monkeypatch.setenv("DISCREET_SIGNING__ADAPTER_KEY", base64.b64encode(bytes(31) + b"s").decode())
    assert asked(capsys, "adapters", "public-key")["public_key"] == (
        ManifestSigner(bytes(31) + b"s").public_key.hex()
    )


def test_a_signing_key_that_others_may_read_is_refused(shop, capsys, tmp_path):
    asked(capsys, "adapters", "public-key")
    (tmp_path / "adapter-signing.key").chmod(0o640)
    assert main(["adapters", "public-key"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, "[streams.settings.invalid]" in captured.err) == ("", True)
