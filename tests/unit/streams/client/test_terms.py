"""Terms are put right exactly, once, and so that it can be undone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.client.terms import LONGEST_TERM, MOST_TERMS, Terms

TERMS = Terms(
    [
        ("postgres sequel", "PostgreSQL"),
        ("postgres", "Postgres"),
        ("kafka", "Apache Kafka"),
        ("color", "colour"),
        ("colour", "COLOUR"),
    ]
)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("use postgres  sequel, not postgres", "use PostgreSQL, not Postgres"),
        ("Apache Kafka and kafka.", "Apache Kafka and Apache Kafka."),
        ("kafkaesque kafka-like my.kafka kafka@x.io x/kafka #kafka", None),
        ("`kafka` and ```\nkafka\n``` https://kafka/kafka", None),
        ("color colour", "colour COLOUR"),
        ("postgres\nsequel", "Postgres\nsequel"),
        ("'kafka' (kafka) kafka's", "'Apache Kafka' (Apache Kafka) kafka's"),
        ("", None),
    ],
)
def test_whole_words_are_put_right_once(text, right):
    done = TERMS.correct(text)
    assert done.text == (text if right is None else right)
    assert done.undone() == text


def test_a_capital_at_the_beginning_stays_where_a_term_has_none():
    terms = Terms([("sign-on", "log-in"), ("e mail", "email")])
    assert terms.correct("Sign-on by e mail. E mail it.").text == "Log-in by email. Email it."


def test_terms_in_a_prompt_are_found_right_or_wrong_each_once():
    assert [one.meant for one in TERMS.within("Is kafka like Apache Kafka or postgres?")] == [
        "Apache Kafka",
        "Postgres",
    ]
    assert TERMS.within("nothing of it") == ()


def test_no_terms_change_nothing():
    assert Terms([]).correct("kafka").text == "kafka"
    assert Terms([]).within("kafka") == ()


@pytest.mark.parametrize(
    "pairs",
    [
        [("", "x")],
        [("x", " y")],
        [("a\nb", "x")],
        [("x", "y" * (LONGEST_TERM + 1))],
        [("x", "y")] * (MOST_TERMS + 1),
    ],
)
def test_terms_that_cannot_be_are_refused(pairs):
    with pytest.raises(ValueError, match="term"):
        Terms(pairs)


words = st.sampled_from(
    ["kafka", "Kafka", "apache", "postgres", "sequel", "color", ".", "`", "/", " ", "\n", "İ", "\u017f"]
)


@given(st.lists(words, max_size=30))
def test_what_was_changed_can_always_be_undone(parts):
    text = "".join(parts)
    done = TERMS.correct(text)
    assert done.undone() == text
    assert all(done.text[one.start : one.end] != one.before for one in done.corrections)
    TERMS.within(text)


def test_putting_right_twice_changes_nothing_more():
    terms = Terms([("kafka", "Apache Kafka"), ("postgres sequel", "PostgreSQL")])
    once = terms.correct("kafka and postgres sequel").text
    assert terms.correct(once).text == once
