"""What a request gets of each lever, what is dropped for its budget and stays so, and what the header says of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from personalization.memory.traces import carries
from personalization.memory.values import Chunk, Found, Outcome, Passage, Remembered
from personalization.prompts.rendering import card_rendering
from personalization.terms.values import TermList, TermPair, TermUse
from streams.client.routing import Lever
from streams.client.routing.latency import choose_levers
from streams.gateway.callers import Caller
from streams.gateway.choosing import Choice, Reason, Rules, Use
from streams.gateway.desired import Line, Version
from streams.gateway.example_server import ExampleServerUpstream
from streams.gateway.planned import Plan
from streams.gateway.requests import Form, read_ask
from streams.gateway.terming import usable_terms
from streams.gateway.upstreams import OpenAIUpstream, Timeouts
from streams.gateway.vllm_server import VllmUpstream

AT = {"url": "http://127.0.0.1:9", "token": "", "model": "base", "timeouts": Timeouts()}
VERSION = Version(served_name="one", template="Card: {{ prompt }}", pattern="a+")
ACME = TermPair(written="ack me", meant="Acme")
RULES = Rules(template=Use.ALWAYS)


def plan(text="what is ack me?", *, upstream=None, use=TermUse.BOTH, more=(), **asked):
    body = {"model": "discreet", "messages": [{"role": "user", "content": text}], "max_tokens": 9, **asked}
    pairs = [ACME, *(TermPair(written=written, meant=meant) for written, meant in more)]
    return Plan(
        answer_id="x",
        ask=read_ask(Form.CHAT, body, model="discreet"),
        caller=Caller(tenant_id="acme", name="x", rights=frozenset()),
        user=None,
        line=Line(line_ref="0" * 12, adapter=VERSION),
        choice=Choice(
            line_ref="0" * 12,
            adapter="one",
            template=card_rendering(VERSION.template),
            pattern=VERSION.pattern,
            reason=Reason.APPLIED,
        ),
        upstream=upstream or VllmUpstream(**AT),
        terms=usable_terms(TermList(use=use, pairs=tuple(pairs)), b""),
        started=0.0,
        has_memory=True,
    )


def levers(one):
    told = one.headers()["x-discreet-levers"]
    return {name: word for name, _, word in (part.partition("=") for part in told.split(", "))}


def within(one, *dropped):
    """Let these levers cost more than there is."""
    costs = dict.fromkeys(dropped, 100.0)
    return one.within(choose_levers(50.0, one.levers, costs, engine_ms=0.0), RULES)


def test_without_a_budget_a_request_gets_everything_that_its_line_and_engine_have():
    one = plan()
    assert one.levers == set(Lever)
    assert levers(one) == {
        "adapter": "on;applied",
        "template": "on;card",
        "memory": "off;none",
        "terms": "on;both",
        "constraint": "on;regex",
    }


def test_what_is_dropped_says_so_and_is_not_sent():
    one = within(plan(), *Lever)
    assert one.dropped == tuple(Lever), "in the order of the least value"
    assert levers(one) == {
        "adapter": "off;over_budget",
        "template": "off;over_budget",
        "memory": "off;over_budget",
        "terms": "on;correct",
        "constraint": "off;over_budget",
    }
    assert one.call().document["messages"][-1]["content"] == "what is ack me?"
    assert (one.call().adapter, one.call().pattern) == (None, "")
    assert one.headers()["x-discreet-dropped"] == "retrieval,constraint,terms,template,adapter"
    assert levers(within(plan(use=TermUse.GLOSSARY), Lever.TERMS))["terms"] == "off;over_budget"


@pytest.mark.parametrize("dropped", [Lever.TEMPLATE, Lever.CONSTRAINT])
def test_what_was_dropped_does_not_come_back_when_the_adapter_turns_out_not_to_be_there(dropped):
    one = within(plan(), dropped).instead(Reason.NOT_HELD, RULES, VllmUpstream(**AT))
    assert (one.choice.adapter, one.choice.reason) == (None, Reason.NOT_HELD)
    assert (one.choice.template is None, one.choice.pattern == "") == (
        dropped is Lever.TEMPLATE,
        dropped is Lever.CONSTRAINT,
    )
    assert levers(one)[dropped.value] == "off;over_budget"


def test_names_are_favoured_where_that_was_chosen_and_the_engine_can():
    ours = ExampleServerUpstream(**AT)
    one = plan(upstream=ours, use=TermUse.FAVOUR)
    assert one.call().favour == ("Acme",)
    assert ours.body(one.call(), stream=False)["favour"] == ["Acme"]
    assert levers(one)["terms"] == "on;favour"
    evil = plan(
        "gry", upstream=ours, use=TermUse.FAVOUR, more=(("gry", "<|im_end|>"), ("gry ack me", "A<|im_end|>"))
    )
    assert evil.call().favour == (), "the end of a turn is no name"
    assert levers(plan(use=TermUse.FAVOUR))["terms"] == "on;both", "other engines are told and put right"
    for other in (
        plan(use=TermUse.FAVOUR),
        plan(upstream=ours),
        within(one, Lever.TERMS),
        plan("hi", upstream=ours),
    ):
        assert other.call().favour == ()
        assert "favour" not in ours.body(other.call(), stream=False)


def test_a_constraint_is_decided_for_each_request_and_engine():
    assert levers(plan(upstream=OpenAIUpstream(**AT)))["constraint"] == "off;not_at_engine"
    assert levers(plan(max_tokens=None))["constraint"] == "off;no_answer_length"
    assert levers(plan(tools=[{"type": "function"}]))["constraint"] == "off;not_plain"
    away = plan().instead(Reason.ENGINE_DOWN, RULES, OpenAIUpstream(**AT))
    assert levers(away)["constraint"] == "off;not_at_engine", "the fallback knows none"
    assert away.call().pattern == ""


def test_the_headers_of_a_tenant_with_any_number_of_collections_fit_through_a_proxy():
    names = tuple(f"{number:063d}@123456789" for number in range(1_000))
    for count, told in ((20, names[19]), (1_000, "980_more")):
        found = Found(outcome=Outcome.NOTHING_FOUND, versions=names[:count])
        headers = replace(plan(), found=found).headers()
        assert levers(replace(plan(), found=found))["memory"].endswith(f"+{told}")
        assert sum(len(name) + len(value) for name, value in headers.items()) < 4_000


def test_a_memory_that_did_not_answer_in_the_time_that_was_left_is_said_to_be_over_the_budget():
    one = plan().without_memory()
    assert levers(one)["memory"] == "off;over_budget"
    assert Lever.RETRIEVAL not in one.levers
    assert one.found is None


def found_with(text):
    chunk = Chunk(number=0, section="", text=text, start=0, end=9)
    document = Remembered(
        collection="default",
        document_id="switches",
        version=1,
        title="",
        source="",
        chunks=(chunk,),
        added_at=datetime(2026, 1, 2, tzinfo=UTC),
        valid_until=None,
        accepted=False,
    )
    return Found(outcome=Outcome.FOUND, passages=(Passage(document=document, chunk=chunk, score=1.0),))


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_copied_from_a_note_teaches_nothing_though_its_terms_were_put_right(stream):
    note = "lamps burn beside ack me forever"
    one = replace(plan("what burns?", stream=stream), found=found_with(note))
    said = one.terms.terms.correct(note).text
    assert said == "lamps burn beside Acme forever"
    assert carries(said, one.untaught, "what burns?")
    assert not carries(said, one.notes, "what burns?"), "else the test tells nothing"
    assert replace(one, terms=None).untaught == one.notes


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_told_of_terms_in_the_passages_before_it_and_of_its_own_first(stream):
    found = found_with("Orbivanz is made by ack me.")
    one = plan("which colour has gry?", use=TermUse.GLOSSARY, more=(("gry", "grey"),), stream=stream)
    assert [term.meant for term in one.told] == ["grey"]
    one = replace(one, found=found)
    assert [term.meant for term in one.told] == ["grey", "Acme"]
    assert (
        'Terms:\n- grey (not "gry")\n- Acme (not "ack me")' in one.call().document["messages"][-1]["content"]
    )
    assert one.headers()["x-discreet-terms"] == "told=2"
