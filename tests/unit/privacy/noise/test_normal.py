"""The secret noise: a known keystream, independent draws, the right distribution, the same again for the same key."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from privacy.noise import lattice, normal
from privacy.noise.keystream import PURPOSE_DRAW, PURPOSE_GRADIENT, SecretStream
from privacy.noise.normal import NoiseRow, box_muller, gaussians, whole_noise

KEY = bytes(range(32))
SMALL = 1 << 13  # pairs a block in most tests


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(normal, "BLOCK_PAIRS", SMALL)


@pytest.fixture(scope="module")
def numbers():
    """A million numbers of one stream."""
    return numbers_of(SecretStream(KEY), 3, 1_000_001)


def keystream_words(key, purpose, step, count):
    nonce = bytes(4) + purpose + step.to_bytes(8, "little")
    octets = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(bytes(8 * count))
    return [int.from_bytes(octets[at : at + 8], "little") for at in range(0, 8 * count, 8)]


def numbers_of(stream, step, count, purpose=PURPOSE_GRADIENT):
    return gaussians([stream], purpose, step, count)[0]


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def test_numbers_are_the_chacha20_keystream():
    words = [word % 2**52 for word in keystream_words(KEY, b"draw", 7, 10)]
    assert SecretStream(KEY).uniform(b"draw", 7, 10).tolist() == [word / 2**52 for word in words]


def test_a_normal_number_is_one_box_muller_number_of_two_keystream_words():
    words = [signed(word) for word in keystream_words(KEY, PURPOSE_GRADIENT, 5, 8)]
    radius = [math.sqrt(-2 * math.log(abs(word + 0.5) / 2**63)) for word in words[:4]]
    angle = [math.pi * word / 2**63 for word in words[4:]]
    expected = [r * math.cos(a) for r, a in zip(radius, angle, strict=True)]
    expected += [r * math.sin(a) for r, a in zip(radius, angle, strict=True)]
    actual = numbers_of(SecretStream(KEY), 5, 8).tolist()
    assert actual == pytest.approx(expected, abs=2**-46)


def test_blocks_of_one_row_never_share_keystream(small_blocks):
    count = 4 * SMALL + 6
    words = np.array([signed(w) for w in keystream_words(KEY, PURPOSE_GRADIENT, 0, count)])
    expected, at = [], 0
    for pairs in (SMALL, SMALL, 3):
        block = words[at : at + 2 * pairs].reshape(2, 1, pairs)
        magnitudes = np.abs(block[0].astype(np.float64) + 0.5)
        expected.append(box_muller(magnitudes, block[1], np.ones((1, 1)))[0])
        at += 2 * pairs
    assert np.array_equal(numbers_of(SecretStream(KEY), 0, count), np.concatenate(expected))


def test_same_name_same_numbers_other_name_other_numbers():
    stream = SecretStream(KEY)
    first = numbers_of(stream, 0, 10_000)
    assert np.array_equal(first, numbers_of(SecretStream(KEY), 0, 10_000))
    for other in (
        numbers_of(stream, 1, 10_000),
        numbers_of(stream, 0, 10_000, PURPOSE_DRAW),
        numbers_of(SecretStream(bytes(32)), 0, 10_000),
    ):
        # Five standard deviations of the correlation of independent numbers.
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.05


def test_gaussian_has_a_normal_distribution(numbers):
    assert numbers.dtype == np.float64
    assert numbers.shape == (1_000_001,)
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert stats.kstest(np.abs(numbers), "halfnorm").pvalue > 1e-3


@pytest.mark.parametrize(("power", "expected"), [(1, 0), (2, 1), (3, 0), (4, 3), (5, 0), (6, 15), (8, 105)])
def test_moments_are_those_of_the_normal_distribution(numbers, power, expected):
    higher = math.prod(range(2 * power - 1, 0, -2))  # E x^(2·power)
    error = math.sqrt((higher - expected**2) / len(numbers))
    assert abs((numbers**power).mean() - expected) < 4.5 * error


@pytest.mark.parametrize("beyond", [1.0, 2.0, 3.0, 4.0, 4.5])
def test_tails_have_the_right_weight(numbers, beyond):
    expected = len(numbers) * stats.norm.sf(beyond)
    for tail in (numbers > beyond, numbers < -beyond):
        assert abs(tail.sum() - expected) < 4.5 * math.sqrt(expected) + 1


def test_numbers_of_a_pair_and_neighbors_are_independent(numbers):
    half = numbers[: 1 << 16].reshape(2, -1)  # both members of each pair of the first block
    for left, right in ((half[0], half[1]), (numbers[:-1], numbers[1:])):
        limit = 4.5 / math.sqrt(len(left))
        assert abs(np.corrcoef(left, right)[0, 1]) < limit
        assert abs(np.corrcoef(left**2, right**2)[0, 1]) < limit


def test_rows_and_steps_are_independent():
    rows = np.concatenate(
        [
            gaussians([SecretStream(bytes([n]) * 32) for n in range(8)], PURPOSE_GRADIENT, step, 20_000)
            for step in range(4)
        ]
    )
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5.5 / math.sqrt(20_000)


def test_extreme_words_stay_finite():
    words = np.array([[-(2**63), -1, 0, 1, 2**63 - 1, 2**62, -(2**62)]])
    for radius in words[0]:
        magnitudes = normal.magnitudes_of(np.full_like(words, radius))
        assert np.isfinite(box_muller(magnitudes, words, np.ones((1, 1)))).all()
    smallest = box_muller(np.array([[2.0**-65]]), np.array([[0]]), np.ones((1, 1)))
    assert smallest[0, 0] == pytest.approx(
        math.sqrt(2 * 128 * math.log(2))
    )  # 13.3: nothing is cut off before


def test_small_radius_words_get_further_bits(monkeypatch):
    """The far tail is refined by bits that belong to the pair alone, whichever block or row it stands in."""
    plain = numbers_of(SecretStream(KEY), 0, 3 * SMALL)
    monkeypatch.setattr(normal, "_REFINED_BELOW", 2.0**58)  # one word in 32 instead of one in a million
    words = keystream_words(KEY, PURPOSE_GRADIENT, 0, 3 * SMALL)
    further = keystream_words(KEY, PURPOSE_GRADIENT, 2**63, 3 * SMALL // 2)
    pairs = 3 * SMALL // 2
    refined = numbers_of(SecretStream(KEY), 0, 3 * SMALL)
    few = [pair for pair in range(pairs) if abs(signed(words[pair]) + 0.5) < 2.0**58]
    assert 100 < len(few) < 1000
    for pair in few:
        magnitude = math.floor(abs(signed(words[pair]) + 0.5)) + (further[pair] + 0.5) / 2**64
        radius = math.sqrt(-2 * math.log(magnitude / 2**63))
        assert math.hypot(refined[pair], refined[pair + pairs]) == pytest.approx(radius, rel=1e-14)
    asked = []
    keystream = SecretStream.keystream
    with monkeypatch.context() as patch:
        patch.setattr(
            SecretStream, "keystream", lambda self, *of: asked.append(of[1]) or keystream(self, *of)
        )
        numbers_of(SecretStream(KEY), 5, 3 * SMALL)
    assert set(asked) == {
        5,
        2**63 + 5,
    }  # the further bits have a keystream of their own, and each step its own
    others = np.ones(pairs, dtype=bool)
    others[few] = False
    assert np.array_equal(refined[:pairs][others], plain[:pairs][others])
    beside = gaussians([SecretStream(bytes(32)), SecretStream(KEY)], PURPOSE_GRADIENT, 0, 3 * SMALL)
    assert np.array_equal(beside[1], refined)


@pytest.mark.parametrize("count", [0, 1, 2, 5, SMALL - 1, 2 * SMALL - 1, 2 * SMALL, 2 * SMALL + 1, 40_001])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_stream_gives_the_same_row_beside_others(small_blocks, count, threads):
    streams = [SecretStream(bytes([n] * 32)) for n in range(5)]
    together = gaussians(streams, PURPOSE_GRADIENT, 2, count, threads=threads)
    assert together.shape == (5, count)
    for stream, row in zip(streams, together, strict=True):
        assert np.array_equal(row, numbers_of(stream, 2, count))


def test_whole_noise_is_the_streams_own_numbers_times_the_deviation_rounded():
    streams = [SecretStream(bytes([n]) * 32) for n in range(4)]
    deviations = [0.3, 2.0**15, 1.7 * 2**20, 1e4 * 2**20]
    rows = [NoiseRow(stream, deviation) for stream, deviation in zip(streams, deviations, strict=True)]
    noise = whole_noise(rows, PURPOSE_GRADIENT, 6, 5001)
    assert noise.dtype == np.int64
    for numbers, one in zip(noise, rows, strict=True):
        exact = one.deviation * numbers_of(one.stream, 6, 5001)
        # Scaled inside the method of Box and Muller, so the last digits differ; almost never the whole number.
        assert np.abs(numbers - exact).max() <= 0.5 + 1e-13 * one.deviation
        assert np.count_nonzero(numbers != np.rint(exact)) <= 1 + 1e-13 * one.deviation * len(exact)


@pytest.mark.parametrize("count", [1, 2 * SMALL, 40_001])
@pytest.mark.parametrize("threads", [1, 2])
def test_whole_noise_of_a_row_is_the_same_beside_others(small_blocks, count, threads):
    rows = [NoiseRow(SecretStream(bytes([n] * 32)), 2.0**20 * (n + 1)) for n in range(5)]
    together = whole_noise(rows, PURPOSE_GRADIENT, 2, count, threads=threads)
    for row, numbers in zip(rows, together, strict=True):
        assert np.array_equal(numbers, whole_noise([row], PURPOSE_GRADIENT, 2, count)[0])


def test_released_points_are_as_likely_as_the_normal_distribution_says():
    """Frequencies of single multiples of the coarse lattice around a sum that lies between two of them."""
    count, deviation = 400_000, 1.5 * 2.0**20
    bits = lattice.coarse_bits(deviation)
    step, total = 1 << bits, 1234
    noisy = total + whole_noise([NoiseRow(SecretStream(KEY), deviation)], PURPOSE_GRADIENT, 1, count)[0]
    multiples = (noisy + step // 2) >> bits
    points = np.arange(-1152, 1153)  # three standard deviations
    seen = np.array([np.count_nonzero(multiples == point) for point in points])
    edges = ((np.append(points, points[-1] + 1) - 0.5) * step - 0.5 - total) / deviation
    expected = count * np.diff(stats.norm.cdf(edges))
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_key_of_another_length_is_refused(key):
    with pytest.raises(ValueError, match="32"):
        SecretStream(key)


def test_purpose_has_four_bytes():
    with pytest.raises(ValueError, match="four bytes"):
        SecretStream(KEY).uniform(b"gradient", 0, 1)
