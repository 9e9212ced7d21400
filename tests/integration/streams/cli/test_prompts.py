"""``discreet prompts`` over a real database: versions, moves, canary, roll-back; what gateways read of it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlmodel import select

from personalization.prompts.rows import Standings
from personalization.prompts.tables import PromptTemplateRow
from personalization.registry.queries import find_line, get_version
from privacy.audit.tables import AuditRow
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.cli.main import main
from streams.contracts.topics import ADAPTER_EVENTS, ADAPTERS
from streams.gateway.directory import read_directory
from streams.outbox.tables import OutboxRow
from streams.processes.keys import adapter_signer
from streams.settings import load_settings
from tests.fakes.styled_versions import keep_version
from tests.fakes.styles import found, users_with_style
from tests.fakes.training import POLICY

ROOT = Path(__file__).resolve().parents[4]
CALM = "Answer calmly.\n\n{{ prompt }}"
BRIEF = "Answer {{ audience }} briefly.\n\n{{ prompt }}"
WHY = ("--reason", "a test asks", "--actor", "ann", "--json")


@pytest.fixture
def shop(engine, database_url, clock, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_MASTER_KEY", "K" * 43 + "=")
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=clock.now())
        policies.set_policy(session, "acme", POLICY, actor="test", reason="test", now=clock.now())
    return engine


def run(capsys, *words):
    status = main(["prompts", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def done(capsys, *words):
    status, out, err = run(capsys, *words)
    assert status == 0, err
    return json.loads(out)


def sent(engine, topic):
    with transaction(engine) as session:
        rows = session.exec(
            select(OutboxRow).where(OutboxRow.topic == topic.name).order_by(OutboxRow.outbox_id)
        ).all()
        return [json.loads(row.value) for row in rows]


def prompts(engine, keys=None):
    keys = [adapter_signer(load_settings()).public_key] if keys is None else keys
    with transaction(engine) as session:
        found = read_directory(session, "one", keys)
        line = find_line(session, "acme", "default")
    return found.prompts.get(line.line_ref)


def test_a_template_is_added_used_tried_and_rolled_back(shop, capsys):
    one = done(capsys, "add", "acme", "--text", CALM, *WHY)
    assert (one["number"], one["origin"], one["used"]) == (1, "operator", False)
    assert prompts(shop) is None, "nobody gets what nobody decided to use"
    two = done(
        capsys, "add", "acme", "--text", BRIEF, "--variables", '{"audience": ["experts", "boards"]}', *WHY
    )
    assert done(capsys, "use", "acme", "1", *WHY)["current"] == one["name"]
    assert prompts(shop).of("bob").rendering.render("Hi") == "Answer calmly.\n\nHi"
    tried = done(capsys, "use", "acme", two["name"], "--percent", "25", *WHY)
    assert (tried["current"], tried["candidate"], tried["decision"]) == (one["name"], two["name"], "try")
    quarter = {user for user in map(str, range(400)) if prompts(shop).of(user).template.name == two["name"]}
    assert 60 < len(quarter) < 140
    assert prompts(shop).of(None).template.name == one["name"]
    done(capsys, "use", "acme", "v2", "--percent", "50", *WHY)
    half = {user for user in map(str, range(400)) if prompts(shop).of(user).template.name == two["name"]}
    assert quarter < half, "whoever had it keeps it"
    left = done(capsys, "roll-back", "acme", *WHY)
    assert (left["decision"], left["current"], left["candidate"]) == ("leave", one["name"], None)
    done(capsys, "use", "acme", "2", *WHY)
    assert done(capsys, "roll-back", "acme", *WHY)["current"] == one["name"]
    assert done(capsys, "roll-back", "acme", *WHY)["current"] is None
    status, _, err = run(capsys, "roll-back", "acme", *WHY)
    assert status == 3
    assert "no other template before" in err
    listed = done(capsys, "list", "acme", "--json")
    assert [one["number"] for one in listed["templates"]] == [1, 2]
    decisions = [move["decision"] for move in listed["moves"]]
    assert decisions == ["use", "try", "try", "leave", "use", "roll_back", "roll_back"]


def test_what_the_page_shows_works(shop, capsys):
    page = (ROOT / "streams" / "docs" / "prompts.md").read_text("utf-8")
    # the other one is run by the test of choices, over users who answered
    block, _ = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for command in re.split(r"^discreet ", block, flags=re.MULTILINE)[1:]:
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert shown.endswith("Answer our customers in one friendly sentence.\n\nWhere is my parcel?\n")
    assert "← used" in shown


def test_every_move_is_an_event_and_an_audit_record(shop, capsys):
    one = done(capsys, "add", "acme", "--text", CALM, "--use", *WHY)
    done(capsys, "stop", "acme", *WHY)
    told = sent(shop, ADAPTER_EVENTS)
    assert [event["kind"] for event in told] == ["prompt_moved", "prompt_moved"]
    assert [event["prompts"]["current"] for event in told] == [one["version_id"], None]
    assert [event["epoch"] for event in told] == [1, 2]
    assert told[0]["actor"] == "ann"
    assert sent(shop, ADAPTERS) == [], "a line without an adapter has no desired state"
    with transaction(shop) as session:
        actions = session.exec(
            select(AuditRow.action).where(AuditRow.chain == "acme").order_by(AuditRow.sequence)
        ).all()
    assert actions[-3:] == ["prompt.added", "prompt.use", "prompt.stop"]
    status, _, err = run(capsys, "stop", "acme", *WHY)
    assert status == 3
    assert "uses no template" in err


def test_template_and_adapter_move_as_one_desired_state(shop, capsys, clock):
    with transaction(shop) as session:
        manifest = keep_version(session, clock, found(users_with_style(300)))
        find_line(session, "acme", "default").current_version_id = manifest.version_id()
        row = get_version(session, manifest.version_id())
        row.signature_json = json.dumps({"key_id": "k" * 16, "signature": "A" * 86 + "=="})
    made = done(capsys, "add", "acme", "--from-card", "--use", *WHY)
    assert made["origin"] == "card"
    (state,) = sent(shop, ADAPTERS)
    assert state["adapter"]["version_id"] == manifest.version_id()
    assert state["prompts"]["current"]["source"] == manifest.style.prompt
    assert state["prompts"]["current"]["when"] == "base"


def test_two_templates_are_compared_and_a_prompt_is_shown_in_one(shop, capsys):
    done(capsys, "add", "acme", "--text", CALM, *WHY)
    done(capsys, "add", "acme", "--text", BRIEF, "--variables", '{"audience": "boards"}', *WHY)
    lines = done(capsys, "diff", "acme", "1", "2", "--json")["diff"]
    assert "+variable audience: boards" in lines
    assert "-Answer calmly." in lines
    shown = done(
        capsys,
        "show",
        "acme",
        "2",
        "--prompt",
        "Why <|im_end|>?",
        "--values",
        '{"audience": "all"}',
        "--json",
    )
    assert shown["rendered"] == "Answer all briefly.\n\nWhy ?"
    status, _, err = run(capsys, "show", "acme", "9")
    assert status != 0
    assert "no prompt template '9'" in err


@pytest.mark.parametrize("text", ["{{ prompt.__class__ }}", "Hello", "{{ prompt }}{{ user }}"])
def test_what_no_template_may_hold_is_not_kept(shop, capsys, text):
    status, _, err = run(capsys, "add", "acme", "--text", text, *WHY)
    assert status == 2
    assert "personalization.prompt.invalid" in err
    with transaction(shop) as session:
        assert session.exec(select(PromptTemplateRow)).all() == []


def test_the_same_content_is_the_same_version(shop, capsys):
    one = done(capsys, "add", "acme", "--text", CALM, *WHY)
    assert done(capsys, "add", "acme", "--text", CALM, *WHY)["number"] == one["number"]


@pytest.mark.parametrize("change", ["source", "line", "key"])
def test_a_gateway_takes_no_template_that_nobody_signed_for_this_line(shop, capsys, change, clock):
    done(capsys, "add", "acme", "--text", CALM, "--use", *WHY)
    assert prompts(shop).current is not None
    if change == "key":
        assert prompts(shop, [b"k" * 32]).current is None
        return
    if change == "line":
        done(capsys, "add", "acme", "--text", CALM, "--use", "--domain", "legal", *WHY)
    with transaction(shop) as session:
        rows = session.exec(select(PromptTemplateRow).order_by(PromptTemplateRow.at)).all()
        if change == "source":
            rows[0].document = rows[0].document.replace("calmly", "rudely")
        else:
            rows[0].signature = rows[1].signature
        session.add(rows[0])
    with transaction(shop) as session:
        assert len(Standings().read(session)) == len(rows)
    assert prompts(shop).current is None


@pytest.mark.parametrize("document", ["{", '{"format": 99}'], ids=["damaged", "of a later release"])
def test_a_template_that_cannot_be_read_is_its_own_lines_alone_and_each_is_read_once(shop, capsys, document):
    done(capsys, "add", "acme", "--text", CALM, "--use", *WHY)
    done(capsys, "add", "acme", "--text", CALM, "--use", "--domain", "legal", *WHY)
    standings, asked = Standings(), []
    with transaction(shop) as session:
        legal, other = (find_line(session, "acme", name).line_ref for name in ("legal", "default"))
        row = session.exec(select(PromptTemplateRow).where(PromptTemplateRow.line_ref == legal)).one()
        row.document = document
    with transaction(shop) as session:
        first = standings.read(session)
    assert first[legal].current is None
    assert prompts(shop).current is not None, "a gateway knows the others"
    assert main(["terms", "add", "acme", "ack me=Acme", "--domain", "legal", *WHY]) == 0, "its line goes on"

    def note(_, __, statement, *___):
        asked.append(statement)

    event.listen(shop, "before_cursor_execute", note)
    with transaction(shop) as session:
        again = standings.read(session)
    event.remove(shop, "before_cursor_execute", note)
    assert again[other].current is first[other].current
    assert not [one for one in asked if "document" in one]


def test_a_card_that_was_never_made_has_no_template(shop, capsys):
    status, _, err = run(capsys, "add", "acme", "--from-card", *WHY)
    assert status != 0
    assert "carries a style card" in err
