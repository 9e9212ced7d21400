"""Readings over real signals: what drifts is told once and followed, and what stays the same is never told."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import select

from personalization.drift.rows import released_digests
from personalization.drift.values import ReadingOutcome
from personalization.registry import queries as registry
from personalization.rounds import queries as rounds
from personalization.rounds.slots import slot_for, slot_of
from personalization.rounds.states import OutcomeCode, RoundState
from personalization.rounds.tables import RoundRow
from privacy.accounting.calibration import calibrate_policy, caps_of, release_mechanisms
from privacy.accounting.filters import BudgetCaps
from privacy.accounting.forecast import ClarityRule, SpentBudget, outlook
from privacy.errors import BudgetExhaustedError
from privacy.ledger import ReservationRequest
from privacy.ledger.export import export_ledger
from privacy.ledger.spending import spent_budget
from privacy.ledger.verify import verify_export
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.policy import versions as policies
from privacy.policy.ceilings import PolicyCeilings
from privacy.policy.values import TenantPrivacyPolicy, amended
from privacy.reports.statement import privacy_statement
from privacy.storage.session import transaction
from streams.contracts.codec import decode_adapter_event
from streams.contracts.topics import ADAPTER_EVENTS
from streams.outbox.tables import OutboxRow
from tests.fakes.drifting import WEEK, DriftWorld
from tests.fakes.query_plans import noted_statements, without_index

# Each reading may err, as rarely as its level says; what these tests say is of readings that do not.
pytestmark = pytest.mark.usefixtures("fixed_draws")


def alarms(world):
    with transaction(world.engine) as session:
        rows = session.exec(select(OutboxRow).where(OutboxRow.topic == ADAPTER_EVENTS.name)).all()
        told = [
            decode_adapter_event([tuple(one) for one in _headers(row)], row.value, key=row.key)
            for row in rows
        ]
    return [one.data for one in told if one.data.kind == "drifted"]


def _headers(row):
    return [(name, value.encode()) for name, value in row.headers]


def test_users_who_ask_otherwise_from_a_week_on_are_noticed_and_the_round_comes_sooner(engine):
    world = DriftWorld(engine, drift={"on_drift": "train_sooner"})
    for _ in range(3):
        assert world.week().alarms == {}
    began = world.now
    slot = began + WEEK
    ticked = world.week(changed=True)
    assert sum(ticked.alarms.values()) == 1
    (told,) = alarms(world)
    assert told.reason_code in {"input_drift", "confidence_drift"}
    assert told.occurred_at == slot
    assert (told.drift.since, told.drift.followed) == (began, "round_sooner")
    assert told.drift.statistic > told.drift.threshold
    assert "user-" not in told.model_dump_json()
    with transaction(engine) as session:
        (row,) = session.exec(select(RoundRow)).all()
        assert row.round_id == told.round_id
        assert (row.due_at, row.opened_by) == (slot, "drift")
        policy = policies.current_policy(session, "acme").policy
        assert row.scheduled_for == policy.schedule.due_at(2)  # the tick lies on the instant of index 1
        assert slot_of(row) == slot
        assert slot_for(row, slot, timedelta(0)).told_at == slot
    # The schedule's own round at that slot is this one.
    world.now = row.scheduled_for
    with transaction(engine) as session:
        session.get(RoundRow, row.round_id).state = "done"
    with transaction(engine) as session:
        rounds.open_due_rounds(session, world.now)
        assert len(session.exec(select(RoundRow)).all()) == 1


def test_the_line_is_locked_before_the_ledgers_head_as_by_whoever_publishes(engine, monkeypatch):
    world, locked, spent = DriftWorld(engine, users=20), [], []
    lock, commit = registry.lock_line, world.ledger.commit
    monkeypatch.setattr(
        registry, "lock_line", lambda session, ref: (locked.append(session), lock(session, ref))[1]
    )

    def note(session, *args, **options):
        spent.append(session in locked)
        return commit(session, *args, **options)

    monkeypatch.setattr(world.ledger, "commit", note)
    world.week()
    assert spent == [True]


def test_users_who_go_on_as_before_are_never_told_of_and_the_drifted_are_told_of_once(engine):
    world = DriftWorld(engine)
    for _ in range(4):
        world.week()
    assert alarms(world) == []
    began = world.now
    for _ in range(4):
        world.week(changed=True)
    (told,) = alarms(world)
    assert (told.drift.since, told.occurred_at) == (began, began + WEEK), "at the first reading that shows it"
    assert [row.outcome for row in world.rows()] == ["released"] * 8
    with transaction(engine) as session:
        assert session.exec(select(RoundRow)).all() == []


def test_what_was_read_is_charged_verified_and_stated(engine):
    world = DriftWorld(engine)
    world.week()
    world.week()
    digests = {row.reservation_id: row.histogram_json for row in world.rows()}
    reserved = world.reservations()
    assert {one.state.value for one in reserved} == {"committed"}
    assert {one.purpose.value for one in reserved} == {"drift"}
    report = verified(world)
    assert report.ok, report.findings
    assert len(digests) == report.reservations == 2
    first = world.rows()[0]
    with transaction(engine) as session:
        text = privacy_statement(session, "acme", now=world.now).to_text()
        row = session.get(type(first), first.reading_id)
        row.histogram_json = row.histogram_json.replace('"sums": [', '"sums": [1')
    assert "drift: 1 statistic(s) of sensitivity 1" in text
    assert "Readings of drift (purpose drift)" in text
    assert "0 releases" in text
    (found,) = verified(world).findings
    assert "is not what was committed" in found.text


def verified(world):
    def stored():
        with transaction(world.engine) as session:
            return released_digests(session)

    return verify_export(list(export_ledger(world.engine, None)), registered=frozenset, readings=stored)


def test_a_line_falls_back_and_without_a_version_the_base_answered_already(engine):
    world = DriftWorld(engine, drift={"on_drift": "fall_back"})
    world.week()
    world.week()
    assert world.week(changed=True).alarms.keys() == {(alarms(world)[0].drift.family, "base_answered")}


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        ({"purposes": ["evaluation"]}, ReadingOutcome.PURPOSE_NOT_ALLOWED),
        ({"declared_users": 25, "minimum_cohort": 10}, ReadingOutcome.NOISE_TOO_LARGE),
        ({"drift": {"planned_readings": 1}}, ReadingOutcome.PLAN_USED_UP),
        ({"drift": {"share": 0.4}}, ReadingOutcome.ABOVE_CEILING),
    ],
)
def test_what_public_numbers_refuse_is_not_read_and_not_charged(engine, policy, outcome):
    world = DriftWorld(engine, users=1, **policy)
    if outcome is ReadingOutcome.PLAN_USED_UP:
        world.week()
    world.now += WEEK
    charged = len(world.reservations())
    world.tick(ceilings=PolicyCeilings(lifetime_epsilon=64, period_epsilon=64))
    assert world.heard[-1].outcome is outcome
    assert len(world.reservations()) == charged
    assert world.rows()[-1].state == "declined"


def test_a_budget_that_is_spent_declines_the_reading_and_the_next_slot_is_looked_at_again(engine):
    world = DriftWorld(engine, users=1)
    world.week()
    with transaction(engine) as session:
        policies.set_policy(
            session,
            "acme",
            {"lifetime_epsilon": 4.0, "period_epsilon": 4.0},
            actor="a",
            reason="b",
            now=world.now,
        )
        for number in range(40):
            with suppress(BudgetExhaustedError):
                world.ledger.reserve(session, other_read(number, world))
    world.now += WEEK
    world.tick()
    assert world.heard[-1].outcome is ReadingOutcome.BUDGET_EXHAUSTED
    assert len(world.reservations()) == 1


def other_read(number, world):
    """What takes up the tenant's budget beside readings of drift."""
    return ReservationRequest(
        tenant_id="acme",
        policy_version=1,
        period_index=10**6,
        purpose=ReadPurpose.EVALUATION,
        mechanisms=(Gaussian(sensitivity=1.0, standard_deviation=4.0, purpose=ReadPurpose.EVALUATION),),
        idempotency_key=f"other-{number}",
        epoch=1,
        caps=BudgetCaps(period_epsilon=4.0, period_delta=1e-6, lifetime_epsilon=4.0, lifetime_delta=1e-6),
    )


