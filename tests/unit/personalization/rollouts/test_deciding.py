"""Every decision about a rollout, from values alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from personalization.rollouts.deciding import LOOK, SENTENCES, Cause, decide, look_at
from personalization.rollouts.evidence import Evidence, Reading, Verdict
from personalization.rollouts.values import ComparisonPlan, Flag, Mode, Plan, Rollout, Stage
from privacy.mechanisms.noisy_comparison import NoisyComparison
from privacy.policy.rollout import Decide, Undecided

START = datetime(2026, 1, 5, tzinfo=UTC)
PLAN = Plan(steps=(1.0, 25.0), bake_seconds=600, guards=(("error_rate", 0.05),))
COMPARISON = ComparisonPlan(
    mechanism=NoisyComparison(noise_multiplier=4.9, looks=4),
    share=0.25,
    look_seconds=600,
    reactions_per_user=5,
    reacting_users=1_000,
)
GOOD = Evidence(checks_passed=True, verified=1)


def at(seconds):
    return START + timedelta(seconds=seconds)


def rollout(stage=Stage.CANARY, step=0, **changes):
    return Rollout(
        **{"stage": stage, "step": step, "candidate": "c", "entered_at": START, "plan": PLAN, **changes}
    )


def measured(value, seconds, **changes):
    reading = Reading(name="error_rate", value=value, at=at(seconds))
    return replace(GOOD, readings=(reading,), **changes)


def moved(stands, evidence, seconds):
    transition = decide(stands, evidence, at(seconds))
    return None if transition is None else (transition.after.stage, transition.after.step, transition.cause)


def test_a_candidate_waits_for_a_server_and_is_left_when_none_comes():
    stands = rollout(Stage.CANDIDATE, -1)
    unseen = Evidence(checks_passed=True)
    assert moved(stands, unseen, 599) is None
    assert moved(stands, unseen, 600) == (Stage.ROLLED_BACK, -1, Cause.NOT_SERVED)
    assert moved(stands, GOOD, 0) == (Stage.CANARY, 0, Cause.ADVANCED)
    assert moved(replace(stands, plan=replace(PLAN, served=False)), unseen, 0)[0] is Stage.CANARY
    assert moved(stands, replace(unseen, failed=1), 599) is None, "a server that failed tries again"
    assert moved(stands, replace(GOOD, failed=1), 0) == (Stage.CANARY, 0, Cause.ADVANCED)
    assert moved(stands, replace(GOOD, checks_passed=False), 0)[2] is Cause.CHECKS_FAILED
    assert decide(stands, GOOD, at(-1)) is None, "nothing moves before the instant of its slot"


def test_a_canary_advances_after_its_bake_with_guards_that_are_there_and_healthy():
    assert moved(rollout(), measured(0.01, 100), 599) is None
    assert moved(rollout(), measured(0.01, 100), 600) == (Stage.CANARY, 1, Cause.ADVANCED)
    assert moved(rollout(step=1), measured(0.01, 100), 600) == (Stage.PROMOTED, 1, Cause.PROMOTED)
    assert moved(rollout(), measured(0.05, 100), 600)[0] is Stage.CANARY, "the most is allowed"


def test_a_breached_guard_rolls_back_at_once_and_an_absent_one_after_the_bake():
    assert moved(rollout(), measured(0.06, 5), 6) == (Stage.ROLLED_BACK, 0, Cause.GUARD_BREACHED)
    assert moved(rollout(), GOOD, 599) is None
    assert moved(rollout(), GOOD, 600) == (Stage.ROLLED_BACK, 0, Cause.GUARD_ABSENT)
    assert moved(rollout(), measured(0.0, -1), 600)[2] is Cause.GUARD_ABSENT, (
        "a reading from before the step is none"
    )
    assert moved(rollout(), measured(float("nan"), 5), 6)[2] is Cause.GUARD_BREACHED
    ahead = 73 * 365 * 86_400
    assert moved(rollout(), measured(0.0, ahead), 600)[2] is Cause.GUARD_ABSENT, (
        "a clock of 2099 measured nothing"
    )


def test_a_canary_that_no_server_holds_any_more_at_its_end_is_left():
    gone = replace(measured(0.0, 500), verified=0, failed=2)
    assert moved(rollout(), gone, 599) is None
    assert moved(rollout(), gone, 600) == (Stage.ROLLED_BACK, 0, Cause.NOT_SERVED)
    assert moved(rollout(), replace(gone, verified=1), 600) == (Stage.CANARY, 1, Cause.ADVANCED)


def test_a_held_rollout_never_goes_forward_by_time():
    held = rollout(Stage.HELD, plan=replace(PLAN, hold_seconds=7_200))
    for seconds in (600, 7_199):
        assert moved(held, measured(0.0, seconds), seconds) is None
    assert moved(held, measured(0.0, 7_000), 7_200) == (Stage.ROLLED_BACK, 0, Cause.HELD_TOO_LONG)
    assert moved(held, measured(1.0, 50), 60)[2] is Cause.GUARD_BREACHED, "a guard reaches it all the same"


@pytest.mark.parametrize(
    ("changes", "percent"),
    [
        ({"mode": Mode.PINNED}, 0.0),
        ({"mode": Mode.FROZEN}, 25.0),
        ({"flag": Flag.OFF}, 0.0),
        ({"flag": Flag.SHADOW}, 0.0),
        ({"flag": Flag.CANARY_ONLY}, 1.0),
        ({}, 25.0),
    ],
)
def test_modes_and_flags_bound_the_share_and_stop_the_advance(changes, percent):
    stands = rollout(step=1, **changes)
    assert stands.percent == percent
    moves = moved(stands, measured(0.0, 500), 600)
    assert moves == ((Stage.PROMOTED, 1, Cause.PROMOTED) if not changes else None)
    assert moved(stands, measured(1.0, 500), 600)[0] is Stage.ROLLED_BACK


def test_nothing_is_measured_of_what_nobody_sees():
    assert moved(rollout(flag=Flag.SHADOW), GOOD, 600) is None
    assert moved(rollout(flag=Flag.CANARY_ONLY), GOOD, 600)[2] is Cause.GUARD_ABSENT


def test_canary_only_shows_the_first_step_and_no_more():
    entering = rollout(Stage.CANDIDATE, -1, flag=Flag.CANARY_ONLY)
    assert moved(entering, GOOD, 0) == (Stage.CANARY, 0, Cause.ADVANCED)
    assert moved(rollout(flag=Flag.CANARY_ONLY), measured(0.0, 500), 600) is None


@pytest.mark.parametrize(
    ("verdict", "moves"),
    [
        (Verdict.NONE, None),
        (Verdict.BETTER, (Stage.PROMOTED, 1, Cause.BETTER)),
        (Verdict.WORSE, (Stage.ROLLED_BACK, 1, Cause.WORSE)),
        (Verdict.UNDECIDED, (Stage.HELD, 1, Cause.UNDECIDED)),
        (Verdict.NOT_CHARGED, (Stage.HELD, 1, Cause.NOT_CHARGED)),
    ],
)
def test_reactions_decide_at_the_end_where_the_policy_says_so(verdict, moves):
    plan = replace(PLAN, comparison=COMPARISON)
    evidence = measured(0.0, 500, verdict=verdict)
    assert moved(rollout(step=1, plan=plan), evidence, 600) == moves
    assert moved(rollout(step=1), evidence, 600) == (Stage.PROMOTED, 1, Cause.PROMOTED), (
        "checks alone decide here"
    )
    worse_early = moved(rollout(step=0, plan=plan), replace(evidence, verdict=Verdict.WORSE), 1)
    assert worse_early == (Stage.ROLLED_BACK, 0, Cause.WORSE)
    assert moved(rollout(step=1, plan=plan), evidence, 599) == (moves if verdict is Verdict.WORSE else None)


@pytest.mark.parametrize("verdict", [Verdict.UNDECIDED, Verdict.NOT_CHARGED])
def test_what_was_not_found_better_is_left_where_the_policy_says_so(verdict):
    comparison = replace(COMPARISON, undecided=Undecided.ROLL_BACK)
    stands = rollout(step=1, plan=replace(PLAN, comparison=comparison))
    assert moved(stands, measured(0.0, 500, verdict=verdict), 600)[0] is Stage.ROLLED_BACK


def test_two_versions_are_compared_at_the_last_step_while_the_candidate_has_its_share():
    plan = replace(PLAN, comparison=COMPARISON)
    assert rollout(step=1, plan=plan).comparing
    assert rollout(Stage.HELD, step=1, plan=plan).comparing, "a hold keeps everybody's version"
    for stands in (
        rollout(step=1),
        rollout(step=0, plan=plan),
        rollout(Stage.PROMOTED, step=1, plan=plan),
        *(rollout(step=1, plan=plan, flag=flag) for flag in (Flag.OFF, Flag.SHADOW, Flag.CANARY_ONLY)),
        rollout(step=1, plan=plan, mode=Mode.PINNED),
    ):
        assert not stands.comparing


def test_looks_are_taken_at_public_instants_and_a_user_belongs_to_the_next():
    assert COMPARISON.due_at(START, 0) == at(600)
    assert [COMPARISON.look_at(START, at(seconds)) for seconds in (0, 599, 600, 2_400)] == [0, 0, 1, 4]


def test_what_ended_does_not_move_again():
    for stage in (Stage.NONE, Stage.PROMOTED, Stage.SUPERSEDED, Stage.ROLLED_BACK, Stage.WITHDRAWN):
        assert decide(rollout(stage), GOOD, at(10**9)) is None
        assert look_at(rollout(stage), at(0)) is None
        assert rollout(stage).percent == 0.0


def test_a_running_rollout_is_looked_at_when_it_is_due_and_once_a_minute_anyway():
    assert look_at(rollout(), at(0)) == at(0) + LOOK
    assert look_at(rollout(), at(590)) == at(600)
    assert look_at(rollout(), at(600)) == at(600) + LOOK
    assert look_at(rollout(), at(-500)) == at(0)


def test_every_cause_but_a_persons_has_its_sentence_and_fits_the_contract():
    assert set(Cause) - set(SENTENCES) == {Cause.PERSON}
    assert all(len(cause.value) <= 64 for cause in Cause)


def test_a_plan_reads_its_document_back():
    plan = replace(PLAN, comparison=COMPARISON, served=False)
    assert plan.decide is Decide.REACTIONS
    assert Plan.from_document(plan.to_document()) == plan
    assert "comparison" not in PLAN.to_document(), "plans from before read as they were"
    assert Plan.from_document(PLAN.to_document()) == PLAN
