"""Made-up answers that get out of a repetition."""

from __future__ import annotations

import re

from personalization.styles.card import StyleCard, StyleEntry
from personalization.styles.families import Feature
from personalization.styles.recovery import LONG_NUMBER, MOST_LEFT, recoveries
from personalization.styles.synthesis import synthetic_pairs

SHAPE, FOUND = "{t}-{n}: ", {"share": 0.95, "sureness": 5.0}
CARD = StyleCard(
    entries=(
        StyleEntry(feature=Feature.OPENING, key=SHAPE, **FOUND),
        StyleEntry(feature=Feature.OPENING_WORDS, key=SHAPE, words="TASK", **FOUND),
    ),
    voters=100,
    noise_multiplier=4.0,
    delta=1e-6,
)


def test_they_are_made_of_the_card_and_a_seed():
    assert recoveries(CARD, count=20, seed=4) == recoveries(CARD, count=20, seed=4)
    assert recoveries(CARD, count=20, seed=4) != recoveries(CARD, count=20, seed=5)
    assert len(recoveries(CARD, count=20, seed=4)) == 20


def test_each_begins_in_a_state_that_no_sound_answer_has_and_ends_as_one():
    sound = {pair.prompt: pair.answer for pair in synthetic_pairs(CARD, count=80, seed=4)}
    kinds = set()
    for one in recoveries(CARD, count=20, seed=4):
        answer = sound[one.prompt]
        assert answer.endswith(one.rest)
        assert one.begun + one.rest != answer
        longest = max((len(found) for found in re.findall(r"\d+", one.begun)), default=0)
        if longest >= LONG_NUMBER[0]:
            kinds.add("number")
            assert one.rest
            assert not one.rest[0].isdigit()
        else:
            kinds.add("phrase")
            words = one.begun.split(" ")
            assert any(words[-size:] == words[-2 * size : -size] for size in range(1, 5))
            assert 1 <= len(one.rest.split()) <= MOST_LEFT
    assert kinds == {"number", "phrase"}
