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
    box_muller,
    draw_users,
    gaussians,
)

KEY = bytes(range(32))


def test_numbers_are_the_chacha20_keystream():
    nonce = bytes(4) + b"draw" + (7).to_bytes(8, "little")
    stream = Cipher(algorithms.ChaCha20(KEY, nonce), mode=None).encryptor().update(bytes(80))
    words = [int.from_bytes(stream[at : at + 8], "little") % 2**52 for at in range(0, 80, 8)]
    assert SecretStream(KEY).uniform(b"draw", 7, 10).tolist() == [word / 2**52 for word in words]


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
    # Both outputs of one Box–Muller draw are used, half a block apart: they must not be correlated.
    block = numbers[: 1 << 13].view(2, -1)
    assert abs(float(torch.corrcoef(block)[0, 1])) < 0.06


def test_extreme_uniform_numbers_stay_finite():
    for value in (1.0, 1.0 + 2**-52, 1.5, 2.0 - 2**-52):
        assert torch.isfinite(box_muller(torch.full((16,), value, dtype=torch.float64))).all()


def test_a_number_is_the_half_sum_of_four_draws():
    uniform = 1.0 + SecretStream(KEY).uniform(PURPOSE_GRADIENT, 0, 8)
    radius = [math.sqrt(-2 * math.log(2 - u)) for u in uniform[:4]]
    angle = [2 * math.pi * u for u in uniform[4:]]
    expected = [
        sum(r * math.cos(a) for r, a in zip(radius, angle, strict=True)) / 2,
        sum(r * math.sin(a) for r, a in zip(radius, angle, strict=True)) / 2,
    ]
    assert SecretStream(KEY).gaussian(PURPOSE_GRADIENT, 0, 2).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 8191, 8192, 8193, 20_001])
def test_a_stream_gives_the_same_row_beside_others(count):
    streams = [SecretStream(bytes([n] * 32)) for n in range(5)]
    together = gaussians(streams, PURPOSE_GRADIENT, 2, count)
    assert together.shape == (5, count)
    for stream, row in zip(streams, together, strict=True):
        assert torch.equal(row, stream.gaussian(PURPOSE_GRADIENT, 2, count))


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
        SecretStream(KEY).uniform(b"gradient", 0, 1)
