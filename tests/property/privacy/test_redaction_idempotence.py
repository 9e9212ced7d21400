"""Redacting twice is redacting once, and a planted value never survives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from privacy.redaction import redact

VALUES = (
    "jane@example.org",
    "+49 30 1234567",
    "555-123-4567",
    "4111 1111 1111 1111",
    "DE89370400440532013000",
    "10.20.30.40",
    "2001:db8::1",
    "536-90-4399",
    "AKIAIOSFODNN7EXAMPLE",
    "password=hunter22",
    "://u:pw@",
)
pieces = st.sampled_from(
    [*VALUES, " ", ", ", ".", "-", "(", ")", "[", "]", "@", ":", "1", "42", "a", "KEY", "\n"]
)


@given(st.lists(pieces | st.text(max_size=4), max_size=12).map("".join))
def test_redacting_again_changes_nothing(text):
    once = redact(text)
    twice = redact(once.text)
    assert (twice.text, twice.counts) == (once.text, {})


@given(st.sampled_from(VALUES[:9]), st.text("abcdefg ", max_size=20), st.text("abcdefg ", max_size=20))
def test_a_value_between_words_does_not_survive(value, before, after):
    redacted = redact(f"{before} {value} {after}")
    assert value not in redacted.text
    assert sum(redacted.counts.values()) == 1
