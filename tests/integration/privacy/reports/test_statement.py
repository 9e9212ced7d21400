"""Statements, registry records and budget plans say what the ledger holds, and what admission then does."""

import json
from datetime import timedelta

import jsonschema
import pytest

from privacy.accounting.calibration import calibrate_policy, caps_of, release_mechanisms, style_vote_of
from privacy.accounting.composition import total_curve
from privacy.accounting.forecast import ClarityRule, Outlook, SpentBudget, noise_for, outlook, what_if
from privacy.errors import (
    BudgetExhaustedError,
    CalibrationError,
    PolicyError,
    ReservationStateError,
    UnknownTenantError,
)
from privacy.ledger import DrawRecord, Ledger, PopulationCap, ReservationRequest
from privacy.ledger.spending import spent_budget
from privacy.mechanisms.private_read import ReadPurpose
from privacy.policy.values import TenantPrivacyPolicy, amended
from privacy.reports.burn_down import burn_down, draw
from privacy.reports.registry_record import DeploymentDescription, record_schema, registry_record
from privacy.reports.statement import DISJOINT_TENANTS, NOT_PADDED, PADDED, privacy_statement
from privacy.storage.session import transaction

POLICY = TenantPrivacyPolicy(declared_users=400, planned_releases=12, lifetime_epsilon=4.0)
RULE = ClarityRule(parameters=1792, alignment=0.25, smallest=0.1)
DRAW = DrawRecord(seed_commitment="sha256:s", data_digest="sha256:d", code_digest="sha256:c")


def release(engine, ledger, policy, key, *, period, noise=None, population=None):
    with transaction(engine) as session:
        held = ledger.reserve(
            session,
            ReservationRequest(
                tenant_id="acme",
                policy_version=1,
                period_index=period,
                purpose=ReadPurpose.TRAINING,
                mechanisms=release_mechanisms(policy, noise or calibrate_policy(policy)),
                idempotency_key=key,
                epoch=1,
                caps=caps_of(policy),
                population=population,
            ),
        )
        ledger.start(session, held.reservation_id, 1)
        ledger.record_draw(session, held.reservation_id, 1, DRAW)
        return ledger.commit(session, held.reservation_id, 1, f"sha256:{key}")


def test_the_statement_says_what_the_ledger_holds(engine, clock):
    ledger = Ledger(clock)
    first = release(engine, ledger, POLICY, "one", period=0)
    release(engine, ledger, POLICY, "two", period=0)
    with transaction(engine) as session:
        view = ledger.spend(session, "acme", 0)
        made = privacy_statement(session, "acme", now=clock(), policy=POLICY)
        single = privacy_statement(session, "acme", now=clock(), reservation_id=first.reservation_id)
        digest = ledger.entry_digest(session, first.reservation_id)
    facts = made.to_document()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["spent"]["epsilon"] == view.lifetime_epsilon
    assert facts["releases"][-1]["cumulative_epsilon"] == view.lifetime_epsilon
    assert facts["guarantee"]["epsilon"] == 4.0
    assert (facts["unit"], facts["relation"]) == ("user", "add_or_remove_one")
    assert facts["filter"]["selection_share"] == 0.2
    vote = style_vote_of(POLICY)
    assert facts["spent"]["selection_delta"] == view.selection_delta == pytest.approx(2 * vote.delta)
    assert view.selection_cap == pytest.approx(0.2 * POLICY.lifetime_delta)
    assert DISJOINT_TENANTS in facts["assumptions"]
    text = made.to_text()
    for expected in (
        "one user of the tenant",
        "e^4",
        "Of delta, 20% is kept for selections",
        "a user's own keys, at most 64, pass with probability",
        "sample rate 0.5",
        "Not covered",
        DISJOINT_TENANTS,
        digest,
    ):
        assert expected in text
    assert single.to_document()["release"]["ledger_entry_digest"] == digest
    assert "This release" in single.to_text()