def test_all_planned_readings_and_releases_fit_into_the_budget_together_whichever_come_first(engine):
    """The share is kept, and readings that open the accounts open them for training."""
    world = DriftWorld(
        engine, users=1, planned_releases=4, drift={"planned_readings": 6}, period_seconds=366 * 86_400
    )
    with transaction(engine) as session:
        policy = policies.current_policy(session, "acme").policy
    for _ in range(6):
        world.now += WEEK
        world.tick()
    assert [one.outcome for one in world.heard] == [ReadingOutcome.RELEASED] * 6
    mechanisms = release_mechanisms(policy, calibrate_policy(policy))
    with transaction(engine) as session:
        for number in range(4):
            request = replace(
                other_read(number, world), mechanisms=mechanisms, purpose=ReadPurpose.TRAINING,
                period_index=policy.period_index(world.now), caps=caps_of(policy),
            )  # fmt: skip
            world.ledger.reserve(session, request)
        with pytest.raises(BudgetExhaustedError):
            world.ledger.reserve(session, replace(request, idempotency_key="one more"))
        spent = spent_budget(session, "acme", policy.period_index(world.now))
    assert (spent.readings, spent.readings_in_period) == (6, 6)
    world.now += WEEK
    world.tick()
    assert world.heard[-1].outcome is ReadingOutcome.PLAN_USED_UP


