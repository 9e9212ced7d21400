"""A line that serves a version and drifts falls back to the base, by the flag that people raise again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from personalization.drift.protocol import DriftReadings
from personalization.drift.tick import DriftTick
from personalization.registry.steering import set_flag
from personalization.rollouts.replaying import replay
from personalization.rollouts.rows import lowered_flags
from personalization.rollouts.values import Flag
from personalization.rounds import queries as rounds
from personalization.rounds.states import RoundState
from privacy.audit import trail
from tests.fakes.drifting import LONG, SHORT, user
from tests.fakes.rollouts import RolloutShop, told_of

pytestmark = pytest.mark.usefixtures("fixed_draws")
WEEK = timedelta(days=7)
DRIFT = {"share": 0.25, "planned_readings": 8, "on_drift": "fall_back"}


class Asking:
    """Signals of users who ask the same until they are told to change."""

    changed = False

    def window(self, *_args, **_options):
        return tuple(user(LONG if self.changed else SHORT[number % 4]) for number in range(150))


def shop_of(engine, clock, tmp_path, **drift):
    return RolloutShop(
        engine, clock, tmp_path, **{"rollout.steps": ()}, declared_users=150, lifetime_epsilon=16.0,
        schedule={"first_at": clock.now(), "every_seconds": 40 * 7 * 86_400}, drift={**DRIFT, **drift},
    )  # fmt: skip


def weeks(shop, asking, *changes):
    readings = DriftReadings(
        shop.engine, shop.clock.now, ledger=shop.ledger, signals=asking, events=shop.events
    )
    ticked = []
    for changed in changes:
        asking.changed = changed
        shop.clock.advance(days=7)
        ticked.append(DriftTick(shop.engine, readings).run(clock=shop.clock.now))
    return ticked


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_line_that_drifted_serves_the_base_until_its_flag_is_raised(engine, clock, tmp_path):
    shop = shop_of(engine, clock, tmp_path)
    shop.publish()
    serves = shop.serving()
    ticked = weeks(shop, Asking(), False, False, True, True)
    assert [sum(one.alarms.values()) for one in ticked] == [0, 0, 1, 0]
    assert next(iter(ticked[2].alarms))[1] == "base_answers"
    assert shop.stands().flag is Flag.OFF
    assert shop.desired()["rollout"]["flag"] == "off"
    drifted = next(one for one in shop.told() if one["kind"] == "drifted")
    assert drifted["drift"]["followed"] == "base_answers"
    assert "raises the line's flag" in drifted["reason"]
    assert replay([told_of(one) for one in shop.told()]).serving == serves
    line_ref = shop.line_ref()
    with shop.session() as session:
        assert lowered_flags(session) == {line_ref: Flag.OFF}
        actions = [one.action for one in trail.read(session, "acme")]
    assert {"rollout.flag.off", "drift.alarm"} <= set(actions)
    with shop.session() as session:
        set_flag(session, shop.events, "acme", "default", Flag.ON, shop.act())
    assert shop.desired()["rollout"]["flag"] == "on"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_round_that_is_on_its_way_is_not_opened_twice_and_one_that_came_sooner_is_trained(
    engine, clock, tmp_path
):
    shop = shop_of(engine, clock, tmp_path, on_drift="train_sooner")
    shop.publish()
    shop.open_round()
    asking = Asking()
    ticked = weeks(shop, asking, False, False, True)
    assert next(iter(ticked[2].alarms))[1] == "round_open"
    shop.process("trainer").run_once()
    ticked = weeks(shop, asking, True, False)
    assert next(iter(ticked[1].alarms))[1] == "round_sooner"
    with shop.session() as session:
        (due,) = rounds.list_rounds(session, tenant_id="acme", state=RoundState.DUE)
    shop.process("trainer").run_once()
    with shop.session() as session:
        assert rounds.find_round(session, due.round_id).outcome_code == "published"
