"""The test over released histograms alarms no oftener than it says, and finds changes as soon as is stated."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from personalization.drift.detection import MOST_READINGS, judge, noticed_share, shares_of
from personalization.drift.features import FAMILIES, UNIT
from personalization.drift.values import DriftTerms, Histogram, Judgement
from personalization.errors import DriftError
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose

BEGAN = datetime(2026, 1, 5, tzinfo=UTC)
WEEK = timedelta(days=7)
USUAL = (
    (0.3, 0.3, 0.2, 0.15, 0.05),
    (0.5, 0.05, 0.1, 0.25, 0.1),
    (0.9, 0.04, 0.02, 0.02, 0.02),
    (1 / 12,) * 12,
    (0.7, 0.15, 0.1, 0.05),
)
LONGER = ((0.1, 0.2, 0.2, 0.2, 0.3), *USUAL[1:])
EDITED = (*USUAL[:4], (0.35, 0.15, 0.1, 0.4))


def reading(rng, week, *, users=500, noise=15.0, habits=USUAL):
    """Release what ``users`` users with these habits give in one week."""
    sums = []
    for family, shares in zip(FAMILIES, habits, strict=True):
        counts = rng.multinomial(users, shares) * family.weight
        sums += [round((count + rng.normal(0.0, noise)) * UNIT) for count in counts]
    return Histogram(
        sums=tuple(sums), noise_multiplier=noise, since=BEGAN + week * WEEK, until=BEGAN + (week + 1) * WEEK
    )


def line(seed, weeks, *, at=10**6, habits=LONGER, level=0.001, **options):
    """Judge a line's readings one after another until an alarm; (the week of it or None, the last judgement)."""
    rng, readings = np.random.default_rng(seed), []
    said = Judgement()
    for week in range(weeks):
        readings.append(reading(rng, week, habits=USUAL if week < at else habits, **options))
        said = judge(readings, level=level)
        if said.drifted:
            return week, said
    return None, said


def test_without_a_change_alarms_are_no_oftener_than_the_level_says():
    level, lines, weeks = 0.03, 40, 7
    alarmed = sum(line(seed, weeks, level=level)[0] is not None for seed in range(lines))
    expected = level * (weeks - 1) * lines  # 7.2 at most, were every test as often wrong as it may be
    assert alarmed <= expected + 3 * expected**0.5


def test_a_change_is_found_at_the_first_reading_or_soon_after_it_and_says_what_and_since_when():
    at = 5
    for habits, name in ((LONGER, "length"), (EDITED, "edits")):
        found = [line(seed, 14, at=at, habits=habits) for seed in range(12)]
        assert all(week is not None and week >= at for week, _ in found)
        delays = sorted(week - at + 1 for week, _ in found)
        assert delays[len(delays) // 2] <= 2
        assert delays[10] <= 4
        right = [one.family == name and one.since == BEGAN + at * WEEK for _, one in found]
        assert sum(right) >= 10


def test_a_small_change_needs_more_readings_and_many_users_fewer():
    small = ((0.25, 0.25, 0.2, 0.15, 0.15), *USUAL[1:])
    few = [line(seed, 16, at=4, habits=small, users=500) for seed in range(8)]
    many = [line(seed, 16, at=4, habits=small, users=5000) for seed in range(8)]
    assert all(week == 4 for week, _ in many)
    assert sum(week is not None and week == 4 for week, _ in few) <= 4


def test_fewer_users_are_no_drift_and_too_few_are_nothing():
    rng = np.random.default_rng(1)
    shrinking = [reading(rng, week, users=2000 if week < 3 else 800) for week in range(6)]
    assert not judge(shrinking, level=0.001).drifted
    nobody = [reading(rng, week, users=0) for week in range(4)]
    assert not judge(nobody, level=0.1).enough
    crowd = [
        reading(rng, week, users=500, noise=6.0, habits=USUAL if week < 2 else LONGER) for week in range(4)
    ]
    assert judge(crowd, level=0.001).drifted
    assert not judge(crowd, level=0.001, minimum_cohort=2000).enough


def test_the_same_few_users_every_week_are_no_evidence_of_many():
    """Forty users of fixed habits, then forty others: their variety is no drift, however often they were read."""
    rng = np.random.default_rng(4)
    alarmed = 0
    for _ in range(20):
        sides = [[rng.multinomial(40, shares) / 40 for shares in USUAL] for _ in range(2)]
        readings = []
        for week in range(12):
            sums = []
            for family, shares in zip(FAMILIES, sides[week >= 6], strict=True):
                sums += [round((40 * one * family.weight + rng.normal(0, 0.5)) * UNIT) for one in shares]
            until = BEGAN + (week + 1) * WEEK
            readings.append(
                Histogram(sums=tuple(sums), noise_multiplier=0.5, since=until - WEEK, until=until)
            )
        alarmed += judge(readings, level=0.01).drifted
    assert alarmed <= 2


def test_one_reading_says_nothing_and_only_the_newest_ones_are_looked_at():
    rng = np.random.default_rng(2)
    one = reading(rng, 0)
    assert judge([one], level=0.1) == Judgement(users=judge([one], level=0.1).users, compared=1)
    assert judge([], level=0.1) == Judgement()
    many = [reading(rng, week) for week in range(MOST_READINGS + 5)]
    assert judge(many, level=0.1).compared == MOST_READINGS
    assert judge(many, level=0.1) == judge(many[5:], level=0.1)
    assert sum(shares_of(one, 0)) == pytest.approx(1.0, abs=0.01)
    assert judge([one], level=0.1).users == pytest.approx(500, abs=90)


def test_what_can_be_noticed_shrinks_with_users_and_grows_with_noise():
    assert noticed_share(15, 5000, 0.001) < noticed_share(15, 500, 0.001) < noticed_share(40, 500, 0.001)
    share = noticed_share(15.0, 500, 0.001)
    moved = (*USUAL[:4], (0.7 - share, 0.15, 0.1, 0.05 + share))
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        pair = [reading(rng, 0), reading(rng, 1, habits=moved)]
        found += judge(pair, level=0.001).drifted
    assert found >= 24  # nine of ten, less what chance allows


def test_values_are_read_back_equal_and_damage_is_refused():
    rng = np.random.default_rng(3)
    one = reading(rng, 0)
    assert Histogram.from_document(one.to_document()) == one
    said = line(1, 12, at=4)[1]
    assert Judgement.from_document(said.to_document()) == said
    terms = DriftTerms(
        mechanism=Gaussian(sensitivity=1.0, standard_deviation=9.0, purpose=ReadPurpose.DRIFT),
        since=BEGAN, until=BEGAN + WEEK, contribution_bound=3, level=0.001, on_drift="alarm", minimum_cohort=20,
        policy_version=1, told_at=BEGAN + WEEK, ends_at=BEGAN + 2 * WEEK,
    )  # fmt: skip
    assert DriftTerms.from_json(terms.to_json()) == terms
    assert terms.digest() != replace(terms, level=0.01).digest()
    for text in ("{", "{}", terms.to_json().replace("drift-terms.v1", "drift-terms.v9"),
                 terms.to_json().replace('"purpose": "drift"', '"purpose": "kpi"')):  # fmt: skip
        with pytest.raises(DriftError):
            DriftTerms.from_json(text)
    for document in ({}, {**one.to_document(), "bins": "other"}, {**one.to_document(), "sums": [1]}):
        with pytest.raises(DriftError):
            Histogram.from_document(document)
    with pytest.raises(DriftError):
        Judgement.from_document({})