def test_the_outlook_of_a_policy_keeps_room_for_the_readings_to_come():
    policy = amended(TenantPrivacyPolicy(declared_users=500), {"drift.share": 0.3, "styles": False})
    noise = calibrate_policy(policy)
    options = {"spent": SpentBudget(), "rule": ClarityRule(), "now": policy.schedule.first_at}
    with_readings = outlook("with", policy, noise, **options)
    without = outlook("without", amended(policy, {"drift.share": 0.0}), noise, **options)
    assert policy.planned_releases <= with_readings.releases_left < without.releases_left
    read = SpentBudget(readings=policy.drift.planned_readings)
    assert outlook("read", policy, noise, **{**options, "spent": read}).releases_left == without.releases_left


def test_a_policy_without_readings_opens_none(engine):
    world = DriftWorld(engine, users=1, drift={"share": 0.0})
    world.now += 3 * WEEK
    assert world.tick().opened == 0
    assert world.rows() == []


def test_missed_slots_are_not_made_up_for_and_each_window_is_read_once(engine):
    world = DriftWorld(engine, users=1)
    world.now += 3 * WEEK + timedelta(days=1)
    assert world.tick().opened == 1
    assert world.tick().opened == 0
    (row,) = world.rows()
    terms = json.loads(row.terms_json)
    assert row.scheduled_for == world.now - timedelta(days=1)
    assert terms["until"] == row.scheduled_for.isoformat()
    assert terms["since"] == (row.scheduled_for - WEEK).isoformat()


def test_every_statement_of_a_reading_has_an_index(engine):
    world = DriftWorld(engine, users=2)
    world.ask()
    world.now += WEEK
    with noted_statements(engine) as statements:
        world.tick()
    assert len(statements) > 10
    settings = ("enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off")
    read = {
        statement: found
        for statement, parameters in statements.items()
        if (found := without_index(engine, statement, parameters, settings=settings))
    }
    assert read == {}


def test_readings_whose_padding_is_longer_than_their_schedule_are_all_taken_and_told_in_turn(engine):
    world = DriftWorld(engine, users=2, release_padding_seconds=10 * 86_400)
    for _ in range(3):
        world.now += WEEK
        world.tick()
    assert [row.outcome for row in world.rows()] == [None] * 3
    for _ in range(4):
        world.now += WEEK
        world.tick()
    told = [row.closed_at for row in world.rows() if row.outcome == "released"]
    assert len(told) >= 4
    assert told == sorted(told)


def test_a_padded_reading_is_told_at_the_end_of_its_window_and_not_before(engine):
    world = DriftWorld(engine, users=1, release_padding_seconds=3600)
    world.now += WEEK
    world.tick()
    (row,) = world.rows()
    assert (row.state, world.heard) == ("leased", [])
    assert row.due_at == row.scheduled_for + timedelta(hours=2)
    world.now += timedelta(hours=1, minutes=59)
    world.tick()
    assert world.heard == []
    world.now += timedelta(minutes=1)
    world.tick()
    assert world.heard[-1].outcome is ReadingOutcome.RELEASED
    assert world.rows()[0].closed_at == row.due_at


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("done", [False, True])
def test_an_alarm_waits_for_a_round_whose_slot_is_not_over_whether_it_is_done_or_not(engine, done):
    """It would send what is held of the round at once, and say whether there is anything: how long training took."""
    world = DriftWorld(engine, users=1, release_padding_seconds=3600)
    world.now += WEEK
    world.tick()
    (reading,) = world.rows()
    told_at = reading.due_at
    with transaction(engine) as session:
        row = rounds.open_round(session, reading.tenant_id, reading.domain, actor="ann", now=world.now)
        row.slot_ends_at = told_at + timedelta(hours=1)
        if done:
            code = OutcomeCode.PUBLISHED
            rounds.close_round(session, row, RoundState.DONE, code, "It was published.", now=world.now)
        session.add(row)
    world.now = told_at
    world.tick()
    assert world.heard == []
    world.now += timedelta(hours=1)
    world.tick()
    assert [one.outcome for one in world.heard] == [ReadingOutcome.RELEASED]
    assert world.rows()[0].closed_at == told_at + timedelta(hours=1)
