"""``discreet tenants`` registers, changes, shows and lists, and refuses in one sentence."""

from __future__ import annotations

import json
import re

import pytest

from privacy.errors import StorageError
from streams.cli.main import main

ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where SQL does not matter


@pytest.fixture
def discreet(database_url, monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        status = main(["tenants", *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_tenant_from_registration_to_history(discreet):
    assert discreet("add", "acme", "--actor", "ann", "--json")[0] == 0
    status, out, _ = discreet(
        "set",
        "acme",
        "declared_users=300",
        "domains=default,legal",
        "schedule.first_at=2026-01-05T00:00:00Z",
        "schedule.every_seconds=3600",
        "--actor",
        "ann",
        "--reason",
        "launch",
        "--json",
    )
    document = json.loads(out)["policy"]
    assert status == 0
    assert (document["version"], document["set_by"], document["reason"]) == (1, "ann", "launch")
    assert document["policy"]["domains"] == ["default", "legal"]
    assert document["policy"]["schedule"] == {"first_at": "2026-01-05T00:00:00Z", "every_seconds": 3600}
    assert discreet("set", "acme", "sharing_opt_in=true", "--actor", "bob")[0] == 0
    shown = discreet("show", "acme", "--history")[1]
    assert "policy version 2" in shown
    assert "launch" in shown
    history = json.loads(discreet("show", "acme", "--history", "--json")[1])["history"]
    assert [entry["set_by"] for entry in history] == ["ann", "bob"]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["declared_users=20"], r"signal-to-noise S is 0\.0\d+; below 0\.3 a release is mostly noise"),
        (["declared_users=300", "purposes=evaluation"], "does not name training as a purpose"),
    ],
)
def test_a_policy_that_no_release_fits_is_kept_and_said_to_be_one(discreet, changes, why):
    status, out, err = discreet("add", "acme", *changes)
    assert status == 0
    assert re.search(why, err.replace("\n", " "))
    assert "policy version 1" in out
    status, out, err = discreet("set", "acme", "retention_days=30", "--json")
    assert status == 0
    assert re.search(why, err)
    assert re.search(why, json.loads(out)["no_release_fits"])
    status, out, err = discreet("set", "acme", "declared_users=5000", "purposes=training", "--json")
    assert (status, err, json.loads(out)["no_release_fits"]) == (0, "", None)


def test_the_platforms_ceilings_hold_on_the_command_line_and_a_policy_from_before_is_shown_as_above(
    discreet, monkeypatch
):
    assert discreet("add", "acme", "declared_users=300")[0] == 0
    status, _, err = discreet("set", "acme", "period_epsilon=9", "lifetime_epsilon=9")
    assert status == 2
    assert "period_epsilon is 9; the platform allows at most 8" in err.replace("\n", " ")
    monkeypatch.setenv("DISCREET_CEILINGS__PERIOD_EPSILON", "1.5")
    assert "Not trained until changed: period_epsilon is 2" in discreet("show", "acme")[1]
    assert len(json.loads(discreet("show", "acme", "--json")[1])["above_ceilings"]) == 1
    assert discreet("set", "acme", "period_epsilon=1.5")[0] == 0


def test_a_population_is_shown_and_stays_when_the_policy_no_longer_names_it(discreet):
    assert discreet("add", "beta", "declared_users=50", "population=staff")[0] == 0
    assert "staff" in discreet("show", "beta")[1]
    assert discreet("set", "beta", "population=")[0] == 0
    text = discreet("show", "beta")[1]
    assert "for good with the populations: staff" in text
    document = json.loads(discreet("show", "beta", "--json")[1])
    assert (document["populations"], document["policy"]["policy"]["population"]) == (["staff"], None)
    status, _, err = discreet("set", "beta", "population=Not a name")
    assert status == 2
    assert "population is 'Not a name'; allowed is nothing, or a name" in err


def test_add_with_fields_sets_the_first_policy_and_list_shows_it(discreet):
    assert discreet("add", "beta", "declared_users=50")[0] == 0
    assert discreet("add", "gamma")[0] == 0
    table = discreet("list")[1]
    assert "version 1" in table
    assert "never trained" in table
    listed = json.loads(discreet("list", "--json")[1])
    assert [(tenant["tenant"], tenant["policy"] is None) for tenant in listed] == [
        ("beta", False),
        ("gamma", True),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["show", "nobody"], "tenant 'nobody' is not registered", "privacy.tenant.unknown"),
        (["add", "Not A Slug"], "tenant_id is 'Not A Slug'; allowed are 1 to 63", "privacy.policy.invalid"),
        (
            ["add", "acme", "declared_users=0"],
            "declared_users is '0'; allowed is 1 to",
            "privacy.policy.invalid",
        ),
        (["add", "acme", "declared_users"], "allowed is field=value", "privacy.policy.invalid"),
        (["set", "acme"], "no field is given", "privacy.policy.invalid"),
    ],
)
def test_a_mistake_is_one_sentence_with_a_code(discreet, arguments, sentence, code):
    status, out, err = discreet(*arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert f"[{code}]" in err
    assert err.count("\n") == 1
    assert json.loads(discreet("list", "--json")[1]) == []


def test_a_tenant_that_is_there_is_changed_with_another_command(discreet):
    assert discreet("add", "acme")[0] == 0
    status, _, err = discreet("add", "acme")
    assert status != 0
    assert "already registered" in err
    assert "`discreet tenants set`" in err


def test_in_a_fresh_directory_the_error_says_how_the_database_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DISCREET_DATABASE__URL", raising=False)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path / "discreet-state"))
    assert main(["tenants", "list"]) == StorageError.exit_status
    assert "`discreet db upgrade`" in capsys.readouterr().err
    assert main(["db", "upgrade"]) == 0
    assert main(["tenants", "list"]) == 0