def test_the_statement_lists_what_leaves_with_its_mark(engine, clock):
    release(engine, Ledger(clock), POLICY, "one", period=0)
    bare = amended(POLICY, {"release_padding_seconds": 0})
    with transaction(engine) as session:
        padded = privacy_statement(session, "acme", now=clock(), policy=POLICY)
        prompt = privacy_statement(session, "acme", now=clock(), policy=bare)
    listed = padded.to_document()["boundary"]
    assert {one["mark"] for one in listed} == {"charged", "public", "slot_timed", "operator"}
    marks = {(one["kind"], name): one["mark"] for one in listed for name in one["fields"]}
    assert marks["manifest", "created_at"] == "slot_timed"
    assert marks["manifest", "privacy.noisy_cohort"] == "charged"
    assert marks["dead_letter", "value"] == "operator"
    text = padded.to_text()
    for line in ("manifest          slot timed", "metric            operator", "privacy.noisy_cohort"):
        assert line in text
    assert PADDED in text
    assert NOT_PADDED not in text
    assert NOT_PADDED in prompt.to_text()
    for answered in ("batch invariance", "GPU", "dead-letter topic", "hyperparameters", "earlier head"):
        assert answered in text
    about = DeploymentDescription(curator="Acme", author="Ann")
    said = registry_record(prompt, about)["deployment"]["dp_variant"]["unprotected_quantities"]
    assert "not protected" in said
    assert "None computed" not in said
    said = registry_record(padded, about)["deployment"]["dp_variant"]["unprotected_quantities"]
    assert "window of 3600 seconds" in said


def test_a_cap_over_linked_tenants_replaces_the_assumption(engine, clock):
    shared = PopulationCap(population_id="staff", epsilon=4.0, delta=1e-6)
    release(engine, Ledger(clock), POLICY, "one", period=0, population=shared)
    with transaction(engine) as session:
        facts = privacy_statement(session, "acme", now=clock()).to_document()
    assert DISJOINT_TENANTS not in facts["assumptions"]


def test_there_is_no_statement_without_a_ledger_or_a_release(engine, clock):
    ledger = Ledger(clock)
    with transaction(engine) as session, pytest.raises(UnknownTenantError):
        privacy_statement(session, "acme", now=clock())
    release(engine, ledger, POLICY, "one", period=0)
    with transaction(engine) as session, pytest.raises(ReservationStateError):
        privacy_statement(session, "acme", now=clock(), reservation_id="0" * 32)


def test_the_registry_record_fits_the_schema_and_knows_the_words(engine, clock):
    release(engine, Ledger(clock), POLICY, "one", period=0)
    with transaction(engine) as session:
        made = privacy_statement(session, "acme", now=clock(), policy=POLICY)
    record = registry_record(made, DeploymentDescription(curator="Acme", author="Privacy Office"))
    assert record["deployment"]["administrative"]["tier"] == 3
    assert record["deployment"]["privacy_loss"]["privacy_parameters"] == {"epsilon": 4.0, "delta": 1e-6}
    assert record["deployment"]["privacy_loss"]["number_of_privacy_units"] == 400
    assert "never refreshed" in record["deployment"]["deployment_model"]["release_type_details"]
    validator = jsonschema.Draft7Validator(record_schema())
    jsonschema.Draft7Validator.check_schema(record_schema())
    for group in ("basic", "dp_variant", "privacy_loss", "deployment_model", "implementation"):
        for name in list(record["deployment"][group]):
            broken = json.loads(json.dumps(record))
            broken["deployment"][group][name + "x"] = broken["deployment"][group].pop(name)
            assert not validator.is_valid(broken)
    with pytest.raises(PolicyError, match="curator_type"):
        registry_record(made, DeploymentDescription(curator="Acme", author="X", curator_type="Club"))


