"""Bins are public, and each says what it is called."""

from __future__ import annotations

import pytest

from personalization.drift.features import (
    FAMILIES,
    SIZE,
    UNIT,
    WORD_BUCKETS,
    bucket_of,
    edit_of,
    norm_of,
    part_of,
    script_of,
    sum_of,
)
from personalization.training.jobs.job import Example, ExampleKind
from tests.fakes.drifting import user


def shares(one):
    """Of each family, what its bins hold, in users."""
    numbers, found = list(part_of(one)), {}
    for family in FAMILIES:
        values = [numbers.pop(0) / UNIT / family.weight for _ in family.bins]
        found[family.name] = {
            name: round(value, 3) for name, value in zip(family.bins, values, strict=True) if value
        }
    return found


def test_each_family_has_a_name_of_its_own_and_the_weights_are_of_length_one():
    assert 0.98 < norm_of(FAMILIES) <= 1
    assert sum(len(family.bins) for family in FAMILIES) == SIZE
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_user_is_shared_among_what_the_user_asks():
    one = user("where is it?", "where is it?", "please tell me in many more words than eight where it lies")
    found = shares(one)
    assert found["length"] == {"to 8": 0.667, "to 20": 0.333}
    assert found["form"] == {"question": 0.667, "sentence": 0.333}
    assert found["script"] == {"plain latin": 1.0}
    assert found["edits"] == {"nothing": 1.0}
    assert sum(found["words"].values()) == pytest.approx(1.0, abs=0.01)


def test_a_user_without_anything_to_count_adds_nothing_to_that_family():
    assert shares(user("1 2 3"))["words"] == {}
    assert part_of(user()) == [0] * SIZE
    assert sum_of([]) == [0] * SIZE


@pytest.mark.parametrize(
    ("text", "script"),
    [("plain", 0), ("123", 4), ("", 4), ("grüße aus köln", 1), ("naïve " + "plain " * 100, 0), ("Привет", 2),
     ("你好吗", 3), ("かな カナ 한글", 3), ("مرحبا", 4)],
)  # fmt: skip
def test_scripts(text, script):
    assert script_of(text) == script


@pytest.mark.parametrize(
    ("shown", "final", "bin_"),
    [
        (None, "a b c", 0),
        ("a b c", "a b c", 0),
        ("one two three four five six seven eight", "one two three four five six seven nine", 1),
        ("one two three four", "one two five six", 2),
        ("one two three four", "all of it is new", 3),
    ],
)
def test_edits_are_told_by_how_much_of_the_words_changed(shown, final, bin_):
    kind = ExampleKind.SFT if shown is None else ExampleKind.PREFERENCE
    assert edit_of(Example(prompt="p", completion=final, kind=kind, shown=shown)) == bin_


def test_buckets_of_words_stay_what_they_are():
    """Another bucket for a word is another meaning of the bins: then ``VERSION`` must change too."""
    assert [bucket_of(word) for word in ("invoice", "contract", "rechnung", "договор")] == BUCKETS
    assert len({bucket_of(f"word{number}") for number in range(300)}) == WORD_BUCKETS


BUCKETS = [1, 4, 5, 4]
