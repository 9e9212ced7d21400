"""Shapes and words become frames with shares; what was not found in them is content."""

from __future__ import annotations

import random

import pytest

from personalization.styles.families import Feature
from personalization.styles.frames import closings, is_poor, labels_of, openings
from personalization.styles.slots import filled, pieces
from personalization.styles.votes import StyleText, UserTexts
from tests.fakes.styles import card_of, entry, found, framed, said, users_with_style, vote


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
