"""Struck entries are gone from a card, words and all; fixed ones stand in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from personalization.errors import StyleCardError
from personalization.styles.edits import StyleEdits
from personalization.styles.families import Feature
from personalization.styles.frames import openings
from tests.fakes.styles import card_of, entry, found, users_with_style


def test_a_struck_entry_leaves_only_its_handle():
    users = users_with_style(300)
    card = found(users)
    note = next(one for one in card.of(Feature.OPENING_WORDS) if one.words == "NOTE")
    edited = found(users, edits=StyleEdits(removed=(note.handle, "0" * 12)))
    assert edited.removed == (note.handle,)  # the other one was not found
    assert "NOTE" not in json.dumps(edited.to_document())
    assert {one.handle for one in card.entries} - {one.handle for one in edited.entries} == {note.handle}
    assert not any("NOTE" in frame.text for frame in openings(edited))


def test_a_fixed_entry_stands_with_its_share_found_or_not():
    fixed = replace(entry(Feature.OPENING, "[{n}] ", 0.7), sureness=0.0, pinned=True)
    edits = StyleEdits(pinned=(fixed,))
    assert found(users_with_style(300), edits=edits).of(Feature.OPENING)[0] == fixed
    held = card_of(entry(Feature.OPENING, "[{n}] ", 0.3))
    assert edits.applied_to(held).entries == (fixed,)
    assert openings(edits.applied_to(held))[0].text == "[{n}] "


def test_edits_read_back_through_json():
    fixed = replace(entry(Feature.OPENING, "[{n}] ", 0.7), sureness=0.0, pinned=True)
    edits = StyleEdits(removed=("0123456789ab",), pinned=(fixed,))
    assert StyleEdits.from_document(json.loads(json.dumps(edits.to_document()))) == edits
    assert StyleEdits.from_document({}) == StyleEdits()


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"removed": "abc"},
        {"removed": [1]},
        {"removed": ["x"] * 300},
        {"pinned": [{}]},
        {"pinned": ["FIX"]},
        {"pinned": [{"feature": "opening", "depth": 1, "key": "a", "words": "", "share": 7}]},
        {"pinned": [{"feature": "opening", "depth": 1, "key": "a", "words": "", "share": 0.5, "user": "x"}]},
    ],
)
def test_what_nobody_can_have_decided_is_refused(document):
    with pytest.raises(StyleCardError):
        StyleEdits.from_document(document)
