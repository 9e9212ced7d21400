"""BM25 against its formula written out, fusion by rank, and the names that a question asks about."""

import time
from collections import Counter
from math import log

import numpy as np
import pytest

from personalization.memory.ranking import (
    K1,
    B,
    WordIndex,
    best,
    fused,
    names_in,
    names_occur,
    without_asker,
    words_of,
)

TEXTS = [
    "refund takes 14 days",
    "sale items go back within 7 days",
    "the office dog is called Bello",
    "days and days",
]


def index():
    return WordIndex([Counter(words_of(text)) for text in TEXTS])


def by_hand(query, alive):
    bags = [Counter(words_of(text)) for text in TEXTS]
    living = [bag for bag, here in zip(bags, alive, strict=True) if here]
    mean = sum(sum(bag.values()) for bag in living) / len(living)
    scores = []
    for bag, here in zip(bags, alive, strict=True):
        score = 0.0
        for word in set(words_of(query)):
            having = sum(word in one for one in living)
            idf = log(1 + (len(living) - having + 0.5) / (having + 0.5))
            often = bag[word]
            score += idf * often * (K1 + 1) / (often + K1 * (1 - B + B * sum(bag.values()) / mean))
        scores.append(score if here else 0.0)
    return scores


@pytest.mark.parametrize("query", ["how many days does a refund take", "dogs", "nothing of it", ""])
@pytest.mark.parametrize("alive", [[True] * 4, [True, False, True, True]])
def test_scores_are_those_of_the_formula_over_what_is_alive(query, alive):
    found = index().scores(words_of(query), np.array(alive))
    np.testing.assert_allclose(found, by_hand(query, alive), rtol=1e-5)


def test_an_empty_index_finds_nothing():
    empty = WordIndex([])
    assert list(empty.scores(["day"], np.zeros(0, bool))) == []


def test_the_share_of_a_question_that_a_passage_has_counts_rare_words_more():
    alive = np.ones(4, bool)
    full, half = (index().known(words_of(text), 0, alive) for text in ("refund days", "refund zebra"))
    assert full == pytest.approx(1.0)
    assert 0 < half < 0.6
    assert index().known(["refund", "day"], 1, alive) < 0.5


def test_best_and_fused_keep_their_order():
    assert best(np.array([0.0, 2.0, 1.0, 2.0], np.float32)) == [1, 3, 2]
    assert best(np.arange(100, dtype=np.float32), most=3) == [99, 98, 97]
    ranking = fused([1, 2], [2, 3])
    assert list(ranking) == [2, 1, 3]
    assert ranking[2] == pytest.approx(1 / 62 + 1 / 61)


def test_words_have_one_form():
    assert words_of("The REFUNDS of Anna’s user-ids, naïve C++ a.py") == [
        "refund", "anna", "user-id", "user", "ids", "naïve", "c", "a.py", "py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("How long is the warranty of the Zorblax 9?", ["Zorblax", "9"]),
        ("Where is it? Ask Ms Bell.", ["Ms", "Bell"]),
        ("what does HR say about B2B orders", ["HR", "B2B"]),
        ("how long do refunds take", []),
    ],
)
def test_names_are_what_no_sentence_asks_for(question, names):
    assert names_in(question) == names


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("Mail from Hana: what about the label printer?", []),
        ("Question of Rosa Marin: any news on the Zorblax?", ["Zorblax"]),
        ("From Ada: where is it?", []),
        ("Please answer Vera, who asks for the cold room.", []),
        ("Customer Ben writes: the lamp is broken", []),
        ("Mina asks how long refunds take", []),
        ("Refunds from Aldora: how long do they take?", ["Aldora"]),
        ("Mail from the Aldora site: how long do refunds take?", ["Aldora"]),
        ("What is the mail of Aldora?", ["Aldora"]),
        ("Question: how long do refunds of Aldora take?", ["Aldora"]),
        ("Please answer: where is Quorvik?", ["Quorvik"]),
        ("Mail from Room 7: is it free?", ["Room", "7"]),
    ],
)
def test_who_asks_is_not_what_is_asked_about(question, names):
    assert names_in(without_asker(question)) == names


def test_a_question_of_many_empty_lines_takes_no_longer_than_another():
    """A pattern holds up every thread of its process; at a time that grows with the square this takes half a minute."""
    question = "\n" * 16_000 + "Mail from Hana: where is it?"
    started = time.perf_counter()
    assert names_in(without_asker(question)) == []
    assert time.perf_counter() - started < 2


def test_a_passage_on_another_name_does_not_answer():
    assert names_occur("warranty of the Zorblax 9?", "The Zorblax 9 has a warranty of 41 months.")
    assert not names_occur("warranty of the Zorblax 8?", "The Zorblax 9 has a warranty of 41 months.")
    assert not names_occur("warranty of the Quibbix 9?", "The Zorblax 9 has a warranty of 41 months.")
