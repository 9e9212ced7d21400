"""``discreet drift show`` over a real database: releases, statistic, threshold, a picture, and what it cost."""

from __future__ import annotations

import json

import pytest

from privacy.storage.session import transaction
from streams.cli.main import main
from tests.fakes.drifting import DriftWorld

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("fixed_draws"),
]


@pytest.fixture
def settings(engine, database_url, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("COLUMNS", "160")


def run(capsys, *words):
    status = main([*words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_drifted_line_is_shown_with_its_alarm_its_picture_and_its_cost(settings, engine, capsys):
    world = DriftWorld(engine)
    world.week()
    world.week()
    world.week(changed=True)
    status, out, err = run(capsys, "drift", "show", "acme")
    assert status == 0, err
    assert "DRIFT: told" in out
    assert "how many words prompts have (input)" in out
    (alarms,) = (line for line in out.splitlines() if line.strip().startswith("alarms"))
    assert alarms.endswith("  ^"), "of three readings the last"
    assert "3 are charged" in out
    status, out, err = run(capsys, "drift", "show", "acme", "--json")
    assert status == 0, err
    facts = json.loads(out)
    first, second, third = facts["readings"]
    assert first["judgement"]["compared"] == 1
    assert not second["judgement"]["drifted"]
    assert third["judgement"]["drifted"]
    assert third["judgement"]["statistic"] > third["judgement"]["threshold"]
    assert len(third["shares"]["length"]) == len(facts["families"][0]["bins"])
    assert facts["cost"]["charged"] == 3
    assert 0 < facts["cost"]["epsilon_of_one"] < facts["cost"]["epsilon_of_all_planned"]
    status, out, err = run(capsys, "budget", "verify")
    assert (status, "3 reservations" in out) == (0, True), err
    status, out, err = run(capsys, "budget", "show", "acme", "--json")
    assert status == 0, err
    assert '"releases": 0' in out


def test_what_is_drawn_and_not_told_yet_is_not_shown(settings, engine, capsys):
    world = DriftWorld(engine, users=2, release_padding_seconds=3600)
    world.week()
    with transaction(engine):
        assert world.rows()[0].histogram_json is not None
    status, out, _ = run(capsys, "drift", "show", "acme", "--json")
    (one,) = json.loads(out)["readings"]
    assert (status, one["state"], one["shares"], one["judgement"]) == (0, "leased", None, None)


def test_a_tenant_without_readings_is_told_how_to_get_them(settings, engine, capsys):
    DriftWorld(engine, users=1, drift={"share": 0.0})
    status, out, _ = run(capsys, "drift", "show", "acme")
    assert status == 0
    assert "drift.share=0.1" in out
