"""What one user or a few alone have never stands in a card; what neighbors' cards share has the same noise."""

from __future__ import annotations

import hashlib
import json
import math
import random
import statistics

import pytest

from personalization.errors import StyleCardError
from personalization.styles import discovery
from personalization.styles.families import PUBLIC, Family, Feature, Key, families_for
from personalization.styles.frames import is_poor
from personalization.styles.votes import StyleText, UserTexts, vote_of
from privacy.mechanisms.partition_selection import LEADING_KEYS, VOTE_UNIT
from tests.fakes.styles import found, said, users_with_style, users_without_style, vote

SECRETS = (
    "Erika Mustermann",
    "hunter2swordfish",
    "erika@example.org",
    "4111111111111111",
    "Zyxomma",
    "/home/erika",
    "vexillum",
)


def key_number(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "big")).digest()


def planted(texts: int = 1) -> UserTexts:
    """Texts of one person, with secrets wherever a frame could take them up."""
    finals = (
        "Erika Mustermann: hunter2swordfish (erika@example.org)",
        "Zyxomma, 4111111111111111: see /home/erika. Regards, Erika Mustermann",
        "[Zyxomma] hunter2swordfish | Erika Mustermann",
        "vexillum: Zyxomma, Erika Mustermann -- hunter2swordfish!",  # a word of the prompt, told as a label
    )
    return UserTexts(
        texts=tuple(
            StyleText(prompt="Question of a vexillum\nZyxomma:", final=finals[n % len(finals)])
            for n in range(texts)
        )
    )


@pytest.mark.parametrize("texts", [1, 4, 1000])
@pytest.mark.parametrize(("declared", "noise"), [(50, 8.0), (300, 3.0)])
def test_secrets_of_one_person_are_in_no_card(texts, declared, noise):
    users = [*users_with_style(declared), planted(texts)]
    for number in range(15):
        card = found(users, key_number(number), selection=vote(noise), declared_users=declared)
        document = json.dumps(card.to_document(), ensure_ascii=False).casefold()
        assert not [secret for secret in SECRETS if secret.casefold() in document]


def test_a_frame_of_a_few_users_is_in_no_card_and_one_of_many_is_in_each():
    rng = random.Random(2)
    rare = [UserTexts(texts=(StyleText(prompt="p", final=f"<<Quorum>> {said(rng)} =%"),)) for _ in range(12)]
    users = users_with_style(300) + rare
    for number in range(15):
        card = found(users, key_number(number))
        assert "<<" not in json.dumps(card.to_document())
        assert {one.key for one in card.of(Feature.OPENING, 1)} == {"{t}: ", "{t}-{n}: "}


def test_no_two_keys_have_one_noise_whatever_characters_a_term_holds():
    selection, secret = vote(noise_multiplier=2.0), key_number(1)
    one, other = Key(Feature.TERM, 1, "a\0b", "c"), Key(Feature.TERM, 1, "a", "b\0c")
    assert discovery._noise(one, selection, secret) != discovery._noise(other, selection, secret)
    assert discovery._noise(one, selection, secret) == discovery._noise(one, selection, secret)


def test_a_key_of_one_user_passes_its_threshold_as_seldom_as_delta_says():
    selection = vote(noise_multiplier=2.0, delta=1e-3, unknown_keys=1)
    weight, runs = 0.6, 15_000
    bound = selection.threshold(weight)
    alone = Key(Feature.OPENING, 1, "<<{t}>> ")
    passed = sum(
        weight + discovery._noise(alone, selection, key_number(number)) / VOTE_UNIT > bound
        for number in range(runs)
    )
    # 15 are expected; more than 35 of a rate of at most 1e-3 are seen once in a hundred thousand times.
    assert 1 <= passed <= 35


def test_users_without_a_common_style_get_a_poor_card():
    assert is_poor(found(users_without_style(300)))
    assert not is_poor(found(users_with_style(300)))


def test_nobody_at_all_gives_a_card_of_noise_on_public_keys_alone():
    cards = [found((), key_number(number)) for number in range(150)]
    entries = [one for card in cards for one in card.entries]
    assert all(one.feature in PUBLIC for one in entries)
    # On average FALSE_KEYS of a card: keys that nobody holds get noise too.
    assert 4 <= len(entries) <= 35


def test_other_keys_have_the_same_noise_when_a_user_leaves():
    users = [*users_with_style(300), planted(4)]
    families = families_for(300, 3.0, most_keys=64)
    own = {(key.feature, key.depth, key.shape, key.words) for key in vote_of(users[-1], families)}
    for number in range(5):
        both = [
            {
                (one.feature, one.depth, one.key, one.words): one.share
                for one in discovery.discover(
                    some, vote(), key_number(number), declared_users=300, voters=300
                ).entries
            }
            for some in (users, users[:-1])
        ]
        shared = [name for name in both[0].keys() | both[1].keys() if name not in own]
        assert len(shared) > 8
        assert all(both[0].get(name) == both[1].get(name) for name in shared)


