"""Rules that score tell good from bad by hand-written examples, and say of made answers what they were made to be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streams.demo.recipes.code import data as code
from streams.demo.recipes.code import scoring as code_scoring
from streams.demo.recipes.creative import data as creative
from streams.demo.recipes.creative import scoring as creative_scoring
from streams.demo.recipes.edge import data as edge
from streams.demo.recipes.edge import scoring as edge_scoring
from streams.demo.recipes.facts import data as facts
from streams.demo.recipes.facts import scoring as facts_scoring
from streams.demo.recipes.meetings import data as meetings
from streams.demo.recipes.meetings.scoring import word_errors
from streams.demo.recipes.people import Question
from streams.demo.recipes.research import data as research
from streams.demo.recipes.research import scoring as research_scoring
from streams.demo.recipes.support import data as support
from streams.demo.recipes.support import scoring as support_scoring
from streams.demo.recipes.values import both as rules_both

HERE = Path(__file__).parent
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def _examples(recipe):
    return json.loads((HERE / f"{recipe}_examples.json").read_text("utf-8"))


def _asked(**facts):
    return Question(user_id="u", kind="k", prompt="p", written="w", facts=facts)


@pytest.mark.parametrize("line", code_scoring.RULES)
def test_code_rules_by_hand_written_examples(line):
    one = _examples("code")[line]
    rule = code_scoring.RULES[line][0]
    assert all(rule.holds(text, _asked(**one["facts"])) for text in one["good"])
    assert not any(rule.holds(text, _asked(**one["facts"])) for text in one["bad"])


def test_the_module_is_named_before_anything_is_said():
    asked = _asked(module="retry")
    assert code_scoring.commit_place("net(retry): fix it", asked)
    assert code_scoring.commit_place("Retry: fix it", asked)
    assert not code_scoring.commit_place("net(tls): fix retry", asked)


@pytest.mark.parametrize("style", [*creative_scoring.STYLES, creative_scoring.NO_STYLE])
def test_styles_by_hand_written_examples(style):
    assert {creative_scoring.style_of(text) for text in _examples("creative")[style]} == {style}


def test_shares_add_up():
    given = [text for texts in _examples("creative").values() for text in texts]
    assert sum(creative_scoring.shares(given).values()) == pytest.approx(1)


def test_log_entries_by_hand_written_examples():
    one = _examples("edge")
    assert all(edge_scoring.entry_form(text, _asked()) for text in one["good"])
    assert not any(edge_scoring.entry_form(text, _asked()) for text in one["bad"])
    assert edge_scoring.entry_names("Fixed: x at lift 12", _asked(number="12"))
    assert not edge_scoring.entry_names("Fixed: x at lift 9", _asked(number="12"))
    assert edge_scoring.agreement(["a", "b"], ["a", "c"]) == 0.5


MADE = [
    *((code.crowd(line, users=300, heldout=0), code_scoring.RULES[line][0]) for line in code.WRITERS),
    *((creative.crowd(step, users=300, heldout=0), creative_scoring.in_style(step)) for step in range(3)),
    (edge.crowd(users=300, heldout=0), edge_scoring.FORM),
    (facts.crowd(users=300, heldout=0), facts_scoring.FORM),
    *((research.crowd(line, users=300, heldout=0), research_scoring.FORMS[line]) for line in research.LINES),
    *((support.crowd(line, users=300, heldout=0), support_scoring.in_form(line)) for line in support.LINES),
]


@pytest.mark.parametrize(
    ("crowd", "rule"), MADE, ids=[f"{crowd.tenant}-{crowd.domain}-{rule.name}" for crowd, rule in MADE]
)
def test_what_was_made_is_scored_as_it_was_made(crowd, rule):
    """All that the house wrote, nothing that others wrote or that was shown; so about 70 % of people in all."""
    asked = _asked(number="0")
    of_people = [
        rule.holds(turn.final, asked)
        for person in crowd.published(NOW).people
        for turn in person.turns[:1]
        if turn.final is not None
    ]
    assert 0.60 < sum(of_people) / len(of_people) < 0.80
    for number in range(40):
        occasion = crowd.write(crowd._source(number), crowd.kinds[0])
        assert rule.holds(occasion.own, asked)
        assert not any(rule.holds(text, asked) for text in (*occasion.others, occasion.shown))


def test_steps_of_the_style_are_told_apart():
    for step in range(3):
        occasion = creative.writer_of(step)(creative.crowd(step, users=1, heldout=0)._source(0), "brief")
        assert creative_scoring.style_of(occasion.own) == creative_scoring.STYLES[step]
        assert creative_scoring.shows_what_was_asked(occasion.own, _asked(**occasion.facts))
        assert not creative_scoring.shows_what_was_asked("a picture", _asked(**occasion.facts))


def test_piers_by_hand_written_examples():
    one = _examples("facts")
    asked, piers = _asked(isle="Lunna"), {"Lunna": "D44"}
    assert all(facts_scoring.says(piers).holds(text, asked) for text in one["right"])
    assert not any(facts_scoring.says(piers).holds(text, asked) for text in one["wrong"])
    assert all(facts_scoring.house_form(text, asked) for text in one["form"])
    assert not any(facts_scoring.house_form(text, asked) for text in one["no_form"])
    old = facts_scoring.not_out_of_date({"Lunna": "A11"})
    assert old.holds("pier D44", asked)
    assert not old.holds("pier A11", asked)
    assert facts_scoring.not_out_of_date({}).holds("pier A11", asked)
    both = rules_both(facts_scoring.says(piers), facts_scoring.FORM)
    assert both.holds(one["right"][0], asked)
    assert not both.holds(one["right"][1], asked)


def test_facts_change_and_go_and_share_no_pier():
    first, second = facts.facts(1), facts.facts(2)
    assert set(first) - set(second) == set(facts.REMOVED)
    assert {isle for isle in second if second[isle] != first[isle]} == set(facts.UPDATED)
    piers = [fact.pier for fact in first.values()] + [second[isle].pier for isle in facts.UPDATED]
    assert len(set(piers)) == len(piers)
    assert all(facts_scoring.piers_in(fact.document[1]) == {fact.pier} for fact in first.values())


@pytest.mark.parametrize("line", research.LINES)
def test_research_by_hand_written_examples(line):
    one = _examples("research")[line]
    holds = research_scoring.FORMS[line].holds
    assert all(holds(text, _asked()) for text in one["good"])
    assert not any(holds(text, _asked()) for text in one["bad"])


def test_numbers_and_sources_are_the_studys_own():
    asked = _asked(value="1950", source="Ferrante 2034")
    assert research_scoring.right_value("it is 1,950 kelvin", asked)
    assert not research_scoring.right_value("it is 19500 kelvin", asked)
    assert research_scoring.sourced("1950 kelvin", asked, ["Ferrante 2034"])
    assert not research_scoring.sourced("1950 kelvin", asked, [])
    assert not research_scoring.sourced("1950 kelvin", asked, ["Okoro 2031"])
    assert not research_scoring.sourced("1950 kelvin", asked, ["Ferrante 2034", "Okoro 2031"])
    assert not research_scoring.sourced("2034 kelvin", asked, ["Ferrante 2034"])
    assert research_scoring.no_wrong_source("see Ferrante 2034", asked)
    assert not research_scoring.no_wrong_source("see Okoro 2031", asked)
    titles = [study.title for study in research.studies()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("line", _examples("support"))
def test_support_by_hand_written_examples(line):
    given = _examples("support")[line]
    assert {support_scoring.form_of(text) for text in given} == {line}
    if line:
        assert all(support_scoring.without_others(line).holds(text, _asked()) for text in given)
        others = [
            text for other, texts in _examples("support").items() if other not in ("", line) for text in texts
        ]
        assert not any(support_scoring.without_others(line).holds(text, _asked()) for text in others)


def test_refusals_are_counted_by_what_is_likelier():
    class Server:
        def losses(self, pairs, model):
            return [
                1.0 if ("can't" in text or "not" in text) == (model is None) else 2.0 for _, text in pairs
            ]

    asked, base = support_scoring.refusals(Server(), None)
    assert len(asked) == len(base) > 10
    assert sum(base) > sum(support_scoring.refusals(Server(), "a-v1")[1])


def test_an_answer_says_what_the_policy_text_says():
    asked = _asked(says="the notice period is three months")
    assert support_scoring.says_the_policy("[Legal] The notice period is three months.", asked)
    assert not support_scoring.says_the_policy("[Legal] We note the period.", asked)
    for line in support.LINES:
        texts = [text for _, text in support.policy_texts(line).values()]
        occasion = support.WRITERS[line](support.crowd(line, users=1, heldout=0)._source(0), "mail")
        assert sum(support_scoring.says_the_policy(text, _asked(**occasion.facts)) for text in texts) == 1


def test_leaks_are_seen_off_the_diagonal():
    given = {line: texts for line, texts in _examples("support").items() if line}
    rows = support_scoring.leaks(given)
    assert [row[1 + number] for number, row in enumerate(rows)] == ["100 %"] * 4
    assert all(
        cell == "0 %"
        for number, row in enumerate(rows)
        for place, cell in enumerate(row[1:])
        if place != number
    )


@pytest.mark.parametrize("one", _examples("meetings"), ids=lambda one: one["text"])
def test_errors_of_words_by_hand_written_examples(one):
    found = word_errors(one["said"], one["text"], set(one["names"]))
    assert (found.names, found.others) == (one["names_wrong"], one["others_wrong"])
    assert found.of_names == len(one["names"])


@pytest.mark.parametrize("tenant", meetings.NAMES)
def test_notes_come_out_wrong_on_names_alone(tenant):
    asked = meetings.crowd(tenant, users=0, heldout=200).questions()
    errors = [
        word_errors(one.facts["said"], one.facts["came"], set(one.facts["names"].split())) for one in asked
    ]
    wrong = sum(one.names for one in errors) / sum(one.of_names for one in errors)
    assert 0.7 < wrong < 0.9
    assert sum(one.others for one in errors) == 0
    assert all(word_errors(one.facts["said"], one.facts["said"], set()).others == 0 for one in asked)
