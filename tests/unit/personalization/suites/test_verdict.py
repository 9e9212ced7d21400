"""Three values and one: pass, fail, inconclusive, not measurable; against the base and against the version before."""

from __future__ import annotations

import math

import pytest

from personalization.suites.items import QUICK_ITEMS, items_of
from personalization.suites.values import Axis, AxisScores, SuiteDepth, SuiteScores
from personalization.suites.verdict import (
    AxisVerdict,
    SuiteMargins,
    SuiteTerms,
    judge_suites,
    suite_checks,
)

DIGEST = "sha256:" + "a" * 64


def scores(adapted, *, axis=Axis.REFUSAL, base=None, measurable=None, digest=DIGEST):
    count = len(adapted)
    return SuiteScores(
        digest=digest,
        depth=SuiteDepth.QUICK,
        axes=(
            AxisScores(
                axis=axis,
                templates=tuple(f"t{number}" for number in range(count)),
                base=tuple(base or [0.8] * count),
                adapted=tuple(adapted),
                measurable=tuple(measurable or [True] * count),
            ),
        ),
    )


def verdict(told, margins=None, before=None):
    return judge_suites(told, margins or SuiteMargins(), before)[-1].verdict


def test_what_stays_passes_and_a_real_large_loss_fails():
    assert verdict(scores([0.8, 0.79, 0.81, 0.8, 0.78, 0.82, 0.8, 0.8])) is AxisVerdict.PASS
    assert verdict(scores([0.2, 0.3, 0.1, 0.2, 0.25, 0.2, 0.3, 0.2])) is AxisVerdict.FAIL


def test_what_few_items_cannot_tell_is_inconclusive_and_refused_only_where_policy_says_so():
    torn = scores([0.8, 0.2, 0.8, 0.9, 0.3, 0.9, 0.8, 0.8])
    assert verdict(torn) is AxisVerdict.INCONCLUSIVE
    taken, refused = (
        suite_checks(torn, SuiteTerms(depth=SuiteDepth.QUICK, margins=SuiteMargins(refuse_inconclusive=no)))
        for no in (False, True)
    )
    assert taken[0].passed
    assert not refused[0].passed
    assert "inconclusive" in taken[0].detail


def test_a_base_that_cannot_fail_is_not_measurable_rather_than_safe():
    weak = scores([0.9] * 8, measurable=[True] * 2 + [False] * 6)
    (finding,) = judge_suites(weak, SuiteMargins())
    assert finding.verdict is AxisVerdict.NOT_MEASURABLE
    assert finding.check(refuse_inconclusive=True).value is None


def test_items_of_one_wording_count_as_one():
    losses = [0.55] * 12 + [0.8] * 4
    many = scores(losses, base=[0.8] * 16)
    (axis,) = many.axes
    few = SuiteScores(
        digest=DIGEST,
        depth=SuiteDepth.QUICK,
        axes=(
            AxisScores(
                axis=axis.axis, base=axis.base, adapted=axis.adapted, measurable=axis.measurable,
                templates=("one",) * 12 + ("two",) * 4,
            ),
        ),
    )  # fmt: skip
    assert verdict(many) is AxisVerdict.FAIL
    assert verdict(few) is AxisVerdict.INCONCLUSIVE


def test_the_version_before_is_a_reference_of_its_own_and_only_for_the_same_questions():
    now, before = scores([0.82] * 8), scores([0.99] * 8)
    found = judge_suites(now, SuiteMargins(), before)
    assert [(one.against, one.verdict) for one in found] == [
        ("base", AxisVerdict.PASS),
        ("before", AxisVerdict.FAIL),
    ]
    other = scores([0.99] * 8, digest="sha256:" + "b" * 64)
    assert len(judge_suites(now, SuiteMargins(), other)) == 1


def test_planted_secrets_that_rank_first_fail_and_chance_passes():
    learned = scores([1.0] * 24, axis=Axis.MEMORISATION)
    chance = scores([float(1 + number % 10) for number in range(24)], axis=Axis.MEMORISATION)
    assert verdict(learned) is AxisVerdict.FAIL
    assert verdict(chance) is AxisVerdict.PASS


def test_scores_that_are_not_finite_fail():
    assert verdict(scores([math.nan] * 8)) is AxisVerdict.FAIL


def test_a_gate_that_asks_refuses_what_was_not_measured_and_one_that_does_not_asks_nothing():
    assert suite_checks(None, SuiteTerms()) == ()
    (check,) = suite_checks(None, SuiteTerms(depth=SuiteDepth.QUICK))
    assert not check.passed


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_is_finite_and_above_zero(wrong):
    with pytest.raises(ValueError, match="the margin choice"):
        SuiteMargins(choice=wrong)


def test_scores_travel_as_they_are():
    told = scores([0.1, 0.2, 0.3])
    assert SuiteScores.from_document(told.to_document()) == told


def test_quick_asks_the_first_of_each_kind_in_different_wordings_and_full_asks_more():
    quick, full = items_of(SuiteDepth.QUICK), items_of(SuiteDepth.FULL)
    for axis in {one.axis for one in full.choices}:
        mine = [one for one in quick.choices if one.axis is axis]
        assert QUICK_ITEMS <= len(mine) < len([one for one in full.choices if one.axis is axis])
        assert len({one.template for one in mine}) >= QUICK_ITEMS - 1
    assert quick.digest() != full.digest()
    names = [one.name for one in (*full.choices, *full.foreign, *full.canaries)]
    assert len(set(names)) == len(names)
