"""A vote weighs at most one, holds at most so many keys, and depends on its user's texts alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalization.styles.families import TERM_WEIGHT, Feature, families_for, norm_of
from personalization.styles.votes import MOST_TEXTS, StyleText, UserTexts, sum_of, unknown_keys, vote_of
from privacy.accounting.calibration import UNKNOWN_KEYS
from privacy.mechanisms.partition_selection import LEADING_KEYS, LEADING_WEIGHT, VOTE_UNIT
from tests.fakes.styles import users_with_style, users_without_style

LISTED = (
    ("kafkka", "kafka"),
    ("rabit", "rabbit"),
    ("rabit", "Rabbit"),
    ("postgrs", "postgres"),
    ("quue", "queue"),
    *((f"wrong {n}", f"right {n}") for n in range(100)),
)
FAMILIES = {
    "leading": families_for(50, 2.4, most_keys=LEADING_KEYS),
    "narrow": families_for(50, 8.0, most_keys=UNKNOWN_KEYS),
    "wide": families_for(1000, 3.0, most_keys=UNKNOWN_KEYS),
    "narrow and terms": families_for(50, 8.0, most_keys=UNKNOWN_KEYS, terms=True),
    "wide and terms": families_for(1000, 3.0, most_keys=UNKNOWN_KEYS, terms=True),
    "narrow and listed terms": families_for(50, 8.0, most_keys=UNKNOWN_KEYS, terms=True, glossary=LISTED),
    "wide and listed terms": families_for(1000, 3.0, most_keys=UNKNOWN_KEYS, terms=True, glossary=LISTED),
}
some_words = st.lists(
    st.sampled_from(["kafka", "kafkka", "rabit", "rabbit", "postgrs", "postgres", "queue", "quue"]),
    max_size=9,
)
shown = st.one_of(st.none(), st.text(max_size=60), some_words.map(" ".join))
texts = st.lists(
    st.builds(
        StyleText,
        prompt=st.one_of(st.text(max_size=40), some_words.map(" ".join)),
        # Joined by colons and said in the prompt they are labels.
        final=st.one_of(st.text(max_size=60), some_words.map(" ".join), some_words.map(": ".join)),
        shown=shown,
    ),
    min_size=1,
    max_size=8,
)


def check(user, families):
    vote = vote_of(user, families)
    public = {one.feature for one in families if one.public}
    assert sum(value**2 for value in vote.values()) <= VOTE_UNIT**2
    for key, value in vote.items():
        (family,) = (one for one in families if one.asks_for(key))  # one threshold, that of its weight
        assert 0 <= value <= family.weight * VOTE_UNIT
    assert sum(key.feature not in public for key in vote) <= unknown_keys(families)
    alphabet = {key for one in families if one.public for key in one.alphabet()}
    assert all(key in alphabet for key in vote if key.feature in public), "no public family has another key"
    return vote


@pytest.mark.parametrize("families", FAMILIES.values(), ids=FAMILIES)
def test_the_weights_are_within_the_norm_and_the_reserved_keys(families):
    assert 0.95 < norm_of(families) <= 1
    assert unknown_keys(families) <= (LEADING_KEYS if families == FAMILIES["leading"] else UNKNOWN_KEYS)


@pytest.mark.parametrize("families", FAMILIES.values(), ids=FAMILIES)
@given(written=texts)
def test_any_vote_is_within_its_bounds(families, written):
    check(UserTexts(texts=tuple(written)), families)


@pytest.mark.parametrize("families", FAMILIES.values(), ids=FAMILIES)
def test_a_user_of_very_many_keys_is_within_the_bounds(families):
    rng = random.Random(5)
    marks = "~^|=+_*<>/@%&$"
    frames = ["".join(rng.choice(marks) for _ in range(3)) for _ in range(unknown_keys(families) + 50)]
    many = UserTexts(
        texts=tuple(
            StyleText(prompt=f"p\n{mark}", final=f"{mark} a{mark} b{mark} c {mark} d{mark} e{mark}")
            for mark in frames
        )
    )
    assert len(check(many, families)) >= MOST_TEXTS


@pytest.mark.parametrize("families", [FAMILIES["narrow and terms"], FAMILIES["wide and terms"]])
def test_a_user_of_very_many_terms_is_within_the_bounds(families):
    wrong = [f"wrng{letter}{other}" for letter in "abcdef" for other in "ghijk"]
    edits = [
        StyleText(
            prompt="p",
            shown=" ".join(f"{word} stays as it was here" for word in wrong[start : start + 5]),
            final=" ".join(f"wrong{word[4:]} stays as it was here" for word in wrong[start : start + 5]),
        )
        for start in range(0, 20, 5)
    ]
    terms = {key: value for key, value in check(UserTexts(texts=tuple(edits)), families).items() if key.words}
    terms = {key: value for key, value in terms.items() if key.feature is Feature.TERM}
    assert len(terms) == 3
    assert sum(value**2 for value in terms.values()) <= (TERM_WEIGHT * VOTE_UNIT) ** 2


@pytest.mark.parametrize("families", [FAMILIES["narrow and listed terms"], FAMILIES["wide and listed terms"]])
def test_a_user_who_puts_a_whole_list_right_is_within_the_bounds_and_uses_up_no_unknown_key(families):
    wrong, right = (" and ".join(pair[side] for pair in LISTED) for side in (0, 1))
    edit = StyleText(prompt="p", shown=wrong, final=right)
    terms = {
        key: value
        for key, value in check(UserTexts(texts=(edit,) * 4), families).items()
        if key.feature is Feature.TERM
    }
    assert len(terms) == len(LISTED)
    assert sum(value**2 for value in terms.values()) <= (TERM_WEIGHT * VOTE_UNIT) ** 2
    name = "narrow" if families == FAMILIES["narrow and listed terms"] else "wide"
    assert unknown_keys(families) == unknown_keys(FAMILIES[name])


def test_a_leading_vote_has_one_key_for_each_answer_and_asks_for_no_terms():
    families = FAMILIES["leading"]
    assert families == families_for(50, 2.4, most_keys=LEADING_KEYS, terms=True, glossary=LISTED)
    finals = ("FIX: a b", "TASK-17: a b", "[Lamp](URL) - a b", "just a b")
    vote = vote_of(UserTexts(texts=tuple(StyleText(prompt="Lamp", final=one) for one in finals)), families)
    told = {
        key: value for key, value in vote.items() if key.feature in {Feature.OPENING, Feature.OPENING_WORDS}
    }
    assert {(key.shape, key.words) for key in told} == {
        ("{t}: ", "FIX"), ("{t}-{n}: ", "TASK"), ("[{copy}]({t}) - ", "URL"), ("none", "")
    }  # fmt: skip
    assert all(4 * value == pytest.approx(LEADING_WEIGHT * VOTE_UNIT, abs=4) for value in told.values())
    framed = {key.shape: value for key, value in vote.items() if key.feature is Feature.FRAMED}
    assert framed == {"yes": pytest.approx(3 / 4 * 0.24 * VOTE_UNIT, abs=4)}


def test_only_the_first_texts_of_ten_thousand_count():
    texts = [StyleText(prompt="p", final=f"{'<>|#'[n % 4]} word{n} done") for n in range(10_000)]
    families = FAMILIES["wide"]
    assert check(UserTexts(texts=tuple(texts)), families) == check(
        UserTexts(texts=tuple(texts[:MOST_TEXTS])), families
    )


def test_who_wrote_nothing_votes_nothing():
    assert vote_of(UserTexts(texts=()), FAMILIES["wide"]) == {}


def test_a_user_changes_the_sum_by_the_own_vote_and_the_order_of_users_does_not():
    users = [*users_with_style(40), *users_without_style(20)]
    families = FAMILIES["wide"]
    whole, without = sum_of(users, families), sum_of(users[1:], families)
    whole.subtract(without)
    assert {key: value for key, value in whole.items() if value} == {
        key: value for key, value in vote_of(users[0], families).items() if value
    }
    shuffled = users[:]
    random.Random(3).shuffle(shuffled)
    assert sum_of(shuffled, families) == sum_of(users, families)


def test_even_shares_of_texts_add_up_to_shares_of_answers():
    user = UserTexts(
        texts=(StyleText(prompt="p", final="FIX: a b"), StyleText(prompt="p", final="NOTE: a b"))
    )
    vote = vote_of(user, FAMILIES["wide"])
    halves = [value for key, value in vote.items() if key.words in {"FIX", "NOTE"} and key.depth == 1]
    whole = next(value for key, value in vote.items() if key.shape == "{t}: " and not key.words)
    assert len(halves) == 2
    assert all(value * 2 == pytest.approx(0.40 * VOTE_UNIT, abs=2) for value in halves)
    assert whole == pytest.approx(0.30 * VOTE_UNIT, abs=2)
