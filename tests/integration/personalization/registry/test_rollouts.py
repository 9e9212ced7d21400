"""Candidates go through their steps, are left, held, pinned, withdrawn; the events alone tell it all."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from sqlalchemy.exc import OperationalError

from personalization.errors import RolloutError, VersionNotFoundError, VersionStateError
from personalization.registry import queries as registry
from personalization.registry import steering
from personalization.registry.announcements import DesiredChange
from personalization.registry.restating import restate_line
from personalization.registry.rollback import roll_back
from personalization.registry.withdrawal import withdraw_line, withdraw_version
from personalization.rollouts.evidence import GUARD_POSTED, Reading
from personalization.rollouts.replaying import replay
from personalization.rollouts.values import Flag, Mode, Stage
from privacy.audit import trail
from privacy.errors import StorageError
from tests.fakes.rollouts import RolloutShop, told_of
from tests.integration.personalization.releases.test_crashes import KilledError, dying

ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where SQL does not matter


@pytest.fixture
def shop(engine, clock, tmp_path):
    return RolloutShop(engine, clock, tmp_path)


def assert_replayed(shop):
    """What the events alone add up to is what the tables say."""
    story = replay(told_of(document) for document in shop.told())
    stands = shop.stands()
    assert story.serving == shop.serving()
    assert story.states == shop.states()
    if story.rollout is None:
        assert stands.stage is Stage.NONE
        return
    names = ("stage", "step", "candidate", "salt", "mode", "flag", "percent")
    assert [getattr(story.rollout, name) for name in names] == [getattr(stands, name) for name in names]
    assert story.rollout.plan.steps == stands.plan.steps


def to_canary(shop):
    """Publish a version and a candidate, which a server verified and the first share gets."""
    first, candidate = shop.publish(), shop.publish()
    shop.verify(candidate)
    assert shop.run_tick().moved == 1
    return first, candidate


def bake(shop, candidate, value=0.0):
    shop.clock.advance(seconds=60)
    shop.measure(candidate, value)
    return shop.run_tick()


def test_a_candidate_goes_through_its_steps_and_is_promoted(shop):
    first = shop.publish()
    assert shop.serving() == first, "the first version of a line goes to everybody"
    candidate = shop.publish()
    assert shop.serving() == first
    assert shop.states() == {first: "published", candidate: "candidate"}
    state = shop.desired()
    assert (state["adapter"]["version_id"], state["candidate"]["version_id"]) == (first, candidate)
    assert state["rollout"]["candidate_percent"] == 0
    shop.verify(candidate)
    percents = []
    for _ in range(3):
        shop.run_tick()
        percents.append(shop.desired()["rollout"]["candidate_percent"])
        shop.clock.advance(seconds=60)
        shop.measure(candidate)
    assert percents == [10.0, 50.0, 0.0]
    assert shop.serving() == candidate
    assert shop.states() == {first: "superseded", candidate: "published"}
    assert shop.desired()["candidate"] is None
    kinds = [document["kind"] for document in shop.told()]
    assert kinds == ["published", "published", "rollout_advanced", "rollout_advanced", "promoted"]
    assert_replayed(shop)
    third = shop.publish()
    assert shop.stands().candidate == third
    assert_replayed(shop)


@ONE_DATABASE
@pytest.mark.parametrize("value", [0.5, None], ids=["breached", "absent"])
def test_a_bad_or_missing_guard_rolls_back_before_a_larger_share_saw_it(shop, value):
    first, candidate = to_canary(shop)
    shop.clock.advance(seconds=60)
    if value is not None:
        shop.measure(candidate, value)
    shop.run_tick()
    assert shop.serving() == first
    assert shop.states()[candidate] == "rolled_back"
    assert max(one["rollout"]["candidate_percent"] for one in shop.told() if one["rollout"]) == 10.0
    assert shop.desired()["candidate"] is None
    assert shop.told()[-1]["left_version_id"] == candidate
    assert_replayed(shop)


@ONE_DATABASE
def test_a_server_that_fails_once_ends_nothing_and_one_that_never_verifies_ends_the_rollout(shop):
    shop.publish()
    candidate = shop.publish()
    shop.verify(candidate, status="failed", server="two")
    shop.run_tick()
    assert shop.states()[candidate] == "candidate", (
        "its store or its engine may have been away; it tries again"
    )
    shop.clock.advance(seconds=60)
    shop.run_tick()
    assert shop.states()[candidate] == "rolled_back"
    assert shop.told()[-1]["reason_code"] == "rollout.not_served"
    assert_replayed(shop)


@ONE_DATABASE
def test_a_reading_of_a_clock_that_was_ahead_hides_none_that_follows(shop):
    _, candidate = to_canary(shop)
    right = shop.clock.now()
    shop.clock.advance(days=26_000)
    shop.measure(candidate, 0.0)
    shop.clock.advance(days=-26_000)
    assert shop.clock.now() == right
    shop.measure(candidate, 0.9)
    shop.run_tick()
    assert shop.states()[candidate] == "rolled_back"


@ONE_DATABASE
def test_a_newer_candidate_takes_the_place_of_one_that_runs(shop):
    first, candidate = to_canary(shop)
    newer = shop.publish()
    assert shop.states() == {first: "published", candidate: "rolled_back", newer: "candidate"}
    assert shop.stands().stage is Stage.CANDIDATE
    assert_replayed(shop)


@ONE_DATABASE
def test_a_pinned_line_does_not_move_and_goes_on_when_let_go(shop):
    first, candidate = to_canary(shop)
    with shop.session() as session:
        steering.set_mode(session, shop.events, "acme", "default", Mode.PINNED, shop.act())
    assert shop.desired()["rollout"]["candidate_percent"] == 0
    for _ in range(5):
        bake(shop, candidate)
    assert shop.serving() == first
    with shop.session() as session, pytest.raises(RolloutError, match="pinned"):
        steering.promote(session, shop.events, "acme", "default", shop.act())
    with shop.session() as session:
        steering.set_mode(session, shop.events, "acme", "default", Mode.FREE, shop.act())
    assert shop.desired()["rollout"]["candidate_percent"] == 10
    bake(shop, candidate)
    bake(shop, candidate)
    assert shop.serving() == candidate
    assert_replayed(shop)


@ONE_DATABASE
def test_a_pinned_line_without_steps_does_not_move_by_a_new_release(engine, clock, tmp_path):
    shop = RolloutShop(engine, clock, tmp_path, **{"rollout.steps": ()})
    first = shop.publish()
    with shop.session() as session:
        steering.set_mode(session, shop.events, "acme", "default", Mode.PINNED, shop.act())
    second = shop.publish()
    shop.run_tick()
    assert shop.serving() == first
    with shop.session() as session:
        steering.set_mode(session, shop.events, "acme", "default", Mode.FREE, shop.act())
    shop.run_tick()
    shop.run_tick()
    assert shop.serving() == second
    assert_replayed(shop)


@ONE_DATABASE
def test_without_steps_a_version_goes_to_everybody_at_once_and_its_events_say_nothing_of_rollouts(
    engine, clock, tmp_path
):
    shop = RolloutShop(engine, clock, tmp_path, **{"rollout.steps": ()})
    first, second = shop.publish(), shop.publish()
    assert shop.states() == {first: "superseded", second: "published"}
    assert {document["rollout"] for document in shop.told()} == {None}
    assert shop.run_tick().looked == 0
    assert_replayed(shop)


@ONE_DATABASE
def test_a_frozen_line_stays_at_its_share_but_a_guard_still_reaches_it(shop):
    _, candidate = to_canary(shop)
    with shop.session() as session:
        steering.set_mode(session, shop.events, "acme", "default", Mode.FROZEN, shop.act())
    bake(shop, candidate)
    bake(shop, candidate)
    assert shop.desired()["rollout"]["candidate_percent"] == 10
    shop.measure(candidate, 1.0)
    shop.run_tick()
    assert shop.stands().stage is Stage.ROLLED_BACK
    assert_replayed(shop)


@ONE_DATABASE
def test_people_hold_promote_and_leave_with_a_trail(shop):
    first, candidate = to_canary(shop)
    with shop.session() as session:
        steering.hold(session, shop.events, "acme", "default", shop.act())
    bake(shop, candidate)
    assert shop.stands().stage is Stage.HELD
    assert shop.stands().percent == 10.0
    with shop.session() as session, pytest.raises(RolloutError, match="already"):
        steering.hold(session, shop.events, "acme", "default", shop.act())
    with shop.session() as session:
        steering.promote(session, shop.events, "acme", "default", shop.act())
    assert shop.serving() == candidate
    with shop.session() as session, pytest.raises(RolloutError, match="no candidate"):
        steering.hold(session, shop.events, "acme", "default", shop.act())
    newer = shop.publish()
    with shop.session() as session:
        steering.roll_back_newest(session, shop.events, "acme", "default", shop.act())
    assert shop.states() == {first: "superseded", candidate: "published", newer: "rolled_back"}
    with shop.session() as session:
        steering.roll_back_newest(session, shop.events, "acme", "default", shop.act())
    assert shop.serving() == first
    assert_replayed(shop)
    with shop.session() as session:
        actions = [one.action for one in trail.read(session, "acme")]
    expected = [
        "rollout.canary",
        "rollout.held",
        "rollout.promoted",
        "rollout.rolled_back",
        "adapter.rolled_back",
    ]
    assert [action for action in actions if action in expected] == expected


@ONE_DATABASE
def test_a_flag_is_in_the_desired_state_and_bounds_the_share(shop):
    _, candidate = to_canary(shop)
    bake(shop, candidate)
    shares = {}
    for flag in (Flag.OFF, Flag.SHADOW, Flag.CANARY_ONLY, Flag.ON):
        with shop.session() as session:
            steering.set_flag(session, shop.events, "acme", "default", flag, shop.act())
        state = shop.desired()
        assert state["rollout"]["flag"] == flag.value
        shares[flag] = state["rollout"]["candidate_percent"]
    assert shares == {Flag.OFF: 0.0, Flag.SHADOW: 0.0, Flag.CANARY_ONLY: 10.0, Flag.ON: 50.0}
    assert_replayed(shop)


@ONE_DATABASE
def test_a_withdrawn_candidate_is_never_served_again(shop):
    first, candidate = to_canary(shop)
    with shop.session() as session:
        withdraw_version(session, shop.events, candidate, shop.act())
    assert shop.stands().stage is Stage.WITHDRAWN
    assert shop.serving() == first
    state = shop.desired()
    assert state["candidate"] is None
    assert state["revoked_version_ids"] == [candidate]
    assert bake(shop, candidate).moved == 0
    assert_replayed(shop)


@ONE_DATABASE
def test_withdrawing_what_is_served_ends_a_rollout_against_it(shop):
    first, candidate = to_canary(shop)
    with shop.session() as session:
        withdraw_version(session, shop.events, first, shop.act())
    assert shop.serving() is None
    assert shop.states()[candidate] in {"rolled_back", "withdrawn"}
    assert not shop.stands().running
    assert_replayed(shop)


@ONE_DATABASE
def test_a_withdrawn_line_and_a_roll_back_end_a_rollout(shop):
    first, candidate = to_canary(shop)
    with shop.session() as session:
        steering.promote(session, shop.events, "acme", "default", shop.act())
    newer = shop.publish()
    with shop.session() as session:
        roll_back(session, shop.events, "acme", "default", shop.act())
    assert shop.states() == {first: "published", candidate: "rolled_back", newer: "rolled_back"}
    assert_replayed(shop)
    with shop.session() as session:
        withdraw_line(session, shop.events, "acme", "default", shop.act())
    assert shop.serving() is None
    assert_replayed(shop)


@ONE_DATABASE
def test_a_state_that_is_sent_again_has_its_candidate(shop):
    _, candidate = to_canary(shop)
    before = shop.desired()
    with shop.session() as session:
        line = registry.find_line(session, "acme", "default")
        restate_line(session, shop.events, line.line_ref, shop.act())
    after = shop.desired()
    assert after["epoch"] == before["epoch"] + 1
    assert after["candidate"]["version_id"] == candidate
    assert after["rollout"] == before["rollout"]


@ONE_DATABASE
def test_a_state_that_names_a_version_before_its_slot_is_not_sent_again(shop):
    shop.publish()
    before = shop.act()
    shop.clock.advance(days=1)
    shop.publish()
    line_ref, told = shop.line_ref(), shop.desired()["epoch"]
    with shop.session() as session:
        assert restate_line(session, shop.events, line_ref, before) is DesiredChange.UNCHANGED
    assert shop.desired()["epoch"] == told


def test_two_workers_move_a_line_once(shop):
    to_canary(shop)
    told = len(shop.told())
    assert shop.run_tick().moved == 0
    with shop.session() as session:
        line_ref = registry.find_line(session, "acme", "default").line_ref
    assert shop.tick._move(line_ref, shop.clock.now()) is False, "another worker moved it meanwhile"
    assert len(shop.told()) == told


@ONE_DATABASE
def test_a_line_that_cannot_be_moved_does_not_hold_up_the_others(shop, monkeypatch):
    to_canary(shop)
    shop.clock.advance(seconds=60)

    def refuse(*_arguments, **_options):
        raise RolloutError("broken in the test")

    monkeypatch.setattr("personalization.registry.rollout_tick.carry_out", refuse)
    ticked = shop.run_tick()
    assert (ticked.moved, ticked.failed) == (0, 1)
    assert shop.run_tick().looked == 0, "it is put off"


@pytest.mark.parametrize("durable", [False, True], ids=["before-commit", "after-commit"])
@pytest.mark.parametrize("ending", ["promoted", "rolled_back"])
def test_death_at_every_commit_changes_nothing(engine, clock, tmp_path, durable, ending):
    """A worker that dies at any commit of any transition: the next one tells the same story, once."""
    shop = RolloutShop(engine, clock, tmp_path)
    first, candidate = shop.publish(), shop.publish()
    shop.verify(candidate)
    for _ in range(3):  # into the first step, into the second, to the end
        for at_commit, error in ((1, KilledError()), (2, OperationalError("commit", {}, Exception("gone")))):
            before = shop.stands()
            with (
                dying(engine, at_commit, durable=durable, error=error),
                suppress(KilledError, StorageError, OperationalError),
            ):
                shop.run_tick()
            assert_replayed(shop)
            if not durable or at_commit == 1:
                assert shop.stands() == before, "it died before the move was stored"
        shop.run_tick()
        clock.advance(seconds=60)
        if ending == "promoted" or shop.stands().step < 0:
            shop.measure(candidate)
    assert_replayed(shop)
    moves = {
        "promoted": ["candidate", "canary", "canary", "promoted"],
        "rolled_back": ["candidate", "canary", "rolled_back"],
    }
    assert [one["rollout"]["state"] for one in shop.told() if one["rollout"]] == moves[ending]
    assert shop.serving() == (candidate if ending == "promoted" else first)


@ONE_DATABASE
@pytest.mark.parametrize("seed", range(3))
def test_any_story_can_be_told_from_its_events_alone(engine, clock, tmp_path, seed):
    """Whatever people, servers, guards and the clock do, in any order, with deaths in between."""
    shop = RolloutShop(engine, clock, tmp_path)
    shop.publish()
    chance, left = random.Random(seed), 2

    def person(verb, *arguments):
        with suppress(RolloutError, VersionStateError, VersionNotFoundError), shop.session() as session:
            verb(session, shop.events, "acme", "default", *arguments, shop.act())

    for _ in range(30):
        candidate = shop.stands().candidate
        move = chance.randrange(11)
        if move == 0 and left:
            left -= 1
            shop.publish()
        elif move == 1:
            person(steering.set_mode, chance.choice(list(Mode)))
        elif move == 2:
            person(steering.set_flag, chance.choice(list(Flag)))
        elif move == 3:
            person(chance.choice([steering.promote, steering.hold, steering.roll_back_newest]))
        elif move == 4 and candidate is not None:
            with suppress(VersionStateError), shop.session() as session:
                withdraw_version(session, shop.events, candidate, shop.act())
        elif candidate is not None:
            shop.verify(candidate)
            shop.clock.advance(seconds=chance.choice([1, 61]))
            if chance.random() < 0.8:
                shop.measure(candidate, chance.choice([0.0, 0.0, 0.0, 1.0]))
            with (
                dying(
                    engine, chance.choice([1, 2]), durable=chance.random() < 0.5,
                    error=chance.choice([KilledError(), OperationalError("commit", {}, Exception("gone"))]),
                ),
                suppress(KilledError, StorageError, OperationalError),
            ):  # fmt: skip
                shop.run_tick()
        assert_replayed(shop)


def test_who_posts_readings_again_and_again_is_in_the_trail_once_for_each_thing_said(shop):
    shop.publish()
    candidate = shop.publish()

    def post(value, actor):
        reading = Reading(name="error_rate", value=value, at=shop.clock.advance(seconds=1))
        with shop.session() as session:
            steering.measure(session, "acme", candidate, reading, actor=actor)

    def said():
        with shop.session() as session:
            found = [one for one in trail.read(session, "acme") if one.action == GUARD_POSTED]
        return [(one.actor, one.detail["breach"], one.detail["value"]) for one in found]

    for value in (0.01, 0.02, 0.03):
        post(value, "watcher")
    post(0.5, "other")  # above the plan's 0.05: who said so is known, though nothing moves meanwhile
    once = [("watcher", False, 0.01), ("other", True, 0.5)]
    assert said() == once
    for _ in range(5):
        post(0.02, "watcher")
        post(0.6, "other")
    assert said() == once
    post(0.02, "watcher")
    post(0.7, "watcher")
    post(0.01, "other")
    assert said() == [*once, ("watcher", True, 0.7), ("other", False, 0.01)]
    shop.verify(candidate)
    post(0.8, "other")
    assert shop.run_tick().moved == 1
    assert shop.states()[candidate] == "rolled_back"
