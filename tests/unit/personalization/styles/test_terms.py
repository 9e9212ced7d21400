"""What counts as a replaced term in an edit, and what is never voted on."""

from __future__ import annotations

import pytest

from personalization.styles.terms import MOST_PAIRS, pairs_of, steady_pairs
from personalization.styles.votes import StyleText

NOTE = "the deploy of {} went well and the team was happy with how it all went"


def edit(written, meant, around=NOTE):
    return list(pairs_of(around.format(written), around.format(meant)))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("postgres sequel", "PostgreSQL"),
        ("cuber netties", "Kubernetes"),
        ("kafka", "Kafka"),
        ("work stream ex", "WorkstreamX"),
        ("login page", "sign-in page"),
    ],
)
def test_a_replaced_block_is_a_pair(written, meant):
    (pair,) = edit(written, meant)
    assert pair[0] in written.casefold()
    assert pair[1] in meant


def test_punctuation_belongs_to_no_term():
    assert edit("(postgres sequel),", "“PostgreSQL”,") == [("postgres sequel", "PostgreSQL")]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("john", "jon"),  # persons
        ("Maria Lopez", "Maria Lopes"),
        ("hunter2222", "hunter22222"),  # secrets
        ("ann@exmple.org", "ann@example.org"),
        ("ticket 48113", "ticket 48114"),
        ("https://a.example/x", "https://a.example/y"),
        ("k9f8q7z6", "k9f8q7z5"),
        ("is", "was"),  # common words
        ("the", "our"),
        ("one two three four five", "six"),  # longer than four words
        ("queue", "queue"),
    ],
)
def test_what_is_never_voted_on(written, meant):
    assert edit(written, meant) == []


def test_a_word_beside_a_greeting_is_taken_for_a_name():
    greeting = "Dear {} the deploy went well and the team was happy with how it all went"
    assert edit("Zaphodd", "Zaphod", greeting) == []
    assert edit("Zaphodd", "Zaphod") == [("zaphodd", "Zaphod")]


def test_a_text_that_was_rewritten_says_nothing_about_terms():
    shown, final = "alpha beta gamma delta epsilon zeta", "alpha bete gamme delte epsilon zeta"
    assert list(pairs_of(shown, final)) == []
    assert list(pairs_of(shown, shown.replace("gamma", "gamme"))) == [("gamma", "gamme")]


def test_the_steadiest_three_of_a_user_count():
    def text(*pairs):
        return StyleText(
            prompt="p",
            shown=" ".join(NOTE.format(one) for one, _ in pairs),
            final=" ".join(NOTE.format(other) for _, other in pairs),
        )

    kafka, rabbit, queue, redis = (
        ("kafkka", "Kafka"),
        ("rabit", "Rabbit"),
        ("quue", "Queue"),
        ("rediss", "Redis"),
    )
    synonym = ("login", "checkout")
    found = steady_pairs([text(kafka, rabbit), text(kafka, queue, redis), text(kafka, redis, synonym)])
    assert found == [kafka, redis, queue]
    assert len(found) == MOST_PAIRS
    assert steady_pairs([text(synonym)]) == [], "of two words that are not alike one edit says too little"
    assert steady_pairs([text(synonym), text(synonym)]) == [synonym]
    assert steady_pairs([StyleText(prompt="p", final="x")]) == []
