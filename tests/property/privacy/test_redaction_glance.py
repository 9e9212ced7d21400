"""The glance that lets most texts pass unread never lets one pass that a recognizer would find something in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from privacy import redaction

PIECES = (
    "jane@example.org", "+49 30 1234567", "555-123-4567", "4111 1111 1111 1111", "DE89370400440532013000",
    "10.20.30.40", "2001:db8::1", "536-90-4399", "AKIAIOSFODNN7EXAMPLE", "password=hunter22", "://u:pw@",
    "bearer abc.def-ghi_jkl~mno", "Bearer abcdefghijklmnopqrst", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    "xoxb-1234567890ab", "word123 ", "3.14 ", "(030) 1234 5678", "٣٤٥٦٧٨", "٠٣٠ 1234567", "é", "A", "z", ".", " ", "7",
)  # fmt: skip


def kinds_by_looking(text):
    """What every recognizer finds without asking whether the text holds enough digits for its kind."""
    return {recognizer.kind for recognizer in redaction._RECOGNIZERS if any(recognizer.values(text))}


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join))
def test_a_text_without_clues_holds_nothing_to_find(text):
    if redaction._glance(text) is None:
        found = kinds_by_looking(text)
        assert not found & {"secret", "email"}
        assert not found or sum(map(text.count, "0123456789")) < 7
        assert redaction.redact(text) == (text, {})


def test_ordinary_texts_pass_at_a_glance():
    choice = random.Random(5)
    words = [f"word{number}" for number in range(400)]
    texts = [" ".join(choice.choices(words, k=30)) for _ in range(50)] + [
        "please shorten this text, it is late"
    ]
    assert all(redaction._glance(text) is None for text in texts)
