"""``discreet budget``: show, plan, verify, export and statement, as tables and JSON, and exit statuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml

from privacy.accounting.calibration import calibrate_policy, caps_of, release_mechanisms
from privacy.ledger import DrawRecord, Ledger, ReservationRequest
from privacy.mechanisms.private_read import ReadPurpose
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.cli.main import main

INTEGRITY_STATUS = 4
NOW = datetime.now(UTC)


@pytest.fixture
def discreet(database_url, monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        status = main(["budget", *(str(one) for one in arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def held(engine):
    """A tenant with two committed releases in this period, and a tenant without a policy."""
    ledger = Ledger()
    with transaction(engine) as session:
        for name in ("acme", "idle"):
            policies.register_tenant(session, name, actor="ann", now=NOW)
        version = policies.set_policy(
            session, "acme", {"declared_users": 400}, actor="ann", reason="r", now=NOW
        )
        policy = version.policy
        for number in range(2):
            reservation = ledger.reserve(
                session,
                ReservationRequest(
                    tenant_id="acme",
                    policy_version=1,
                    period_index=policy.period_index(NOW),
                    purpose=ReadPurpose.TRAINING,
                    mechanisms=release_mechanisms(policy, calibrate_policy(policy)),
                    idempotency_key=f"round-{number}",
                    epoch=1,
                    caps=caps_of(policy),
                ),
            ).reservation_id
            ledger.start(session, reservation, 1)
            draw = DrawRecord(seed_commitment="sha256:s", data_digest="sha256:d", code_digest="sha256:c")
            ledger.record_draw(session, reservation, 1, draw)
            ledger.commit(
                session, reservation, 1
            )  # what was paid for is no version, so the registry has none
    return reservation


def test_show_one_or_all(discreet, held):
    status, out, _ = discreet("show", "acme", "--json")
    (facts,) = json.loads(out)
    assert status == 0
    assert facts["releases"] == 2
    assert 0 < facts["period_epsilon"] == facts["lifetime_epsilon"] < facts["period_cap"] == 2.0
    table = discreet("show")[1]
    assert "acme" in table
    assert "idle" in table
    status, _, err = discreet("show", "nobody")
    assert status == 2
    assert "privacy.tenant.unknown" in err


def test_plan_as_table_json_and_picture(discreet, held, tmp_path):
    picture = tmp_path / "burn.png"
    status, out, _ = discreet("plan", "acme", "--releases", 30, "--picture", picture, "--json")
    rows = {row["name"]: row for row in json.loads(out)["outlooks"]}
    assert status == 0
    assert rows["now"]["releases_left"] > 0
    assert rows["wish: 30 releases"]["noise_multiplier"] > 0
    assert rows["steps × 2"]["noise_multiplier"] > rows["now"]["noise_multiplier"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = discreet("plan", "acme", "--releases", 1_000_000)[1]
    assert "both ε caps × 2" in table
    assert "do not fit" in table
    assert "Below S = 0.3" in table
    assert "d = 768" in table
    status, _, err = discreet("plan", "idle")
    assert status == 2
    assert "has no policy" in err


def test_export_verifies_and_a_changed_export_does_not(discreet, held, tmp_path):
    path = tmp_path / "ledger.jsonl"
    assert discreet("export", "acme", "--output", path)[0] == 0
    assert discreet("verify", path)[0] == 0
    assert discreet("export")[1] == path.read_text(encoding="utf-8")  # nobody else has a ledger
    status, out, _ = discreet("verify", path, "--pld", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["reservations"] == 2
    assert all(account["pld_epsilon"] <= account["epsilon"] for account in report["accounts"])
    path.write_text(path.read_text(encoding="utf-8").replace("committed", "forfeited", 1), encoding="utf-8")
    status, out, err = discreet("verify", path)
    assert status == INTEGRITY_STATUS
    assert "chain" in out
    assert "privacy.ledger.integrity" in err


def test_verify_reads_the_database_and_knows_published_digests(discreet, held, engine):
    with transaction(engine) as session:
        digest = Ledger().entry_digest(session, held)
    assert discreet("verify", "--tenant", "acme", "--head", f"acme={digest}")[0] == 0
    status, out, _ = discreet("verify", "--head", "acme=sha256:0", "--json")
    assert status == INTEGRITY_STATUS
    assert [one["code"] for one in json.loads(out)["findings"]] == ["head"]


def test_statement_for_people_programs_and_the_registry(discreet, held):
    text = discreet("statement", "acme")[1]
    assert "Privacy statement of tenant acme" in text
    assert "Not covered" in text
    facts = json.loads(discreet("statement", "acme", "--release", held, "--json")[1])
    assert facts["release"]["reservation_id"] == held
    assert "What leaves, and why it may." in text
    assert {one["mark"] for one in facts["boundary"]} == {"charged", "public", "slot_timed", "operator"}
    arguments = ("statement", "acme", "--registry", "--curator", "Acme", "--author", "Ann")
    record = yaml.safe_load(discreet(*arguments)[1])
    assert record == json.loads(discreet(*arguments, "--json")[1])
    assert record["deployment"]["administrative"] == {
        "status": "Draft",
        "registry_authors": ["Ann"],
        "tier": 3,
    }
    status, _, err = discreet("statement", "acme", "--registry", "--curator-type", "Club")
    assert status == 2
    assert "curator_type" in err


def test_verify_says_where_the_name_of_a_tenant_goes(discreet, held):
    status, out, err = discreet("verify", "acme")
    assert (status, out) == (2, "")
    assert "--tenant" in err
    assert "budget export" in err
    assert err.endswith("[cli.usage]\n")
    assert discreet("verify", "--tenant", "acme")[0] == 0
