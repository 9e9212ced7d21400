"""The questions and rules, and that a base's results repeat."""

from __future__ import annotations

import pytest

from personalization.planning.plan import PerformanceFlags
from personalization.quality.abilities.exam import (
    RULES,
    Instruction,
    abilities,
    choices,
    instructions,
    kept,
)
from personalization.quality.answers import Answer
from personalization.training.engine.loading import loaded_base
from tests.fakes.tiny_models import write_tiny_base


def test_there_are_enough_questions_of_one_form_each():
    assert len(choices()) >= 60
    assert len({one.question for one in choices()}) == len(choices())
    for one in choices():
        assert len({one.right, *one.wrong}) == 1 + len(one.wrong) >= 2
    assert len(instructions()) >= 20
    assert {one.rule for one in instructions()} == set(RULES)


@pytest.mark.parametrize(
    ("rule", "value", "good", "bad"),
    [
        ("most_words", "3", "Madrid.", "The capital of Spain is Madrid."),
        ("least_lines", "2", "milk\nbread", "milk and bread"),
        ("opens", "yes|no", "Yes, it is.", "Nothing is known."),
        ("holds", "banana", "A Banana!", "An apple"),
        ("holds_exactly", "HELLO", "HELLO you", "hello"),
        ("holds_all", "1|2 or one|two", "One, two", "two"),
        ("holds_some", "2 red|blue|green", "Red and blue", "Red"),
        ("holds_times", "3 apple", "apple apple apple", "apple apple"),
        ("word_opens", "b", "Banana", "Apple"),
    ],
)
def test_rules(rule, value, good, bad):
    told = Instruction(prompt="", rule=rule, value=value)
    assert kept(told, Answer(good, ended=True))
    assert not kept(told, Answer(bad, ended=True))


def test_a_model_is_examined_item_by_item(tmp_path):
    decoder, encoder = loaded_base(write_tiny_base(tmp_path, layers=2), PerformanceFlags(device="cpu"))
    found = abilities(decoder, encoder, most=3)
    assert len(found.right) == len(found.belief) == len(found.kept) == 3
    assert all(0 < share < 1 for share in found.belief)
    assert found == abilities(decoder, encoder, most=3)
