"""Any text whatever becomes segments that hold all of it, in one Unicode form, and no user can write a slot."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from personalization.styles.abstraction import COPY, LONGEST_TEXT, NUMBER, TEXT, plain, segments
from personalization.styles.families import Feature, keys_of
from personalization.styles.slots import filled, pieces

texts = st.text(max_size=80) | st.text(alphabet="ab {}tcopyn1/-:().\n#’", max_size=60)


def put_together(parts) -> str:
    return "".join(part.before.replace("{{", "{").replace("}}", "}") + part.words for part in parts)


def one_space(text: str) -> str:
    return re.sub(r"\s+", lambda run: "\n" if "\n" in run.group() else " ", text)


@given(texts, texts)
def test_segments_hold_all_of_a_text(text, prompt):
    assert put_together(segments(text, prompt)).strip() == one_space(plain(text)).strip()


@given(texts, texts)
def test_slots_are_of_three_kinds_and_hold_words_or_digits(text, prompt):
    for part in segments(text, prompt):
        assert part.slot in {TEXT, COPY, NUMBER, ""}
        assert bool(part.words) == bool(part.slot)
        if part.slot == NUMBER:
            assert part.words.isdigit()


@given(texts, texts)
def test_a_text_has_at_most_one_key_of_a_family_and_always_the_same(text, prompt):
    keys = list(keys_of(text, prompt))
    families = [(key.feature, key.depth) for key in keys]
    assert len(set(families)) == len(families)
    assert keys == list(keys_of(text, prompt))


@given(
    st.lists(st.sampled_from(["{t}", "{copy}", "{n}", "{", "}", "x", ": ", "7"]), max_size=12).map("".join)
)
def test_slots_that_a_user_writes_are_text(typed):
    frame = typed.replace("{", "{{").replace("}", "}}")
    assert not any(piece.is_slot for piece in pieces(frame))
    assert filled(frame, lambda _: "?") == typed


def test_a_typed_slot_is_not_the_slot():
    typed, meant = list(keys_of("{n}: done soon", "")), list(keys_of("7: done soon", ""))
    assert [key.shape for key in typed if key.feature is Feature.OPENING] == ["{{{t}}}: "]
    assert [key.shape for key in meant if key.feature is Feature.OPENING] == ["{n}: "]


def test_look_alikes_and_invisible_characters_are_one_text():
    wide, hidden = "\uff26\uff29\uff38: done", "FIX\0:\u200b done\u202e"
    assert plain(wide) == plain(hidden) == "FIX: done"
    assert list(keys_of(wide, "")) == list(keys_of("FIX: done", ""))


def test_endless_words_and_texts_are_bounded():
    for text in ("a" * 100_000, "1" * 100_000, "(" * 100_000, "a b" * 100_000, "\n" * 100_000):
        assert len(plain(text)) <= 2 * LONGEST_TEXT
        for key in keys_of(text, text):
            assert len(key.shape) <= 160
            assert len(key.words) <= 48


def test_words_of_the_prompt_are_copies_and_others_are_not():
    parts = segments("parser: fix the lexer (#12)", "lib/parser.py")
    assert [(part.before, part.slot) for part in parts] == [
        ("", COPY),
        (": ", TEXT),
        (" (#", NUMBER),
        (")", ""),
    ]


def test_several_lines_keep_their_breaks():
    parts = segments("Summary\n\n- one\n- two", "")
    assert [part.before for part in parts] == ["", "\n- ", "\n- "]


def test_a_name_in_the_prompt_is_a_slot_and_a_word_that_begins_a_sentence_is_none():
    def opening(answer, prompt):
        return next(key.shape for key in keys_of(answer, prompt) if key.feature is Feature.OPENING)

    assert opening("Hey Ada! No worries", "Customer Ada writes: where is it?") == "{t} {copy}! "
    assert opening("Hey Olga! No worries", "Olga: where is it?") == "{t} {copy}! "
    assert opening("Dear Customer, we see", "Customer message: where is it?") == "{t}, "
