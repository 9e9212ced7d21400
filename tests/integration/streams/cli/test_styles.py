"""``discreet styles`` over a real database: the newest card in sentences, a picture and JSON; acts on its entries."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from personalization.adapters.manifest import VersionState
from personalization.styles.card import StyleCard
from personalization.styles.decisions import current_edits
from personalization.styles.families import Feature
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.cli.main import main
from tests.fakes.styled_versions import keep_version
from tests.fakes.styles import found, framed, users_with_style
from tests.fakes.training import POLICY

CARD = found(users_with_style(300))
NOTE = next(one for one in CARD.of(Feature.OPENING_WORDS) if one.words == "NOTE")

PART = {"pairs": 72, "rehearsed": 40, "steps": 28, "loss_before": 5.0, "loss_after": 3.0}


@pytest.fixture
def line(engine, database_url, clock, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("COLUMNS", "160")
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=clock.now())
        policies.set_policy(session, "acme", POLICY, actor="test", reason="test", now=clock.now())
        keep_version(session, clock, framed({"OLD-{n}: ": 0.9}), state=VersionState.SUPERSEDED)
        return keep_version(session, clock, CARD)


def run(capsys, *words):
    status = main(["styles", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_newest_card_is_shown_in_sentences_and_a_picture(line, capsys):
    status, out, err = run(capsys, "show", "acme")
    assert status == 0, err
    assert f"as {line.served_name} carries it" in out
    assert "% of answers open with `TASK-{n}: `; sure: " in out
    assert "at δ = 1e-05" in out
    assert "█" in out
    assert NOTE.handle in out
    assert "OLD" not in out


def test_json_holds_the_card_and_all_that_is_made_of_it(line, capsys):
    status, out, err = run(capsys, "show", "acme", "--json")
    assert status == 0, err
    facts = json.loads(out)
    assert StyleCard.from_document(facts["card"]) == CARD
    assert facts["card_digest"] == CARD.digest() == line.style.card_digest
    assert facts["prompt"] == line.style.prompt != ""
    assert facts["pattern"] == line.style.pattern
    assert {one["label"] for one in facts["frames"]} >= {"TASK-{n}: ", "NOTE: "}
    assert len(facts["entries"]) == len(CARD.entries)
    assert facts["decisions"] == []


def test_what_a_line_that_remembers_has_beside_what_was_made_of_the_card_is_said(line, engine, clock, capsys):
    assert "remember" not in run(capsys, "show", "acme")[1]
    with transaction(engine) as session:
        keep_version(session, clock, CARD, public_part=PART | {"remembered": 2})
    said = "what 2 earlier releases learned of their cards is in the adapter too."
    assert said in run(capsys, "show", "acme")[1]
    assert any(said in one for one in json.loads(run(capsys, "show", "acme", "--json")[1])["sentences"])


def test_that_users_decided_how_strongly_it_acts_is_said(line, engine, clock, capsys):
    said = "acts in 53 linear layers was decided by users"
    assert said not in run(capsys, "show", "acme")[1]
    with transaction(engine) as session:
        keep_version(session, clock, CARD, public_part=PART | {"scaled": 53})
    assert said in " ".join(run(capsys, "show", "acme")[1].split())
    facts = json.loads(run(capsys, "show", "acme", "--json")[1])
    assert any(said in one for one in facts["sentences"])
    assert facts["public_part"]["scaled"] == 53


def test_what_an_earlier_card_alone_holds_is_shown_and_can_be_struck(line, engine, clock, capsys):
    name = replace(NOTE, words="Nadia")
    older = replace(CARD, entries=(name, *CARD.entries))
    with transaction(engine) as session:
        first = keep_version(session, clock, older, public_part=PART)
        keep_version(
            session, clock, CARD, public_part=PART | {"remembered": 1}, blend_with=first.version_id()
        )
    facts = json.loads(run(capsys, "show", "acme", "--json")[1])
    assert [one["handle"] for one in facts["earlier_entries"]] == [name.handle]
    assert name.handle not in {one.get("handle") for one in facts["entries"]}
    said = run(capsys, "show", "acme")[1]
    assert "Of earlier cards, still in the adapter:" in said
    assert name.handle in said.split("Of earlier cards")[1]
    status, out, err = run(capsys, "remove", "acme", name.handle, "--reason", "a name", "--actor", "ann")
    assert (status, err) == (0, "")
    assert "what is served now goes on as it is until then" in out
    with transaction(engine) as session:
        assert current_edits(session, "acme", "default").removed == (name.handle,)
    with transaction(engine) as session:  # one that does not remember has nothing of them
        keep_version(session, clock, CARD, public_part=PART)
    assert json.loads(run(capsys, "show", "acme", "--json")[1])["earlier_entries"] == []
    assert "Of earlier cards" not in run(capsys, "show", "acme")[1]
    other = replace(NOTE, words="Ida").handle
    assert run(capsys, "remove", "acme", other, "--reason", "a name", "--actor", "ann")[0] == 1


def test_entries_are_struck_fixed_and_left_to_the_vote_again(line, capsys, engine):
    status, out, err = run(
        capsys, "remove", "acme", NOTE.handle, "--reason", "a name", "--actor", "ann", "--json"
    )
    assert status == 0, err
    assert json.loads(out) == {"entry": NOTE.handle, "removed": [NOTE.handle], "pinned": []}
    shape = CARD.of(Feature.OPENING)[0]
    status, out, err = run(capsys, "pin", "acme", shape.name, "--reason", "ours", "--actor", "ann")
    assert status == 0, err
    assert f"Entry {shape.handle} stands in every card" in out
    with transaction(engine) as session:
        edits = current_edits(session, "acme", "default")
    assert edits.removed == (NOTE.handle,)
    assert [one.handle for one in edits.pinned] == [shape.handle]
    _, out, _ = run(capsys, "show", "acme")
    assert f"ann: remove {NOTE.handle} (opening_words): a name" in out
    status, out, err = run(capsys, "undo", "acme", NOTE.handle, "--reason", "no name after all", "--json")
    assert status == 0, err
    assert json.loads(out)["removed"] == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "nobody"), "personalization.style_card.unknown"),
        (("show", "acme", "--domain", "legal"), "personalization.style_card.unknown"),
        (("remove", "nobody", "x", "--reason", "r"), "privacy.tenant.unknown"),
        (("remove", "acme", "NOTE", "--reason", "r"), "personalization.style_entry.unknown"),
        (("pin", "acme", "0" * 12, "--reason", "r"), "personalization.style_entry.unknown"),
        (("undo", "acme", "0" * 12, "--reason", "r"), "personalization.style_entry.unknown"),
        (("remove", "acme", NOTE.handle, "--reason", " "), "personalization.style_card.invalid"),
        (("remove", "acme", NOTE.handle), "cli.usage"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_a_code(line, capsys, words, code):
    status, out, err = run(capsys, *words)
    assert status != 0
    assert out == ""
    assert f"[{code}]" in err
    assert len(err.strip().splitlines()) == 1


def test_a_withdrawn_card_and_versions_without_one_are_passed_over(line, engine, clock, capsys):
    with transaction(engine) as session:
        keep_version(session, clock, None)
        keep_version(session, clock, framed({"GONE-{n}: ": 0.9}), state=VersionState.WITHDRAWN)
    status, out, err = run(capsys, "show", "acme", "--json")
    assert status == 0, err
    assert json.loads(out)["served_name"] == line.served_name
