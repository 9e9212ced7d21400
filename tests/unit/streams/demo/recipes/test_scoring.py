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
from streams.demo.recipes.people import Question

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
]


@pytest.mark.parametrize(("crowd", "rule"), MADE, ids=[rule.name for _, rule in MADE])
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
