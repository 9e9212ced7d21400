"""``discreet prompts choose`` and ``choices`` over a real database and a tiny base."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from personalization.choices.protocol import Voting
from personalization.planning.plan import PerformanceFlags
from personalization.training.base.directory import BaseDirectory
from personalization.training.child.job import vote
from personalization.training.child.parent import run_vote
from personalization.training.jobs.wire import decode_job, encode_job
from privacy.storage.session import server_now, transaction
from streams.cli import prompt_choices
from streams.cli.main import main
from streams.processes.keys import adapter_signer
from streams.settings import load_settings
from tests.fakes.choosing import ChoosingWorld
from tests.fakes.tiny_models import write_tiny_base

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ROOT = Path(__file__).resolve().parents[4]
FLAGS = PerformanceFlags(device="cpu", threads=1)
WHY = ("--reason", "which do users like", "--actor", "ann")


class SignedWorld(ChoosingWorld):
    """Templates are signed with the key of the settings, as the command signs and checks them."""

    def begin(self, engine, master_key, redact=None):
        super().begin(engine, master_key, redact)
        self.signer = adapter_signer(load_settings())


@pytest.fixture
def world(engine, database_url, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_MASTER_KEY", "K" * 43 + "=")
    return SignedWorld(engine, users=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return BaseDirectory(write_tiny_base(tmp_path_factory.mktemp("base"), layers=2))


def run(capsys, *words):
    status = main([*words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def done(capsys, *words):
    status, out, err = run(capsys, *words, "--json")
    assert status == 0, err
    return json.loads(out.splitlines()[-1])


def chosen(world, base, capsys, voted):
    world.now = datetime.now(UTC) - timedelta(hours=2)  # the command goes by the clock of this machine
    world.answer(1, count=2)
    asked = done(capsys, "prompts", "choose", "acme", "--candidates", "v1, v2,v3", "--epsilon", "1", *WHY)
    assert (asked["state"], asked["epsilon"], asked["percent"], len(asked["candidates"])) == (
        "due",
        1.0,
        10.0,
        3,
    )
    assert asked["users_needed"] <= asked["declared_users"] == 200
    (waiting,) = done(capsys, "prompts", "choices", "acme")["choices"]
    assert (waiting["state"], waiting["template"]) == ("due", None)
    world.now = datetime.now(UTC)
    world.tick(voting=Voting(run=voted, base=base, flags=FLAGS))
    (told,) = done(capsys, "prompts", "choices", "acme")["choices"]
    assert (told["state"], told["outcome"]) == ("done", "chosen")
    assert told["drawn"] in asked["candidates"]
    listed = done(capsys, "prompts", "list", "acme")
    assert listed["templates"][-1] == {
        **listed["templates"][-1], "name": told["template"], "origin": "selection", "actor": "ann",
    }  # fmt: skip
    assert (listed["candidate"], listed["candidate_percent"]) == (told["template"], 10.0)
    return told


def as_the_page_shows(capsys):
    """Run what the page of templates shows of choices, and return what is said."""
    page = (ROOT / "streams" / "docs" / "prompts.md").read_text("utf-8")
    _, block = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


@SQLITE
def test_users_answers_choose_a_template_which_is_tried_listed_verified_and_rolled_back(world, base, capsys):
    asked_for = []

    def voted(job, _should_stop):
        asked_for.append(decode_job(encode_job(job)))
        return vote(asked_for[-1])

    told = chosen(world, base, capsys, voted)
    assert [len(one.candidates) for one in asked_for[0].ballots] == [3] * 8
    status, out, err = run(capsys, "prompts", "choices", "acme")
    assert (status, f"chosen {told['template']} (candidate {told['drawn']})" in out) == (0, True), err
    status, out, err = run(capsys, "budget", "verify")
    assert (status, "1 reservations" in out) == (0, True), err
    status, out, err = run(capsys, "prompts", "roll-back", "acme", *WHY)
    assert (status, out) == (0, "The line uses no template.\n"), err
    asked, *listed = as_the_page_shows(capsys)
    assert asked.startswith("A trainer will take the choice among ")
    assert [one.rpartition(": ")[2].split()[0] for one in listed] == ["due", "chosen"]


@SQLITE
@pytest.mark.slow
def test_the_votes_are_taken_in_a_child_process(world, base, capsys):
    chosen(world, base, capsys, run_vote)


@SQLITE
def test_what_is_refused_says_how_many_users_it_would_take(world, capsys):
    words = ("prompts", "choose", "acme", "--candidates", "v1,v2,v3", "--epsilon", "0.05", *WHY)
    status, _, err = run(capsys, *words)
    assert status == 3
    assert "[personalization.prompt.choice]" in err
    assert "200 users are declared, and 3 candidates at epsilon 0.05 need" in err
    status, _, err = run(capsys, "prompts", "choose", "acme", "--candidates", "v1,v9", *WHY)
    assert status != 0
    assert "[personalization.prompt.unknown]" in err


def test_it_is_asked_for_at_the_time_of_the_database_and_not_of_whoever_asks(
    world, engine, database_url, capsys, monkeypatch
):
    """The time says which period pays and which signals are read; a file has no clock but its machine's."""
    behind = datetime.now(UTC) - timedelta(days=60)
    monkeypatch.setattr(prompt_choices, "datetime", SimpleNamespace(now=lambda _zone: behind))
    asked = done(capsys, "prompts", "choose", "acme", "--candidates", "v1,v2,v3", "--epsilon", "1", *WHY)
    with transaction(engine) as session:
        theirs = server_now(session)
    assert (theirs is None) == database_url.startswith("sqlite")
    expected = behind if theirs is None else theirs
    assert abs(datetime.fromisoformat(asked["asked_at"]) - expected) < timedelta(minutes=5)
