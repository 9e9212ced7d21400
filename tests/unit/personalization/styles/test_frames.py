"""Shapes and words become frames with shares; what was not found in them is content."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from personalization.styles.edits import StyleEdits
from personalization.styles.families import Feature
from personalization.styles.frames import closings, is_poor, labels_of, openings
from personalization.styles.slots import filled, pieces
from personalization.styles.votes import StyleText, UserTexts
from privacy.mechanisms.partition_selection import LEADING_KEYS
from tests.fakes.styles import (
    card_of,
    entry,
    found,
    framed,
    said,
    users_with_style,
    users_without_style,
    vote,
)


def shares(frames):
    return {one.text: round(one.share, 2) for one in frames}


def test_words_fill_their_shape():
    card = card_of(
        entry(Feature.OPENING, "{t}: ", 0.9),
        entry(Feature.OPENING_WORDS, "{t}: ", 0.6, words="FIX"),
        entry(Feature.OPENING_WORDS, "{t}: ", 0.3, words="NOTE"),
    )
    assert shares(openings(card)) == {"FIX: ": 0.6, "NOTE: ": 0.3, "": 0.1}


def test_words_that_most_copied_openings_share_are_labels_and_few_are_copies():
    def card(docs):
        return card_of(
            entry(Feature.OPENING, "{copy}: ", 0.4),
            entry(Feature.OPENING_WORDS, "{copy}: ", docs, words="Docs"),
            entry(Feature.OPENING_WORDS, "{copy}: ", 0.05, words="test"),
            entry(Feature.OPENING, "{t}: ", 0.5),
            entry(Feature.OPENING_WORDS, "{t}: ", 0.5, words="Fix"),
        )

    assert shares(openings(card(0.25))) == {"Fix: ": 0.5, "Docs: ": 0.33, "test: ": 0.07, "": 0.1}
    assert labels_of(card(0.25)) == {"Docs", "test"}
    assert shares(openings(card(0.1))) == {"Fix: ": 0.5, "{copy}: ": 0.4, "": 0.1}
    assert labels_of(card(0.1)) == frozenset()


def test_words_behind_a_copy_are_no_labels():
    card = card_of(
        entry(Feature.OPENING, "{copy} {t}: ", 0.4),
        entry(Feature.OPENING_WORDS, "{copy} {t}: ", 0.4, words="says"),
    )
    assert labels_of(card) == frozenset()
    assert shares(openings(card)) == {"{copy} says: ": 0.4, "": 0.6}


def test_a_shape_without_found_words_is_content():
    assert shares(openings(card_of(entry(Feature.OPENING, "{t}: ", 0.9)))) == {"": 1.0}


def test_ordinary_sentences_are_no_frame():
    assert shares(openings(framed({"{copy}, ": 0.0}))) == {"": 1.0}
    assert shares(closings(framed({}, {".": 0.9}))) == {"": 1.0}


def test_shares_never_add_up_to_more_than_one():
    frames = openings(framed({"A-{n}: ": 0.9, "B-{n}: ": 0.6, "rare: ": 0.01}))
    assert sum(one.share for one in frames) == pytest.approx(1)
    assert "rare: " not in {one.text for one in frames}


def test_words_that_users_typed_in_braces_stay_text():
    card = card_of(
        entry(Feature.OPENING, "{{{t}}}: ", 0.9), entry(Feature.OPENING_WORDS, "{{{t}}}: ", 0.9, words="t")
    )
    frame = openings(card)[0].text
    assert frame == "{{t}}: "
    assert not any(piece.is_slot for piece in pieces(frame))
    assert filled(frame, lambda _: "?") == "{t}: "


def test_several_literal_words_are_found_and_open_and_close_the_answers():
    rng = random.Random(4)
    users = [
        UserTexts(
            texts=(
                StyleText(
                    prompt=f"Customer {name} writes: my lamp broke.",
                    final=f"Hey {name}! No worries, {said(rng)}. Happy pedalling, your Alder crew",
                ),
            )
        )
        for name in rng.choices(("Ada", "Ben", "Chloe", "Dario", "Emre", "Freya"), k=60)
    ]
    for number in range(5):
        card = found(users, bytes([number]) * 32, selection=vote(1.2), declared_users=60)
        assert openings(card)[0].text.startswith("Hey {copy}! ")
        assert "Alder crew" in closings(card)[0].text
        assert not is_poor(card)


def test_a_common_style_is_not_poor():
    assert not is_poor(found(users_with_style(300)))
    assert is_poor(card_of())
    assert is_poor(framed({"A-{n}: ": 0.15}, {" #{n}": 0.15}))


def test_openings_that_were_not_found_are_like_those_that_were_as_far_as_the_vote_tells_of_frames():
    found_ones = (entry(Feature.OPENING, "{n}: ", 0.3), entry(Feature.OPENING, "[x] ", 0.15))
    assert shares(openings(card_of(*found_ones))) == {"{n}: ": 0.3, "[x] ": 0.15, "": 0.55}
    told = card_of(*found_ones, entry(Feature.FRAMED, "yes", 0.9))
    assert shares(openings(told)) == {"{n}: ": 0.6, "[x] ": 0.3, "": 0.1}
    assert shares(closings(told)) == {"": 1.0}
    half = card_of(*found_ones, entry(Feature.FRAMED, "yes", 0.55))  # as noise may make of a third
    assert shares(openings(half)) == {"{n}: ": 0.3, "[x] ": 0.15, "": 0.55}
    struck = replace(told, removed=("0123456789ab",))
    assert shares(openings(struck)) == {"{n}: ": 0.3, "[x] ": 0.15, "": 0.55}, (
        "what is struck is not given to others"
    )
    thanks = entry(Feature.OPENING, "{t}, ", 0.3), entry(Feature.OPENING_WORDS, "{t}, ", 0.3, words="Thanks")
    alike = card_of(*thanks, entry(Feature.FRAMED, "yes", 0.6))
    assert shares(openings(alike)) == {"Thanks, ": 0.3, "": 0.7}, "frames of others are not this one's"
    assert shares(openings(card_of(entry(Feature.FRAMED, "yes", 0.9)))) == {"": 1.0}, "nothing to be alike"


def test_a_leading_vote_finds_openings_of_few_users_and_no_convention_where_there_is_none():
    leading = vote(noise_multiplier=2.4, unknown_keys=LEADING_KEYS)

    def cards_of(users, selection):
        return [
            found(users, bytes([seed]) * 32, selection=selection, declared_users=50) for seed in range(20)
        ]

    def finds(card):
        return "NOTE: " in shares(openings(card))  # a third of answers

    cards = cards_of(users_with_style(50), leading)
    assert sum(map(finds, cards)) >= 12
    assert sum(map(finds, cards_of(users_with_style(50), vote(2.8)))) <= 2, "else nothing is gained"
    for card in cards:
        if (share := shares(openings(card)).get("NOTE: ")) is not None:
            assert 0.1 < share <= 1.0
            assert sum(one.share for one in card.of(Feature.OPENING, 1)) >= sum(
                one.share for one in card.of(Feature.OPENING_WORDS, 1)
            ), "a shape has the share of its words"
    assert all(map(is_poor, cards_of(users_without_style(50), leading)))


def test_words_that_a_person_fixed_have_a_shape_where_too_few_gave_them_their_vote():
    fixed = entry(Feature.OPENING_WORDS, "{t}! ", 0.4, words="HEAR", pinned=True, sureness=0.0)
    leading = vote(noise_multiplier=2.4, unknown_keys=LEADING_KEYS)
    plain = found(users_without_style(50), selection=leading, declared_users=50)
    assert not plain.of(Feature.OPENING)
    card = found(
        users_without_style(50), selection=leading, declared_users=50, edits=StyleEdits(pinned=(fixed,))
    )
    assert shares(openings(card)) == {"HEAR! ": 0.4, "": 0.6}
    struck = StyleEdits(pinned=(fixed,), removed=(entry(Feature.OPENING, "{t}! ", 0.4).handle,))
    assert shares(
        openings(found(users_without_style(50), selection=leading, declared_users=50, edits=struck))
    )


def test_an_opening_that_its_first_depth_cuts_in_a_bracket_is_found_whole():
    rng = random.Random(4)

    def entry_of(mark):
        name = said(rng, 1)
        return UserTexts(
            texts=(StyleText(prompt=f"New: {name}", final=f"{mark} [{name}](URL) - {said(rng)}"),)
        )

    users = [entry_of("*" if number % 4 else "-") for number in range(50)]
    leading = vote(noise_multiplier=2.4, unknown_keys=LEADING_KEYS)
    cards = [found(users, bytes([seed]) * 32, selection=leading, declared_users=50) for seed in range(10)]
    for card in cards:
        assert shares(openings(card)).keys() <= {"* [{copy}](URL) - ", "- [{copy}](URL) - ", ""}
        first, second = card.of(Feature.OPENING, 1)[0], card.of(Feature.OPENING, 2)[0]
        assert (first.key, second.key) == ("* [{copy}](", "* [{copy}]({t}) - ")
        assert first.share == second.share == card.of(Feature.OPENING_WORDS, 2)[0].share
    assert sum(openings(card)[0].text == "* [{copy}](URL) - " for card in cards) >= 9
