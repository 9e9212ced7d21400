"""A remembered card is the mean over all releases, each of which counts alike."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalization.errors import StyleCardError
from personalization.styles.card import MOST_ENTRIES, MOST_TERMS, StyleCard
from personalization.styles.edits import StyleEdits
from personalization.styles.families import Feature
from personalization.styles.frames import openings
from personalization.styles.remembered import averaged
from personalization.styles.wording import sentences
from tests.fakes.styles import card_of, entry


def opening(words, share, **more):
    return (
        entry(Feature.OPENING, "{t}: ", share),
        entry(Feature.OPENING_WORDS, "{t}: ", share, words=words, **more),
    )


def shares(card):
    return {one.words: one.share for one in card.of(Feature.OPENING_WORDS)}


def test_both_ways_to_open_stand_in_the_mean_and_are_made_up():
    card = averaged(card_of(*opening("Sketch", 0.8)), card_of(*opening("Watercolor", 0.6)))
    assert shares(card) == {"Sketch": 0.4, "Watercolor": 0.3}
    assert card.of(Feature.OPENING)[0].share == pytest.approx(0.7)
    assert {one.text for one in openings(card)} >= {"Sketch: ", "Watercolor: "}
    assert card.remembered == 1
    assert any("means over 2 releases" in one for one in sentences(card))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_every_release_counts_alike_however_many_there_were(found):
    cards = [card_of(*opening("Sketch", round(share, 4))) for share in found]
    card = cards[0]
    for newest in cards[1:]:
        card = averaged(newest, card)
    assert card.remembered == len(found) - 1
    assert shares(card)["Sketch"] == pytest.approx(sum(found) / len(found), abs=1e-3)


def test_an_entry_is_as_sure_as_the_surer_vote_says():
    card = averaged(
        card_of(*opening("Sketch", 0.8, sureness=1.0)), card_of(*opening("Sketch", 0.6, sureness=5.0))
    )
    assert card.of(Feature.OPENING_WORDS)[0].sureness == 5.0


def test_what_a_person_had_fixed_is_not_remembered_as_if_users_had_said_it():
    held = replace(entry(Feature.OPENING, "[{n}] ", 0.9), pinned=True)
    card = averaged(card_of(*opening("Sketch", 0.8)), card_of(held, *opening("Sketch", 0.8)))
    assert not any(one.key == "[{n}] " for one in card.entries)
    assert StyleEdits(pinned=(held,)).applied_to(card).entries[0] == held


def test_a_struck_entry_is_struck_from_the_memory_too():
    earlier = card_of(*opening("Nadia", 0.6))
    handle = earlier.of(Feature.OPENING_WORDS)[0].handle
    card = StyleEdits(removed=(handle,)).applied_to(averaged(card_of(*opening("Sketch", 0.8)), earlier))
    assert "Nadia" not in json.dumps(card.to_document())
    assert card.removed == (handle,)


def test_a_mean_holds_no_more_than_a_card_may_and_keeps_the_most_common():
    def many(name, feature, count):
        return [entry(feature, f"{name}{number:03} ", 0.9 - number / 1000) for number in range(count)]

    newest = card_of(*many("a", Feature.OPENING, 80), *many("a", Feature.TERM, 20))
    card = averaged(newest, card_of(*many("b", Feature.OPENING, 80), *many("b", Feature.TERM, 20)))
    assert len(card.entries) <= MOST_ENTRIES
    assert len(card.of(Feature.TERM)) <= MOST_TERMS
    left = {one.key for one in card.of(Feature.OPENING)}
    assert {"a000 ", "b000 "} <= left
    assert "a079 " not in left


def test_a_remembered_card_reads_back_and_others_keep_their_digest():
    card = averaged(card_of(*opening("Sketch", 0.8)), card_of(*opening("Sketch", 0.6)))
    document = json.loads(json.dumps(card.to_document()))
    assert StyleCard.from_document(document) == card
    assert "remembered" not in card_of(*opening("Sketch", 0.8)).to_document()
    for damaged in (-1, "2", None):
        with pytest.raises(StyleCardError, match="whole number"):
            StyleCard.from_document({**document, "remembered": damaged})
