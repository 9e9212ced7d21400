"""``discreet rounds`` and ``discreet adapters`` over a real database, as text and as JSON."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from sqlmodel import col, select

from personalization.adapters.signing import ManifestSigner, key_id, signing_seed
from personalization.errors import ArtifactNotFoundError
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, DesiredChange
from personalization.registry.restating import restate_line
from privacy.audit import trail
from privacy.storage.session import transaction
from streams.cli.main import main
from streams.contracts.topics import ADAPTER_EVENTS, ADAPTERS
from streams.outbox.tables import OutboxRow
from tests.fakes.keys import store_url
from tests.fakes.training import Workshop, outbox_events


@pytest.fixture
def shop(engine, database_url, clock, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_KEYS__URL", store_url(database_url))
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


def states_waiting(session):
    """The desired states in the outbox, oldest first: (epoch, value)."""
    rows = session.exec(
        select(OutboxRow).where(OutboxRow.topic == ADAPTERS.name).order_by(col(OutboxRow.outbox_id))
    ).all()
    return [(int(dict(row.headers)["ce_sequence"]), row.value) for row in rows]


def test_the_desired_state_of_every_line_is_announced_again_with_a_higher_epoch(shop, engine, capsys):
    with transaction(engine) as session:
        before = states_waiting(session)
    facts = asked(capsys, "adapters", "announce", "--reason", "topic lost", "--actor", "officer")
    assert facts == {"set": 1, "cleared": 0, "left_out": 0}
    with transaction(engine) as session:
        *same, (epoch, value) = states_waiting(session)
        events = session.exec(select(OutboxRow).where(OutboxRow.topic == ADAPTER_EVENTS.name)).all()
        (*_, record) = trail.read(session, "acme")
        current = registry.current_version(session, registry.find_line(session, "acme", "default"))
    assert same == before
    assert epoch == max(number for number, _ in before) + 1
    assert json.loads(value)["adapter"]["version_id"] == current.version_id
    assert len(events) == 2  # nothing happened to the line
    assert (record.actor, record.action) == ("officer", "adapter.state_sent_again")

    asked(capsys, "adapters", "withdraw-line", "acme", "--reason", "left")
    assert asked(capsys, "adapters", "announce", "acme") == {"set": 0, "cleared": 1, "left_out": 0}
    assert asked(capsys, "adapters", "announce", "nobody") == {"set": 0, "cleared": 0, "left_out": 0}
    with transaction(engine) as session:
        assert states_waiting(session)[-1] == (epoch + 2, None)


def test_a_version_that_was_not_told_yet_is_not_announced_before_its_instant(shop, engine):
    with transaction(engine) as session:
        line = registry.find_line(session, "acme", "default")
        told_at = registry.current_version(session, line).published_at
    for seconds, change in ((-1, DesiredChange.UNCHANGED), (0, DesiredChange.SET)):
        act = Act(actor="officer", reason="lost", now=told_at + timedelta(seconds=seconds))
        with transaction(engine) as session:
            assert restate_line(session, outbox_events(), line.line_ref, act) is change


def test_rollouts_are_set_steered_and_listed(shop, capsys):
    given = ("rollout.steps=5,50", "rollout.guards=error_rate:0.05", "release_padding_seconds=0")
    asked(capsys, "tenants", "set", "acme", *given, "--reason", "steps")
    policy = asked(capsys, "tenants", "show", "acme")["policy"]["policy"]
    assert policy["rollout"]["steps"] == [5.0, 50.0]
    assert policy["rollout"]["guards"] == {"error_rate": 0.05}
    assert main(["tenants", "show", "acme"]) == 0
    assert "rollout.steps" in capsys.readouterr().out
    assert main(["adapters", "promote", "acme", "--reason", "now"]) == 3
    assert "[personalization.rollout.state]" in capsys.readouterr().err
    shop.open_round()
    shop.process().run_once()
    (stands,) = asked(capsys, "adapters", "rollouts")
    assert (stands["stage"], stands["percent"], stands["candidate"][-3:]) == ("candidate", 0.0, "-v3")
    assert main(["adapters", "rollouts"]) == 0
    assert "candidate" in capsys.readouterr().out
    why = ("acme", "--reason", "a drill", "--actor", "officer")
    assert asked(capsys, "adapters", "pin", *why)["mode"] == "pinned"
    assert asked(capsys, "adapters", "freeze", *why)["mode"] == "frozen"
    assert asked(capsys, "adapters", "resume", *why)["mode"] == "free"
    assert asked(capsys, "adapters", "flag", "acme", "off", *why[1:])["flag"] == "off"
    assert asked(capsys, "adapters", "hold", *why)["stage"] == "held"
    assert asked(capsys, "adapters", "promote", *why)["stage"] == "promoted"
    with transaction(shop.engine) as session:
        trail_of = [(one.action, one.actor) for one in trail.read(session, "acme")]
    verbs = [
        "rollout.pinned",
        "rollout.frozen",
        "rollout.free",
        "rollout.flag.off",
        "rollout.held",
        "rollout.promoted",
    ]
    assert [one for one in trail_of if one[0] in verbs] == [(verb, "officer") for verb in verbs]
    shop.open_round()
    shop.process().run_once()
    assert asked(capsys, "adapters", "roll-back", "acme", "--reason", "tone")["version"] == 3
    assert [row["state"] for row in asked(capsys, "adapters", "list")][-2:] == ["published", "rolled_back"]