def test_noise_differs_from_key_to_key_and_from_vote_to_vote_and_is_as_large_as_charged():
    selection = vote(noise_multiplier=3.0)
    keys = [Key(Feature.OPENING, 1, f"{number}{{t}}: ") for number in range(3000)]
    first, second = (
        [discovery._noise(key, selection, key_number(vote_)) / VOTE_UNIT for key in keys] for vote_ in (1, 2)
    )
    assert len(set(first)) > 2990
    assert first != second
    assert abs(statistics.mean(first)) < 0.25
    assert statistics.stdev(first) == pytest.approx(3.0, rel=0.06)
    assert abs(statistics.correlation(first, second)) < 0.08
    assert first == [discovery._noise(key, selection, key_number(1)) / VOTE_UNIT for key in keys]


def test_names_that_differ_only_in_where_they_are_cut_have_noise_of_their_own():
    selection = vote()
    one, other = Key(Feature.OPENING_WORDS, 1, "a", "b"), Key(Feature.OPENING_WORDS, 1, "a\0b", "")
    assert discovery._noise(one, selection, bytes(32)) != discovery._noise(other, selection, bytes(32))


def test_the_order_of_users_and_of_their_keys_does_not_show():
    users = users_with_style(200)
    card = found(users)
    shuffled = users[:]
    random.Random(9).shuffle(shuffled)
    assert found(shuffled) == card
    assert found(shuffled).to_document() == card.to_document()


def test_a_vote_that_holds_more_keys_than_were_reserved_is_refused():
    with pytest.raises(StyleCardError, match="than was reserved"):
        found(users_with_style(300), selection=vote(unknown_keys=8))


def replacing(written: str, meant: str, times: int = 1) -> UserTexts:
    note = "the deploy of {} went well and the team was happy with how it all went"
    edit = StyleText(prompt="p", shown=note.format(written), final=note.format(meant))
    return UserTexts(texts=(edit,) * times)


def test_a_term_of_a_few_users_is_in_no_card_and_one_of_many_is_in_each():
    few = [replacing("zyxoma", "Zyxomma", 4) for _ in range(12)]
    many = [replacing("cuber netties", "Kubernetes") for _ in range(60)]
    for number in range(15):
        card = found([*users_with_style(240), *few, *many], key_number(number), terms=True)
        assert [(one.key, one.words) for one in card.of(Feature.TERM)] == [("cuber netties", "Kubernetes")]
        assert "zyx" not in json.dumps(card.to_document()).casefold()
    without = found([*users_with_style(240), *many], key_number(0))
    assert without.of(Feature.TERM) == (), "nobody votes on terms unless the policy says so"


def test_a_user_with_a_hundred_terms_of_the_own_has_them_in_no_card():
    mine = UserTexts(
        texts=tuple(
            StyleText(
                prompt="p",
                shown=" ".join(f"zyxo{letter}{number} stays as it ever was" for letter in "abcde"),
                final=" ".join(f"Zyxomm{letter}{number} stays as it ever was" for letter in "abcde"),
            )
            for number in "qrst"
        )
    )
    for number in range(15):
        card = found([*users_with_style(300), mine], key_number(number), terms=True)
        assert card.of(Feature.TERM) == ()


LISTED = (
    ("cuber netties", "Kubernetes"),
    ("acne cloud", "AcmeCloud"),
    *((f"w{n}x", f"W{n}") for n in range(18)),
)


def test_over_a_list_nothing_else_can_come_out_and_fewer_users_are_needed():
    many = [replacing("zyxoma", "Zyxomma", 4) for _ in range(200)]
    some = [replacing("cuber netties", "Kubernetes") for _ in range(24)]
    users = [*users_with_style(100), *many, *some]
    cards = [found(users, key_number(number), terms=True, glossary=LISTED) for number in range(4)]
    told = [[(one.key, one.words) for one in card.of(Feature.TERM)] for card in cards]
    assert all(set(pairs) <= set(LISTED) for pairs in told)
    assert all(LISTED[0] in pairs for pairs in told)
    assert not any("zyx" in json.dumps(card.to_document()).casefold() for card in cards)
    without = found([*users_with_style(300), *some], key_number(0), terms=True)
    assert without.of(Feature.TERM) == (), "as words that nobody knew before, these users are too few"


