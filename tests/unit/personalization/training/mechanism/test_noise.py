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
ROWS = {0: NoiseRow(SecretStream(KEY), 0.7 * 2**20), 2: NoiseRow(SecretStream(bytes([7] * 32)), 3.0 * 2**20)}
SUMS = (torch.arange(3 * 70001).reshape(3, 70001) % 97) << 18


@pytest.mark.parametrize(
    ("sums", "purpose", "step", "digest"),
    [
        (SUMS, PURPOSE_GRADIENT, 5, "9cdd0e475683137cd482905e14d4c1dcaddd063648083c1ca49ec5179a90959c"),
        (SUMS[:, :501], b"abcd", 2**40, "3b0423fec4469038019c65e3d8549b24e805a96f15c231fc4f1948f290f23560"),
    ],
)
def test_the_noise_of_a_key_is_frozen(sums, purpose, step, digest):
    """An interrupted round is repeated with its key: other numbers would be another release.

    In the multiples that are released, which another processor's last digits do not reach.
    """
    noisy = (add_noise(sums, ROWS, purpose, step) + 1024) >> 11
    assert hashlib.sha256(noisy.numpy().tobytes()).hexdigest() == digest


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "rows", [ROWS, {0: ROWS[0], 1: ROWS[0], 2: ROWS[2]}, {}], ids=["some", "all", "none"]
)
def test_sums_get_whole_noise_that_no_sum_has_a_part_in(rows, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    before = SUMS.clone()
    noise = add_noise(SUMS, rows, PURPOSE_GRADIENT, 6) - SUMS
    assert noise.dtype == torch.int64
    assert torch.equal(SUMS, before)
    assert torch.equal(noise, add_noise(torch.zeros_like(SUMS), rows, PURPOSE_GRADIENT, 6))
    for number in range(len(SUMS)):
        expected = torch.zeros(SUMS.shape[1], dtype=torch.int64)
        if number in rows:
            expected = torch.from_numpy(
                normal.whole_noise([rows[number]], PURPOSE_GRADIENT, 6, SUMS.shape[1])[0]
            )
        assert torch.equal(noise[number], expected)


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