def test_the_forecast_is_what_admission_then_does(engine, clock):
    """Walk the schedule to the end of the budget: exactly as many releases run as the planner said."""
    ledger, noise = Ledger(clock), calibrate_policy(POLICY)
    release(engine, ledger, POLICY, "past", period=POLICY.period_index(clock()))
    with transaction(engine) as session:
        spent = spent_budget(session, "acme", POLICY.period_index(clock()))
    told = outlook("now", POLICY, noise, spent=spent, rule=RULE, now=clock())
    ran, index = 0, POLICY.schedule.due_index(clock()) + 1
    refused_for_good = None
    while refused_for_good is None:
        at = POLICY.schedule.due_at(index)
        try:
            release(engine, ledger, POLICY, f"r-{index}", period=POLICY.period_index(at))
            ran += 1
        except BudgetExhaustedError as error:
            if "lifetime" in str(error):
                refused_for_good = at
        index += 1
    assert ran == told.releases_left
    assert told.exhausted_at == refused_for_good
    assert told.releases_left_in_period <= told.releases_per_period


def test_a_wish_is_met_by_the_noise_it_is_told(engine, clock):
    ledger, period = Ledger(clock), POLICY.period_index(clock())
    release(engine, ledger, POLICY, "past", period=period)
    with transaction(engine) as session:
        spent = spent_budget(session, "acme", period)
    noise = noise_for(POLICY, releases=7, releases_per_period=2, spent=spent)
    for number in range(7):
        release(engine, ledger, POLICY, f"w-{number}", period=period + 1 + number // 2, noise=noise)
    with pytest.raises(BudgetExhaustedError):
        for number in range(50):
            release(engine, ledger, POLICY, f"x-{number}", period=period + 10 + number, noise=noise)
    with pytest.raises(CalibrationError, match="do not fit"):
        noise_for(POLICY, releases=2_000, releases_per_period=1, spent=spent)


def test_what_if_changes_one_thing_at_a_time(clock):
    rows = {
        row.name if isinstance(row, Outlook) else row[0]: row
        for row in what_if(POLICY, spent=SpentBudget(), rule=RULE, now=clock())
    }
    base = outlook("now", POLICY, calibrate_policy(POLICY), spent=SpentBudget(), rule=RULE, now=clock())
    assert rows["both ε caps × 2"].noise_multiplier < base.noise_multiplier
    assert rows["both ε caps × 2"].clarity > base.clarity
    assert rows["steps × 2"].noise_multiplier > base.noise_multiplier
    assert rows["contribution bound × 2"].noise_multiplier == base.noise_multiplier
    assert rows["declared users × 0.5"].clarity == pytest.approx(base.clarity / 2)
    few = TenantPrivacyPolicy(declared_users=12, minimum_cohort=10)
    refused = [
        row for row in what_if(few, spent=SpentBudget(), rule=RULE, now=clock()) if isinstance(row, tuple)
    ]
    assert any("users" in reason for _, reason in refused)
    small = outlook("now", few, calibrate_policy(few), spent=SpentBudget(), rule=RULE, now=clock())
    assert small.declines
    assert small.clarity < RULE.smallest


def test_the_burn_down_joins_past_and_plan_and_can_be_drawn(engine, clock, tmp_path):
    ledger, policy = Ledger(clock), amended(POLICY, {"domains": ["default", "legal"]})
    for number in range(3):
        release(engine, ledger, policy, f"{number}", period=policy.period_index(clock()))
        clock.advance(days=7)
    with transaction(engine) as session:
        spent = spent_budget(session, "acme", policy.period_index(clock()))
        noise = calibrate_policy(policy)
        plan = outlook("now", policy, noise, spent=spent, rule=RULE, now=clock())
        burned = burn_down(
            session,
            "acme",
            policy,
            release=total_curve(release_mechanisms(policy, noise)),
            plan=plan,
            now=clock(),
        )
    past, planned = [value for _, value in burned.past], [value for _, value in burned.planned]
    assert past[0] == 0.0
    assert past == sorted(past)
    assert planned[0] == past[-1]
    assert planned == sorted(planned)
    assert planned[-1] <= burned.cap
    assert burned.planned[1][0] - burned.planned[0][0] <= timedelta(seconds=policy.schedule.every_seconds)
    picture = tmp_path / "burn.png"
    draw(burned, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
