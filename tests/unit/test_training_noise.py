"""The secret noise: a known keystream, independent draws, the right distribution, the same again for the same key."""

from __future__ import annotations

import math

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from personalization.training.noise import (
    PURPOSE_DRAW,
    PURPOSE_GRADIENT,
    SecretStream,
    draw_users,
    gaussian_from_words,
    unit_interval,
)

KEY = bytes(range(32))


def test_words_are_the_chacha20_keystream():
    nonce = bytes(4) + b"grad" + (7).to_bytes(8, "little")
    expected = Cipher(algorithms.ChaCha20(KEY, nonce), mode=None).encryptor().update(bytes(80))
    assert SecretStream(KEY).words(b"grad", 7, 10).numpy().tobytes() == expected


def test_same_name_same_numbers_other_name_other_numbers():
    stream = SecretStream(KEY)
    first = stream.gaussian(PURPOSE_GRADIENT, 0, 100)
    assert torch.equal(first, SecretStream(KEY).gaussian(PURPOSE_GRADIENT, 0, 100))
    for other in (
        stream.gaussian(PURPOSE_GRADIENT, 1, 100),
        stream.gaussian(PURPOSE_DRAW, 0, 100),
        SecretStream(bytes(32)).gaussian(PURPOSE_GRADIENT, 0, 100),
    ):
        assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.4


def test_gaussian_has_a_normal_distribution():
    numbers = SecretStream(KEY).gaussian(PURPOSE_GRADIENT, 3, 200_001)
    assert numbers.dtype == torch.float64
    assert numbers.shape == (200_001,)
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-3
    # Both outputs of one Box–Muller draw are used, a half apart: they must not be correlated.
    half = 100_000
    assert abs(float(torch.corrcoef(torch.stack([numbers[:half], numbers[half + 1 :]]))[0, 1])) < 0.02


def test_extreme_words_stay_finite():
    for word in (0, -1, 1, 2**63 - 1, -(2**63)):
        words = torch.full((16,), word, dtype=torch.int64)
        assert torch.isfinite(gaussian_from_words(words)).all()
        assert (unit_interval(words) >= 0).all()
        assert (unit_interval(words) < 1).all()


def test_a_number_is_the_half_sum_of_four_draws():
    words = SecretStream(KEY).words(PURPOSE_GRADIENT, 0, 8)
    radius = [math.sqrt(-2 * math.log(1 - float(u))) for u in unit_interval(words[:4])]
    angle = [2 * math.pi * float(u) for u in unit_interval(words[4:])]
    expected = [
        sum(r * math.cos(a) for r, a in zip(radius, angle, strict=True)) / 2,
        sum(r * math.sin(a) for r, a in zip(radius, angle, strict=True)) / 2,
    ]
    assert SecretStream(KEY).gaussian(PURPOSE_GRADIENT, 0, 2).tolist() == pytest.approx(expected, rel=1e-12)


def test_users_are_drawn_by_independent_coins():
    stream = SecretStream(KEY)
    counts = [len(draw_users(stream, step, 1000, 0.1)) for step in range(200)]
    # Poisson sampling: the size varies like a binomial, it is not fixed.
    assert 95 < sum(counts) / len(counts) < 105
    assert 60 < torch.tensor(counts, dtype=torch.float64).var() < 130
    assert draw_users(stream, 0, 5, 1.0) == [0, 1, 2, 3, 4]
    assert draw_users(stream, 0, 0, 0.5) == []


def test_one_more_user_changes_no_other_users_coin():
    stream = SecretStream(KEY)
    assert draw_users(stream, 4, 50, 0.3) == [user for user in draw_users(stream, 4, 51, 0.3) if user < 50]


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_key_of_another_length_is_refused(key):
    with pytest.raises(ValueError, match="32"):
        SecretStream(key)


def test_purpose_has_four_bytes():
    with pytest.raises(ValueError, match="four bytes"):
        SecretStream(KEY).words(b"gradient", 0, 1)
