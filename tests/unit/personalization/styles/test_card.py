"""A card reads back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json

import pytest

from personalization.errors import StyleCardError
from personalization.styles.card import MOST_ENTRIES, StyleCard
from personalization.styles.families import Feature
from tests.fakes.styles import card_of, entry, found, users_with_style


def test_a_card_reads_back_through_json():
    card = found(users_with_style(300))
    assert len(card.entries) > 8
    again = StyleCard.from_document(json.loads(json.dumps(card.to_document())))
    assert again == card
    assert again.digest() == card.digest()


def test_the_digest_is_of_all_that_the_card_says():
    one = card_of(entry(Feature.OPENING, "FIX: ", 0.5))
    other = card_of(entry(Feature.OPENING, "FIX: ", 0.51))
    assert one.digest() != other.digest()
    assert one.digest().startswith("sha256:")


def test_entries_have_handles_of_their_own():
    card = found(users_with_style(300))
    assert len({one.handle for one in card.entries}) == len(card.entries)
    assert entry(Feature.OPENING, "a/1/b", 0.1).handle != entry(Feature.OPENING, "a", 0.1, words="1/b").handle


def changed(**changes):
    return {**card_of(entry(Feature.OPENING, "FIX: ", 0.5)).to_document(), **changes}


def with_entry(**changes):
    document = changed()
    document["entries"][0].update(changes)
    return document


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "card",
        {},
        changed(format="discreet.style-card.v2"),
        changed(entries=None),
        changed(entries=["FIX: "]),
        changed(entries=[changed()["entries"][0]] * (MOST_ENTRIES + 1)),
        changed(voters="many"),
        changed(voters=2.5),
        changed(noise_multiplier=0),
        changed(noise_multiplier=float("nan")),
        changed(removed="abc"),
        changed(removed=["x"] * (MOST_ENTRIES + 1)),
        with_entry(share=1.5),
        with_entry(share=float("nan")),
        with_entry(share="0.5"),
        with_entry(sureness=float("inf")),
        with_entry(feature="secret"),
        with_entry(key="x" * 1000),
        with_entry(key=["FIX: "]),
        with_entry(words=7),
        with_entry(depth=0),
        with_entry(depth=1.5),
        with_entry(pinned="yes"),
        with_entry(user="erika"),
    ],
)
def test_what_no_vote_gives_is_refused(document):
    with pytest.raises(StyleCardError):
        StyleCard.from_document(document)
