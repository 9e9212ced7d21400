"""Looking at reactions again and again does not cheat, and a difference is found: a seeded slice of the simulation."""

from __future__ import annotations

import pytest

from personalization.rollouts.comparing import compare, release
from personalization.rollouts.evidence import Verdict
from privacy.mechanisms.noisy_comparison import Arms, NoisyComparison, Sums
from privacy.noise.keystream import SecretStream
from tests.fakes.reactions import shares

MECHANISM = NoisyComparison(noise_multiplier=4.23, looks=4)  # ε = 1 at δ = 1e-6
EVEN = Arms(share=0.5)
USERS = 1_300  # with 80 % power to find ten points at ε = 1


def test_alike_candidates_are_seldom_called_different():
    for arms in (EVEN, Arms(share=0.1)):
        ended = shares(1, MECHANISM, arms, runs=300, users=USERS)
        assert ended[Verdict.BETTER] + ended[Verdict.WORSE] <= 0.05


def test_ten_points_are_found_in_either_direction():
    assert shares(2, MECHANISM, EVEN, runs=200, users=USERS, effect=0.1)[Verdict.BETTER] >= 0.75
    assert shares(3, MECHANISM, EVEN, runs=200, users=USERS, effect=-0.1)[Verdict.WORSE] >= 0.75


def test_released_sums_of_real_parts_say_what_they_are():
    stream = SecretStream(b"k" * 32)
    parts = [EVEN.part(0.9, candidate=True)] * 400 + [EVEN.part(0.1, candidate=False)] * 400
    looks = [release(MECHANISM, parts, stream, look) for look in range(2)]
    assert looks[0] != looks[1], "each look has noise of its own"
    assert looks[0] == release(MECHANISM, parts, stream, 0), "a repeat has the same"
    found = compare(MECHANISM, EVEN, looks, expected_users=1_600)
    assert found.verdict is Verdict.BETTER
    assert found.effect == pytest.approx(0.8, abs=0.1)
    assert found.users == pytest.approx(1_600, rel=0.1)
    with pytest.raises(ValueError, match="0 to 3"):
        release(MECHANISM, parts, stream, 4)


def test_an_arm_that_answers_more_often_decides_nothing():
    parts = [EVEN.part(1.0, candidate=True)] * 900 + [EVEN.part(0.0, candidate=False)] * 300
    totals = Sums(*(sum(column) for column in zip(*parts, strict=True)))
    assert compare(MECHANISM, EVEN, [totals], expected_users=1_200).verdict is Verdict.UNDECIDED


def test_nothing_found_by_the_last_look_is_undecided():
    assert compare(MECHANISM, EVEN, [Sums(0, 0, 0, 0)], expected_users=100).verdict is Verdict.NONE
    assert compare(MECHANISM, EVEN, [Sums(0, 0, 0, 0)] * 4, expected_users=100).verdict is Verdict.UNDECIDED
    for looks in ([], [Sums(0, 0, 0, 0)] * 5):
        with pytest.raises(ValueError, match="allowed are 1 to 4"):
            compare(MECHANISM, EVEN, looks, expected_users=100)
