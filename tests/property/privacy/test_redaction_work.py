"""Redaction takes work in proportion to the text, whatever somebody wrote to make it take more, and finds as much."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import redaction
from privacy.redaction import MOST_PASSES, redact

# The patterns as they were before they were searched by hand; right, and slow.
KEY = re.compile(
    r"-----BEGIN[ ][A-Z ]{0,30}PRIVATE[ ]KEY-----[\s\S]*?(?:-----END[ ][A-Z ]{0,30}PRIVATE[ ]KEY-----|\Z)"
)
TOKEN = re.compile(r"\beyJ[\w-]{8,4000}\.[\w-]{8,8000}\.[\w-]{8,4000}")

BEGIN, END = "-----BEGIN PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
key_pieces = st.sampled_from(
    [BEGIN, END, "-----BEGIN ", "-----END ", "-----", "PRIVATE KEY-----", "A ", "MII\n"]
)
token_pieces = st.sampled_from(
    ["eyJ", "-eyJ", "abcdefgh", "abcdefghi", ".", ".abcdefgh", "-", "_", " ", "eyJ" + 3998 * "a", 4000 * "b"]
)

# To be repeated: what begins a value over and over, what ends none, and what uncovers its neighbours.
UNITS = (
    BEGIN, f"{BEGIN}x\n-----END ", "-----BEGIN ", "-----BEGIN " + 15 * "A ", "AKIA", "ghp_", "ghp_" + 300 * "a",
    "xoxb-", "sk-a", "pypi-", "eyJ", "eyJ-", "-eyJaaaaaaaa", "eyJaaaaaaaa.", "eyJaaaaaaaa.aaaaaaaa",
    " eyJ" + 4000 * "a", "Bearer ", "Bearer" + 50 * " ", "Bearer aaaaaaaaaaaaaaaaaaaa ", "://", "://a",
    "://aaaa:", "://a:b", "://" + 20 * ":", "://a:b@", "password=", "token:", 'token="', "pass   =   ",
    "secret=ab ", "a", "a.", "a'", "a@", "a@b.", "a@b.co", "a@b.co@", "a@" + 30 * "b-",
    64 * "a" + "@" + 8 * "b.", "a@" + 8 * (63 * "b" + "."), "[email]@a.b ", "AA02", "AA02 BBBB ", "DE89BBBB",
    "DE89 3704 0044 0532 0130 01 ", "4", "4111-", "4111 1111 1111 1112 ", "123-45-6789 ", "000-00-0000-", "1.",
    "1.1.1.1", "1.1.1.1.", "1:", "::", "a:b:", "1:2:3:4:5:6:7:8:9 ", "abcd:1.2.3.4 ", ":1.1.1.", "+1 ",
    "+1234567", "001", "001/", "0011.", "00112345.", "(12)", "+1-(", "+1" + 24 * "(", "123 456 7890-1",
    "+12 34 56 78 90 12 34 56 ", "0", "٣", "٤٤٤ ", "-", " ",
)  # fmt: skip
EVERY_MARK = "ghp_ Bearer :// @ password= :: A@b.c 1.1.1.1 AA11 PRIVATE KEY 12345678 "


def text_of(unit, characters):
    """As long as asked for, and with something in it that makes every recognizer look."""
    return EVERY_MARK + (unit * (characters // len(unit) + 1))[:characters]


def seconds(text):
    return min(_once(text) for _ in range(3))


def _once(text):
    started = time.process_time()
    redact(text)
    return time.process_time() - started


@pytest.mark.parametrize("unit", UNITS)
def test_four_times_the_text_is_four_times_the_work(unit):
    small, large = seconds(text_of(unit, 16_384)), seconds(text_of(unit, 65_536))
    # Quadratic work would be sixteen times as much, and used to be a minute; below a fiftieth of a second nobody cares.
    assert large < max(9 * small, 0.02)


@pytest.mark.parametrize("unit", UNITS)
def test_a_text_is_gone_over_a_few_times_only(monkeypatch, unit):
    calls = Counter()
    once = redaction._pass

    def counted(text, counts):
        calls["pass"] += 1
        return once(text, counts)

    monkeypatch.setattr(redaction, "_pass", counted)
    redacted = redact(text_of(unit, 4_096))
    assert calls["pass"] <= MOST_PASSES
    assert redact(redacted.text).text == redacted.text


def test_numbers_strung_together_are_withheld_as_a_whole():
    assert redact("call " + 40 * "+1234567") == ("[withheld]", {"withheld": 1})
    assert redact("call " + 40 * "+1234567 ").counts == {"phone": 40}


@given(st.lists(key_pieces, max_size=12).map("".join))
def test_private_keys_are_found_where_the_pattern_found_them(text):
    assert list(redaction._private_keys(text)) == [match.span() for match in KEY.finditer(text)]


@given(st.lists(token_pieces, max_size=12).map("".join))
def test_web_tokens_are_found_where_the_pattern_found_them(text):
    assert list(redaction._web_tokens(text)) == [match.span() for match in TOKEN.finditer(text)]


@given(
    st.lists(
        st.sampled_from(["DE89", "3704", "0044", "0532", "0130", "00", " ", "NOW", "GB82", "A"]), max_size=9
    )
)
def test_an_account_number_is_the_longest_part_up_to_a_space_that_is_one(pieces):
    candidate = "DE89" + "".join(pieces)
    spaces = [place for place, letter in enumerate(candidate) if letter == " "]
    valid = [end for end in (*spaces, len(candidate)) if redaction._is_iban(candidate[:end])]
    assert redaction._iban(candidate) == max(valid, default=0)
