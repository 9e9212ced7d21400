"""``discreet terms`` over a real database: own terms, found ones, strike, pin, put right; what gateways read of it."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlmodel import select

from personalization.registry.queries import find_line, get_version
from personalization.registry.terming import proposed_pairs
from personalization.styles.card import StyleCard
from personalization.styles.decisions import current_edits
from personalization.styles.families import Feature
from personalization.terms.rows import NewestTerms
from personalization.terms.tables import TermListRow
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.cli.main import main
from streams.contracts.topics import ADAPTER_EVENTS
from streams.gateway.directory import read_directory
from streams.gateway.terming import usable_terms
from streams.outbox.tables import OutboxRow
from streams.processes.keys import adapter_signer
from streams.settings import load_settings
from tests.fakes.styled_versions import keep_version
from tests.fakes.styles import card_of, entry
from tests.fakes.training import POLICY

ROOT = Path(__file__).resolve().parents[4]
FOUND = entry(Feature.TERM, "cuber netties", 0.4, words="Kubernetes")
WRONG = entry(Feature.TERM, "zaphod", 0.3, words="Zaphodd")
CARD = card_of(entry(Feature.STOP, ".", 0.9), FOUND, WRONG)
WHY = ("--reason", "a test asks", "--actor", "ann", "--json")


@pytest.fixture
def shop(engine, database_url, clock, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_MASTER_KEY", "K" * 43 + "=")
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=clock.now())
        policies.set_policy(session, "acme", POLICY, actor="test", reason="test", now=clock.now())
        manifest = keep_version(session, clock, CARD)
        find_line(session, "acme", "default").current_version_id = manifest.version_id()
        row = get_version(session, manifest.version_id())
        row.signature_json = json.dumps({"key_id": "k" * 16, "signature": "A" * 86 + "=="})
    return engine


def run(capsys, *words):
    status = main(["terms", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def done(capsys, *words):
    status, out, err = run(capsys, *words)
    assert status == 0, err
    return json.loads(out)


def decided(engine, keys=None):
    keys = [adapter_signer(load_settings()).public_key] if keys is None else keys
    with transaction(engine) as session:
        line = find_line(session, "acme", "default")
        return read_directory(session, "one", keys).terms.get(line.line_ref)


def usable(engine):
    return usable_terms(decided(engine), json.dumps(CARD.to_document()).encode())


def test_found_terms_are_shown_and_nothing_is_done_with_them_before_somebody_says_so(shop, capsys):
    facts = done(capsys, "list", "acme", "--json")
    assert facts["use"] == "off"
    assert [(one["written"], one["meant"], one["origin"]) for one in facts["terms"]] == [
        ("cuber netties", "Kubernetes", "vote"),
        ("zaphod", "Zaphodd", "vote"),
    ]
    assert usable(shop) is None
    done(capsys, "use", "acme", "correct", *WHY)
    assert usable(shop).terms.correct("cuber netties of zaphod").text == "Kubernetes of Zaphodd"


def test_a_struck_term_is_gone_at_once_and_from_later_cards(shop, capsys):
    done(capsys, "use", "acme", "both", *WHY)
    facts = done(capsys, "remove", "acme", WRONG.handle, *WHY)
    assert [one["removed"] for one in facts["terms"]] == [False, True]
    assert usable(shop).terms.correct("cuber netties of zaphod").text == "Kubernetes of zaphod"
    with transaction(shop) as session:
        edits = current_edits(session, "acme", "default")
    assert edits.removed == (WRONG.handle,)
    assert StyleCard.from_document(edits.applied_to(CARD).to_document()).of(Feature.TERM) == (FOUND,)


def test_own_terms_are_added_kept_and_taken_out(shop, capsys, tmp_path):
    (tmp_path / "glossary.csv").write_text("ack me,Acme\n\nacme cloud,AcmeCloud\n", "utf-8")
    done(capsys, "add", "acme", "grey=gray", "--file", str(tmp_path / "glossary.csv"), *WHY)
    done(capsys, "pin", "acme", "cuber netties", *WHY)
    facts = done(capsys, "add", "acme", "grey=grey-blue", *WHY)
    own = {one["written"]: one["meant"] for one in facts["terms"] if one["origin"] == "operator"}
    assert own == {
        "ack me": "Acme",
        "acme cloud": "AcmeCloud",
        "cuber netties": "Kubernetes",
        "grey": "grey-blue",
    }
    facts = done(capsys, "remove", "acme", "Grey", *WHY)
    assert "grey" not in {one["written"] for one in facts["terms"]}
    facts = done(capsys, "roll-back", "acme", *WHY)
    assert "grey" in {one["written"] for one in facts["terms"]}
    status, _, err = run(capsys, "remove", "acme", "nothing", *WHY)
    assert status == 2
    assert "no term is written 'nothing'" in err
    (tmp_path / "talk.txt").write_text("So ack me runs cuber netties.\n", "utf-8")
    shown = done(capsys, "correct", "acme", str(tmp_path / "talk.txt"), "--json")
    assert shown["text"] == "So Acme runs Kubernetes.\n"
    assert [one["was"] for one in shown["corrections"]] == ["ack me", "cuber netties"]


def test_a_public_list_is_proposed_listed_and_taken_back_and_is_used_for_nothing_by_itself(
    shop, capsys, tmp_path
):
    (tmp_path / "list.csv").write_text(
        "cuber netties,Kubernetes\nCuber netties,KuberNet\nack me,Acme\n", "utf-8"
    )
    words = ("acme", str(tmp_path / "list.csv"), "--pair", "grey=gray")
    facts = done(capsys, "propose", *words, *WHY)
    assert [(one["written"], one["meant"]) for one in facts["proposed"]] == [
        ("ack me", "Acme"),
        ("Cuber netties", "KuberNet"),
        ("cuber netties", "Kubernetes"),
        ("grey", "gray"),
    ]
    assert not facts["votes"], "the policy does not ask for it"
    status, _, err = run(capsys, "propose", *words, *WHY)
    assert (status, "nothing was changed" in err) == (2, True)
    done(capsys, "use", "acme", "both", *WHY)
    assert usable(shop).terms.correct("ack me, grey").text == "ack me, grey", "nobody voted yet"
    status, out, _ = run(capsys, "list", "acme")
    assert (
        "Users would vote, with terms=true in the policy and enough users for it, over 4 proposed ones" in out
    )
    facts = done(capsys, "remove", "acme", "grey", *WHY)
    assert len(facts["proposed"]) == 3
    with transaction(shop) as session:
        line = find_line(session, "acme", "default")
        assert ("ack me", "Acme") in proposed_pairs(session, line.line_ref)
        row = session.exec(select(TermListRow).order_by(TermListRow.sequence.desc())).first()
        row.document = "{"
        session.add(row)
        session.flush()
        assert proposed_pairs(session, line.line_ref) is None, (
            "a damaged list stops no round, and opens no vote"
        )
    status, _, err = run(capsys, "propose", "acme", "--pair", "grey", *WHY)
    assert (status, "is no WRITTEN=MEANT" in err) == (2, True)


def test_every_decision_is_an_event_without_a_word_of_it(shop, capsys):
    done(capsys, "add", "acme", "ack me=Acme", *WHY)
    with transaction(shop) as session:
        rows = session.exec(select(OutboxRow).where(OutboxRow.topic == ADAPTER_EVENTS.name)).all()
        (told,) = [json.loads(row.value) for row in rows]
    assert (told["kind"], told["actor"], told["reason"]) == ("terms_changed", "ann", "a test asks")
    assert "ack me" not in json.dumps(told)


def test_a_gateway_takes_no_terms_that_nobody_signed(shop, capsys):
    done(capsys, "add", "acme", "ack me=Acme", *WHY)
    assert decided(shop) is not None
    assert decided(shop, [b"k" * 32]) is None
    with transaction(shop) as session:
        row = session.exec(select(TermListRow)).one()
        row.document = row.document.replace("Acme", "Evil")
        session.add(row)
    assert decided(shop) is None


@pytest.mark.parametrize("document", ["{", '{"format": 99}'], ids=["damaged", "of a later release"])
def test_terms_that_cannot_be_read_are_their_own_lines_alone_and_each_are_read_once(shop, capsys, document):
    done(capsys, "add", "acme", "ack me=Acme", *WHY)
    done(capsys, "add", "acme", "ack me=Acme", "--domain", "legal", *WHY)
    terms, asked = NewestTerms(), []
    with transaction(shop) as session:
        legal, other = (find_line(session, "acme", name).line_ref for name in ("legal", "default"))
        session.exec(select(TermListRow).where(TermListRow.line_ref == legal)).one().document = document
    with transaction(shop) as session:
        first = terms.read(session)
    assert first.keys() == {other}
    assert decided(shop) is not None, "a gateway knows the others"

    def note(_, __, statement, *___):
        asked.append(statement)

    event.listen(shop, "before_cursor_execute", note)
    with transaction(shop) as session:
        assert terms.read(session)[other] is first[other]
    event.remove(shop, "before_cursor_execute", note)
    assert not [one for one in asked if "document" in one]
    capsys.readouterr()
    done(capsys, "add", "acme", "kubus=Kubernetes", *WHY)
    with transaction(shop) as session:
        assert len(terms.read(session)[other].terms.pairs) == 2


def test_what_the_page_shows_works(shop, capsys, monkeypatch):
    page = (ROOT / "streams" / "docs" / "terms.md").read_text("utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        said, _, command = line.rpartition(" | ")
        if said:
            monkeypatch.setattr("sys.stdin", io.StringIO(shlex.split(said)[1]))
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.endswith("\nso Acme runs Kubernetes\n")
