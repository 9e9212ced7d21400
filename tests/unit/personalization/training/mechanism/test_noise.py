"""Training's face of the secret noise: the numbers of a key are frozen, and users are drawn by independent coins."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from personalization.training.mechanism.noise import add_noise, draw_users
from privacy.noise import normal
from privacy.noise.keystream import PURPOSE_GRADIENT, SecretStream
from privacy.noise.normal import NoiseRow

KEY = bytes(range(32))
ROWS = [NoiseRow(0, SecretStream(KEY), 0.7), NoiseRow(2, SecretStream(bytes([7] * 32)), 3.0)]
SUMS = (torch.arange(3 * 70001, dtype=torch.float32).reshape(3, 70001) % 97) / 31


@pytest.mark.parametrize(
    ("sums", "purpose", "step", "digest"),
    [
        (SUMS, PURPOSE_GRADIENT, 5, "46617d5347f5af45b9a0cbb5d5506e52bbe4c7280e4a9aa10c6069e8e5f6af4e"),
        (
            SUMS.double()[:, :501],
            b"abcd",
            2**40,
            "c3ad229d73e20ce7b5dd8997dc6fa403d02ec7b764a58af8b552f0cd8be91a6f",
        ),
    ],
)
def test_the_noise_of_a_key_is_frozen(sums, purpose, step, digest):
    """An interrupted round is repeated with its key: other numbers would be another release."""
    noisy = add_noise(sums, ROWS, purpose, step)
    assert hashlib.sha256(noisy.numpy().tobytes()).hexdigest() == digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_tensor_gets_the_noise_of_its_numbers(dtype, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    sums = SUMS.to(dtype)
    before = sums.clone()
    noisy = add_noise(sums, ROWS, PURPOSE_GRADIENT, 6)
    assert noisy.dtype == dtype
    assert torch.equal(sums, before)
    assert np.array_equal(noisy.numpy(), normal.add_noise(sums.numpy(), ROWS, PURPOSE_GRADIENT, 6))


def test_users_are_drawn_by_independent_coins():
    stream = SecretStream(KEY)
    counts = [len(draw_users(stream, step, 1000, 0.1)) for step in range(200)]
    # Poisson sampling: the size varies like a binomial, it is not fixed.
    assert 95 < sum(counts) / len(counts) < 105
    assert 60 < np.var(counts) < 130
    assert draw_users(stream, 0, 5, 1.0) == [0, 1, 2, 3, 4]
    assert draw_users(stream, 0, 0, 0.5) == []


def test_one_more_user_changes_no_other_users_coin():
    stream = SecretStream(KEY)
    assert draw_users(stream, 4, 50, 0.3) == [user for user in draw_users(stream, 4, 51, 0.3) if user < 50]


def test_the_coins_of_a_key_are_frozen():
    assert draw_users(SecretStream(bytes([7] * 32)), 4, 40, 0.3) == [
        2, 5, 6, 7, 12, 14, 16, 18, 19, 22, 24, 29, 32, 39,
    ]  # fmt: skip