def test_pairs_of_a_list_that_nobody_made_get_noise_too():
    selection = vote(noise_multiplier=3.0)
    cards = [
        found((), key_number(number), selection=selection, terms=True, glossary=LISTED)
        for number in range(150)
    ]
    # On average FALSE_KEYS of a list are told though nobody made them; without their noise, who made one would show.
    assert 4 <= sum(len(card.of(Feature.TERM)) for card in cards) <= 35
    assert {one.key for card in cards for one in card.of(Feature.TERM)} <= {written for written, _ in LISTED}


def test_other_pairs_of_a_list_have_the_same_noise_when_a_user_leaves():
    users = [*users_with_style(100), *(replacing(*LISTED[n % 3], 1) for n in range(120))]
    for number in range(3):
        both = [
            {
                (one.key, one.words): one.share
                for one in discovery.discover(
                    some,
                    vote(),
                    key_number(number),
                    declared_users=300,
                    voters=300,
                    terms=True,
                    glossary=LISTED,
                ).of(Feature.TERM)
            }
            for some in (users, [*users, replacing(*LISTED[7])])
        ]
        assert len(both[0]) >= 3
        assert {pair: share for pair, share in both[1].items() if pair != LISTED[7]} == {
            pair: share for pair, share in both[0].items() if pair != LISTED[7]
        }


@pytest.mark.parametrize("bug", ["weight", "keys"])
def test_a_vote_on_terms_that_weighs_or_holds_more_than_was_reserved_is_refused(monkeypatch, bug):
    if bug == "weight":
        monkeypatch.setattr("personalization.styles.families.BESIDE_TERMS", 1.0)
    else:
        monkeypatch.setattr("personalization.styles.votes.MOST_PAIRS", 20)
    with pytest.raises(StyleCardError, match="than was reserved"):
        found(users_with_style(10), terms=True)


LEADING = vote(noise_multiplier=2.4, unknown_keys=LEADING_KEYS)
FEW = {"selection": LEADING, "declared_users": 50}


def own_secret(number: int) -> UserTexts:
    secrets = (f"Zanzibar{letter}: it is so" for letter in "abcd")
    return UserTexts(texts=tuple(StyleText(prompt=f"p{number}", final=text) for text in secrets))


def test_a_leading_vote_tells_nothing_of_one_person_or_of_a_few():
    rng = random.Random(2)
    rare = [UserTexts(texts=(StyleText(prompt="p", final=f"Quorum: {said(rng)}"),)) for _ in range(3)]
    for number in range(30):
        told = json.dumps(
            found([*users_with_style(50), own_secret(1), *rare], key_number(number), **FEW).to_document()
        )
        assert "Zanzibar" not in told
        assert "Quorum" not in told


def test_who_leaves_a_leading_vote_moves_nothing_but_the_own_keys_and_their_shapes():
    users = [*users_with_style(50), own_secret(1)]
    for number in range(5):
        both = [
            {(one.feature, one.key, one.words): one.share for one in discovery.discover(
                some, LEADING, key_number(number), declared_users=50, voters=50
            ).entries}
            for some in (users, users[:-1])
        ]  # fmt: skip
        moved = {name for name in both[0].keys() | both[1].keys() if both[0].get(name) != both[1].get(name)}
        assert {name[0] for name in moved} <= {Feature.FRAMED, Feature.LENGTH}, (
            "public keys that this user holds too"
        )


def test_nobody_at_all_gives_a_leading_card_of_noise_on_public_keys_alone():
    entries = [one for number in range(300) for one in found((), key_number(number), **FEW).entries]
    assert all(one.feature in PUBLIC for one in entries)
    assert 1 <= len(entries) <= 20  # FALSE_WHERE_LED of a card


def test_a_leading_vote_that_gives_words_and_shape_of_one_answer_is_seen():
    families = families_for(50, 2.4, most_keys=LEADING_KEYS)
    user = UserTexts(texts=tuple(StyleText(prompt="p", final=f"N{letter}: a b") for letter in "abcd"))

    def outside(user):
        return {key: value for key, value in vote_of(user, families).items() if key.feature not in PUBLIC}

    def norm(user):
        return math.sqrt(sum(value**2 for value in vote_of(user, families).values()))

    one = UserTexts(texts=user.texts[:1])
    assert len(outside(user)) <= LEADING_KEYS
    assert norm(one) <= VOTE_UNIT
    families = (Family(feature=Feature.OPENING, weight=families[0].weight), *families)  # planted
    assert len(outside(user)) > LEADING_KEYS
    assert norm(one) > VOTE_UNIT


def test_a_shape_that_nobody_but_words_below_their_threshold_hold_is_not_told():
    users = [
        UserTexts(texts=(StyleText(prompt="p", final=f"Word{letter}: a b"),))
        for letter in "abcdefghijklmnop" * 3
    ]
    for number in range(10):  # every answer has the shape, but each word is of three users
        assert not found(users, key_number(number), **FEW).of(Feature.OPENING)
