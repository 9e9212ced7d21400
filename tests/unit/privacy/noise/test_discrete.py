"""The discrete Gaussian: repeatable under its key, with the charged spread; and keys derived for one use each."""

from __future__ import annotations

import math
import random

from privacy.noise.discrete import discrete_gaussian
from privacy.noise.keystream import PURPOSE_COUNT, KeyUse, SecretStream, derive_key

KEY = bytes(range(32))


def noise(key, deviation=4.0):
    return discrete_gaussian(SecretStream(key), PURPOSE_COUNT, 0, deviation)


def test_the_noise_of_a_count_is_repeatable_and_has_the_charged_deviation():
    seeds = random.Random(5)
    keys = [derive_key(seeds.randbytes(32), KeyUse.COUNT) for _ in range(3000)]
    draws = [noise(key) for key in keys]
    assert draws[:50] == [noise(key) for key in keys[:50]]
    mean = sum(draws) / len(draws)
    deviation = math.sqrt(sum((one - mean) ** 2 for one in draws) / len(draws))
    assert abs(mean) < 0.4
    assert 3.75 < deviation < 4.25


def test_the_noise_and_the_keys_of_a_seed_are_frozen():
    """An interrupted round repeats its count; other numbers would be another release."""
    assert [noise(KEY, deviation) for deviation in (0.5, 1.0, 3.7, 55.3, 1000)] == [0, -1, -1, -25, 1185]
    assert [derive_key(KEY, use).hex()[:16] for use in (KeyUse.DIGEST, KeyUse.TRAINING, KeyUse.COUNT)] == [
        "34c6bdc06ad003cb",
        "d45a2ecd7d963c9d",
        "d48ea560723c08ca",
    ]
    assert len({derive_key(KEY, use) for use in KeyUse}) == len(KeyUse)
