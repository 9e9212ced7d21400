"""The story of a version fits one page, and a file of it proves itself without a database."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from personalization.choices.rows import choices_between
from personalization.choices.tables import PromptChoiceRow
from personalization.drift.rows import alarms_between
from personalization.drift.tables import DriftReadingRow
from personalization.drift.values import Judgement
from personalization.memory import documents, trying
from personalization.memory.documents import Place, prepared
from personalization.memory.histories import held_between
from personalization.memory.sealing import MemoryKeys
from personalization.memory.values import Draft
from personalization.registry import queries as registry
from personalization.registry import steering
from personalization.releases.story import story_of
from personalization.rollouts.evidence import Reading
from privacy.storage.session import transaction
from streams.cli.explain import page
from streams.cli.main import main
from streams.gateway.kpis import FIELDS
from streams.processes.trainer import LEARNED_FROM
from streams.storage.consumed_offsets import move_on, positions_of
from tests.fakes.rollouts import STEPS, RolloutShop
from tests.integration.streams.cli.test_rounds_and_adapters import shop  # noqa: F401  # a fixture

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def told(shop, capsys, monkeypatch, tmp_path):  # noqa: F811  # the fixture
    """A story in a file, and the public key that it is signed with."""
    assert main(["adapters", "list", "--json"]) == 0
    name = json.loads(capsys.readouterr().out)[-1]["served_name"]
    key = shop.signer.public_key.hex()
    assert main(["explain", name, "--public-key", key, "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    file = tmp_path / "story.json"
    file.write_text(json.dumps(story))
    monkeypatch.setenv("DISCREET_DATABASE__URL", "sqlite:////nowhere/at/all.db")
    return file, story, key, name


PLACE = Place(tenant_id="acme", collection="default", actor="ann", now=datetime(2026, 1, 1, tzinfo=UTC))


def explained(capsys, *words):
    status = main(["explain", *map(str, words)])
    return status, capsys.readouterr().out


def test_a_file_proves_itself_without_a_database(told, capsys):
    file, story, key, name = told
    status, page = explained(capsys, file, "--public-key", key)
    assert status == 0
    assert len(page.splitlines()) < 60
    for word in (name, "round", "privacy", "ledger", "committed", "gate", "holds"):
        assert word in page
    assert "BROKEN" not in page
    assert {proof["holds"] for proof in story["proofs"]} == {True}
    assert len(story["proofs"]) == 6


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("manifest", {"name", "key that is trusted"}),
        ("ledger", {"entry of the ledger"}),
        ("commit", {"ledger committed"}),
        ("key", {"key that is trusted"}),
    ],
)
def test_what_was_changed_shows(told, capsys, part, broken):
    file, story, key, _ = told
    if part == "manifest":
        story["manifest"] = story["manifest"].replace('"steps":4', '"steps":3')
    elif part == "ledger":
        story["ledger"][0]["document"] += " "
    elif part == "commit":
        story["ledger"] = [one for one in story["ledger"] if one["kind"] != "committed"]
    else:
        key = "00" * 32
    file.write_text(json.dumps(story))
    status, page = explained(capsys, file, "--public-key", key)
    assert status == 1
    found = [line for line in page.splitlines() if "BROKEN" in line]
    assert len(found) == len(broken)
    assert all(any(word in line for line in found) for word in broken)


def test_what_has_no_mark_at_the_boundary_does_not_leave(told, capsys):
    file, story, key, _ = told
    story["users"] = ["ann"]
    file.write_text(json.dumps(story))
    assert main(["explain", str(file), "--public-key", key, "--json"]) != 0
    told_of = capsys.readouterr()
    assert told_of.out == ""
    assert "users of story would leave without a mark" in told_of.err


def test_no_story_is_one_sentence_with_a_code(told, capsys):
    file, _, key, _ = told
    file.write_text("[]")
    assert main(["explain", str(file), "--public-key", key]) == 2
    assert "[personalization.story.unreadable]" in capsys.readouterr().err


def test_a_rollout_is_in_the_story_with_who_moved_it(engine, clock, tmp_path, monkeypatch, capsys):
    rolled = RolloutShop(engine, clock, tmp_path, **STEPS)
    rolled.publish()
    candidate = rolled.publish()
    rolled.verify(candidate)
    rolled.run_tick()
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url_of(engine))
    status, page = explained(capsys, candidate, "--public-key", rolled.signer.public_key.hex())
    assert status == 0
    assert "canary at 10 %, line free, flag on, steps 10, 50" in page
    assert "rollout.canary by schedule" in page
    assert "one (test): verified" in page


def test_guards_that_are_posted_again_and_again_are_one_line_each_and_their_newest_reading(
    engine, clock, tmp_path, monkeypatch, capsys
):
    rolled = RolloutShop(engine, clock, tmp_path, **STEPS)
    rolled.publish()
    candidate = rolled.publish()
    for value in (0.01, 0.02, 0.03):
        for name in ("error_rate", "latency_p95_ms"):
            with rolled.session() as session:
                reading = Reading(name=name, value=value, at=clock.now())
                steering.measure(session, "acme", candidate, reading, actor="watcher")
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url_of(engine))
    key = rolled.signer.public_key.hex()
    page = explained(capsys, candidate, "--public-key", key)[1]
    assert [line.split("by ")[1] for line in page.splitlines() if "rollout.guard" in line] == [
        "watcher: error_rate 0.01",
        "watcher: latency_p95_ms 0.01",
    ]
    assert [line.split()[1:3] for line in page.splitlines() if line.startswith("  guard ")] == [
        ["error_rate", "0.03"],
        ["latency_p95_ms", "0.03"],
    ]
    _, text = explained(capsys, candidate, "--public-key", key, "--json")
    story = json.loads(text.splitlines()[-1])
    assert [one["detail"]["value"] for one in story["trail"] if one["action"] == "rollout.guard"] == [
        0.01,
        0.01,
    ]


def test_alarms_of_drift_are_told_while_the_version_was_served_and_not_before(told, engine, capsys):
    _, story, _, _ = told
    came = datetime.fromisoformat(story["published_at"])
    judgement = Judgement(drifted=True, family="length", statistic=40.0, threshold=20.0, since=came)
    with transaction(engine) as session:
        for number, (days, said, state) in enumerate(
            [(-1, judgement, "done"), (1, judgement, "done"), (2, Judgement(), "done"), (3, judgement, "due")]
        ):
            at = came + timedelta(days=days)
            session.add(
                DriftReadingRow(
                    reading_id=f"reading-{number}", tenant_id="acme", domain="default", line_ref=story["line_ref"],
                    scheduled_for=at, due_at=at, closed_at=at, state=state, followed="alarmed",
                    judgement_json=json.dumps(said.to_document()),
                )
            )  # fmt: skip
        row = registry.find_version(session, story["served_name"])
        found = alarms_between(session, "acme", "default", row.published_at, row.left_at)
        again = story_of(session, row, alarms=found)
        for days, state in ((-1, "done"), (1, "done"), (2, "failed")):
            at = came + timedelta(days=days)
            session.add(
                PromptChoiceRow(
                    choice_id=f"choice-{days}", tenant_id="acme", domain="default", line_ref=story["line_ref"],
                    candidates_json=json.dumps([f"sha256:{digit * 64}" for digit in "ab"]), epsilon=0.5, percent=10.0,
                    actor="ann", reason="which do users like", asked_at=at, due_at=at, closed_at=at, state=state,
                    chosen=f"sha256:{'c' * 64}", drawn_json=None, outcome="chosen",
                )
            )  # fmt: skip
        made = choices_between(session, "acme", "default", row.published_at, row.left_at)
        again = story_of(session, row, alarms=found, choices=made)
    (line,) = [one for one in page(again, ()) if one.startswith("  choice")]
    assert f"ann: users chose template {'c' * 16}" in line
    assert "at epsilon 0.5: which do users like" in line
    assert [one["at"] for one in again["alarms"]] == [(came + timedelta(days=1)).isoformat()]
    (line,) = [one for one in page(again, ()) if one.startswith("  alarm")]
    assert "length, 40.0 of 20.0): alarmed" in line


def test_the_offsets_that_a_round_read_are_in_the_trail_and_prove_themselves(
    engine, clock, tmp_path, monkeypatch, capsys
):
    workshop = RolloutShop(engine, clock, tmp_path, **{"rollout.steps": ()})
    with workshop.session() as session:
        move_on(session, {("discreet.interactions.v1", 0): 41, ("discreet.serving-acks.v1", 0): 7})
    tools = workshop.tools
    reads = lambda session: positions_of(session, LEARNED_FROM)  # noqa: E731
    monkeypatch.setattr(workshop, "tools", lambda *given: replace(tools(*given), positions=reads))
    name = workshop.publish()
    with workshop.session() as session:
        move_on(session, {("discreet.interactions.v1", 0): 99})
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url_of(engine))
    key = workshop.signer.public_key.hex()
    status, page = explained(capsys, name, "--public-key", key)
    assert status == 0
    assert "input      discreet.interactions.v1 partition 0, read up to 41" in page
    assert "serving-acks" not in page
    assert "consents   to training as they stood" in page
    _, text = explained(capsys, name, "--public-key", key, "--json")
    story = json.loads(text.splitlines()[-1])
    assert story["inputs"] == [{"topic": "discreet.interactions.v1", "partition": 0, "next_offset": 41}]
    events = tmp_path / "events.jsonl"
    assert explained(capsys, name, "--public-key", key, "--openlineage", events)[0] == 0
    start, complete = (json.loads(line) for line in events.read_text().splitlines())
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert complete["inputs"][0]["inputFacets"]["discreet_offsets"]["partitions"] == [
        {"partition": 0, "next_offset": 41}
    ]
    events.unlink()
    story["inputs"][0]["next_offset"] = 99
    file = tmp_path / "story.json"
    file.write_text(json.dumps(story))
    status, page = explained(capsys, file, "--public-key", key, "--openlineage", events)
    assert (status, events.exists()) == (1, False)  # what does not hold is not exported
    assert [line.split()[0] for line in page.splitlines() if "offsets that the story names" in line] == [
        "BROKEN"
    ]


def test_what_a_version_passed_on_is_named_and_a_story_from_before_is_read(
    engine, clock, tmp_path, monkeypatch, capsys
):
    workshop = RolloutShop(engine, clock, tmp_path, start="previous")
    first, second = workshop.publish(), workshop.publish()
    workshop.measure(second, 0.01)
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url_of(engine))
    key = workshop.signer.public_key.hex()
    names = {}
    for version in (first, second):
        status, text = explained(capsys, version, "--public-key", key, "--json")
        assert status == 0
        names[version] = json.loads(text.splitlines()[-1])
    assert names[first]["heirs"] == [names[second]["served_name"]]
    assert [one["name"] for one in names[second]["guards"]] == ["error_rate"]
    old = {
        name: value
        for name, value in names[second].items()
        if name not in {"inputs", "consents", "guards", "heirs", "kpis"}
    }
    file = tmp_path / "old.json"
    file.write_text(json.dumps(old))
    assert explained(capsys, file, "--public-key", key)[0] == 0


def test_serving_quality_is_told_by_a_gateway_to_the_tenants_token_alone(
    engine, clock, tmp_path, monkeypatch, capsys
):
    workshop = RolloutShop(engine, clock, tmp_path, **{"rollout.steps": ()})
    name = workshop.publish()
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url_of(engine))
    quality = dict.fromkeys(FIELDS, None) | {"domain": "default", "version": "base", "answers": 12}
    other = {**quality, "domain": "legal", "answers": 99}
    asked = []

    def get(url, *, headers, timeout):
        asked.append((url, headers["Authorization"]))
        status = 200 if headers["Authorization"] == "Bearer the-tenants" else 401
        return httpx.Response(
            status, json={"hours": 24, "kpis": [quality, other]}, request=httpx.Request("GET", url)
        )

    monkeypatch.setattr(httpx, "get", get)
    key, token = workshop.signer.public_key.hex(), tmp_path / "token"
    words = (name, "--public-key", key, "--gateway", "http://gateway:6080/", "--gateway-token", token)
    token.write_text("the-tenants\n")
    status, page = explained(capsys, *words)
    assert (status, asked[-1][0]) == (0, "http://gateway:6080/v1/kpis")
    assert "quality    base: answers 12" in page
    assert "99" not in next(line for line in page.splitlines() if "quality" in line)
    token.write_text("another's")
    assert main(["explain", *map(str, words)]) != 0
    assert "[streams.serving.unavailable]" in capsys.readouterr().err


def database_url_of(engine):
    return engine.url.render_as_string(hide_password=False)


def test_it_tells_which_versions_of_documents_its_questions_were_answered_from(told, engine, capsys):
    def place(at, domain=""):
        return Place(
            tenant_id="acme", collection=f"for-{domain or 'all'}", actor="ann", now=at, domain=domain
        )

    name, keys = told[3], MemoryKeys(bytes(range(32)))
    with transaction(engine) as session:
        row = registry.find_version(session, name)
        since = row.published_at
        for days, domain in ((-2, ""), (-1, ""), (1, ""), (2, "elsewhere")):
            draft = Draft(document_id=f"my-secret-name{days + 2}", title="", text="A refund takes 14 days.")
            documents.add(session, keys, place(since + timedelta(days=days), domain), prepared([draft], None))
        held = held_between(session, "acme", row.domain, since, None)
        assert held_between(session, "acme", row.domain, since, since)[-1]["version"] == 2
        again = story_of(session, row, memory=held)
    assert [(one["collection"], one["version"]) for one in again["memory"]] == [
        ("for-all", 2),
        ("for-all", 3),
    ]
    lines = "\n".join(page(again, []))
    assert "for-all@3 with 3 documents" in lines
    assert "my-secret-name" not in lines


def test_it_tells_what_of_the_documents_was_tried_on_whom(told, engine):
    name, keys = told[3], MemoryKeys(bytes(range(32)))
    cut = prepared([Draft(document_id="my-secret-name", title="", text="A refund takes 14 days.")], None)
    with transaction(engine) as session:
        row = registry.find_version(session, name)
        since = row.published_at
        first = replace(PLACE, now=since - timedelta(days=3))
        documents.add(session, keys, first, cut)
        for days, text in ((-2, "15"), (1, "16"), (2, "17")):
            draft = Draft(document_id="my-secret-name", title="", text=f"A refund takes {text} days.")
            when = replace(first, now=since + timedelta(days=days))
            trying.attempt(session, keys, when, prepared([draft], None), 10)
        trying.abandon(session, replace(first, now=since + timedelta(days=3), reason="it was wrong"))
        held = held_between(session, "acme", row.domain, since, None)
        again = story_of(session, row, memory=held)
        early = held_between(session, "acme", row.domain, since, since + timedelta(days=1))
    assert [(one["version"], one["decision"], one["percent"]) for one in again["memory"]] == [
        (1, "added", None),
        (2, "tried", 10.0),
        (3, "tried", 10.0),
        (4, "tried", 10.0),
        (4, "abandoned", 0.0),
    ]
    assert [one["version"] for one in early] == [1, 2, 3]
    lines = "\n".join(page(again, []))
    assert "default@3 changes 1 documents" in lines
    assert "tried by ann, for 10 % of the users" in lines
    assert "abandoned by ann: it was wrong" in lines
    assert "my-secret-name" not in lines
