"""The round protocol over a real database: what is published, declined, fused, fenced and repeated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sqlmodel import select

from personalization.adapters.manifest import VersionState
from personalization.canaries.values import AuditDepth, AuditRequest, CanaryScores
from personalization.registry.announcements import AdapterEventKind, DesiredChange
from personalization.registry.tables import AdapterVersionRow
from personalization.releases.terms import Terms
from personalization.rounds.states import OutcomeCode, RoundState
from personalization.rounds.tables import RoundRow
from privacy.ledger import ReservationState
from privacy.mechanisms.partition_selection import LEADING_KEYS
from privacy.policy.ceilings import PolicyCeilings
from tests.fakes.training import Workshop, failed, signed_by


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    return shop


def the_round(shop, round_id):
    with shop.session() as session:
        return session.get(RoundRow, round_id)


def reservation_states(shop, tenant_id="acme"):
    with shop.session() as session:
        return shop.ledger.spend(session, tenant_id, 0).reservations


def test_a_due_round_becomes_a_signed_version_an_event_and_a_committed_charge(shop):
    round_id = shop.open_round()

    assert shop.process().run_once() == 1

    row = the_round(shop, round_id)
    assert (row.state, row.outcome_code) == (RoundState.DONE, OutcomeCode.PUBLISHED)
    assert row.wrapped_seed is None
    (event,) = shop.events.committed
    assert (event.kind, event.desired_change, event.epoch) == (
        AdapterEventKind.PUBLISHED,
        DesiredChange.SET,
        1,
    )
    version = event.version
    assert signed_by(shop.signer.public_key, version.manifest.to_bytes(), version.signature)
    assert version.served_name == f"a-{event.line_ref}-v1"
    assert shop.artifacts.open(version.version_id).as_uri() == version.uri
    assert reservation_states(shop) == {ReservationState.COMMITTED: 1}
    with shop.session() as session:
        assert version.manifest.privacy.ledger_entry_hash == shop.ledger.entry_digest(
            session, row.reservation_id
        )
    facts = version.manifest.privacy
    assert 0 < facts.release_epsilon <= facts.cumulative_epsilon <= facts.target_epsilon


def test_of_few_users_at_a_small_budget_a_vote_leads_and_without_a_card_nothing_is_published(
    engine, clock, tmp_path
):
    shop = Workshop(engine, clock, tmp_path, users=50)
    policy = {
        "declared_users": 50,
        "lifetime_epsilon": 2.0,
        "period_epsilon": 2.0,
        "planned_releases": 1,
        "steps": 8,
    }
    shop.add_tenant(sample_rate=1.0, terms=True, **policy)
    shop.add_tenant(
        "bolt", sample_rate=1.0, styles=False, **{**policy, "lifetime_epsilon": 1.0, "period_epsilon": 1.0}
    )
    leading, without = shop.open_round(), shop.open_round("bolt")

    shop.process().run_once()

    assert the_round(shop, without).outcome_code == OutcomeCode.SIGNAL_TOO_SMALL
    row = the_round(shop, leading)
    terms = Terms.from_json(row.terms_json)
    assert terms.style_vote.unknown_keys == LEADING_KEYS
    assert 0 < terms.plan.shrinkage < 0.1
    assert not terms.votes_on_terms
    # This trainer makes no public part, as with a poor card: a version of next to nothing would replace a better one.
    assert row.outcome_code == OutcomeCode.GATE_REJECTED
    assert {one.kind for one in shop.events.committed} == {AdapterEventKind.DECLINED}


def test_nothing_due_means_nothing_read(shop):
    assert shop.process().run_once() == 0
    assert shop.signals.reads == 0


def test_several_due_rounds_are_trained_in_one_job(shop):
    shop.add_tenant("beta")
    shop.add_tenant("gamma")
    for tenant in ("acme", "beta", "gamma"):
        shop.open_round(tenant)

    assert shop.process().run_once() == 3

    assert shop.trainer.jobs == [3]
    assert len({event.line_ref for event in shop.events.committed}) == 3
    assert len(set(shop.trainer.keys)) == 3


def test_a_failing_fused_job_is_repeated_round_by_round_with_the_same_noise(shop):
    shop.add_tenant("beta")
    shop.open_round("acme")
    shop.open_round("beta")
    shop.trainer.failures = [failed(), failed()]  # the fused job, then the first round by itself

    shop.process().run_once()

    assert shop.trainer.jobs == [2, 1, 1]
    states = {**reservation_states(shop, "acme")}, {**reservation_states(shop, "beta")}
    assert sorted(next(iter(state)) for state in states) == ["committed", "forfeited"]
    assert [event.kind for event in shop.events.committed].count(AdapterEventKind.PUBLISHED) == 1


def test_a_tenant_below_its_minimum_cohort_is_declined_and_not_charged(shop):
    shop.add_tenant("tiny", declared_users=15, minimum_cohort=15, lifetime_epsilon=0.2, period_epsilon=0.2)
    round_id = shop.open_round("tiny")

    shop.process().run_once()

    row = the_round(shop, round_id)
    assert (row.state, row.outcome_code) == (RoundState.DECLINED, OutcomeCode.SIGNAL_TOO_SMALL)
    assert reservation_states(shop, "tiny") == {}
    assert shop.signals.reads == 0
    (event,) = shop.events.committed
    assert (event.kind, event.reason_code) == (AdapterEventKind.DECLINED, "signal_too_small")
    assert event.desired_change is DesiredChange.UNCHANGED


def test_a_round_of_a_policy_above_the_platforms_ceiling_is_declined_and_reads_and_spends_nothing(shop):
    shop.add_tenant("loose", minimum_cohort=1)  # before the ceiling was lowered
    round_id = shop.open_round("loose")

    shop.process(protocol=shop.protocol(ceilings=PolicyCeilings(minimum_cohort=10))).run_once()

    row = the_round(shop, round_id)
    assert (row.state, row.outcome_code) == (RoundState.DECLINED, OutcomeCode.ABOVE_CEILING)
    assert reservation_states(shop, "loose") == {}
    assert shop.signals.reads == 0
    (event,) = shop.events.committed
    assert "minimum_cohort is 1; the platform allows no fewer than 10" in event.reason


def test_too_few_users_by_the_noisy_count_are_not_trained_but_charged(shop):
    shop.signals.users = 0
    shop.add_tenant("small", declared_users=5000, minimum_cohort=2000, lifetime_delta=1e-5, period_delta=1e-6)
    round_id = shop.open_round("small")

    shop.process().run_once()

    row = the_round(shop, round_id)
    assert (row.state, row.outcome_code) == (RoundState.DECLINED, OutcomeCode.COHORT_TOO_SMALL)
    assert row.noisy_cohort < 2000
    assert shop.trainer.jobs == []
    assert reservation_states(shop, "small") == {ReservationState.COMMITTED: 1}


def test_an_exhausted_budget_declines_and_later_rounds_read_nothing(shop):
    for _ in range(6):
        shop.open_round()
        shop.process().run_once()

    codes = [outcome.code for outcome in shop.outcomes.ended if hasattr(outcome, "code")]
    published = [outcome for outcome in shop.outcomes.ended if not hasattr(outcome, "code")]
    assert len(published) >= 4
    assert codes
    assert set(codes) == {OutcomeCode.BUDGET_EXHAUSTED}
    assert shop.signals.reads == len(published)


def test_a_refused_candidate_keeps_its_charge_and_is_not_registered(shop):
    shop.trainer.values = 0.0
    round_id = shop.open_round()

    shop.process().run_once()

    row = the_round(shop, round_id)
    assert (row.state, row.outcome_code) == (RoundState.DONE, OutcomeCode.GATE_REJECTED)
    assert reservation_states(shop) == {ReservationState.COMMITTED: 1}
    with shop.session() as session:
        assert session.exec(select(AdapterVersionRow)).all() == []


def scores_of(mu, *, assumed):
    """What canaries of a mechanism of this μ look like to an auditor who assumes another."""
    random = np.random.default_rng(3)
    present = random.integers(0, 2, 16_384)
    seen = random.normal(size=len(present)) + mu * present
    return CanaryScores.of(AuditDepth.MECHANISM, assumed * seen - assumed**2 / 2, present)


@pytest.mark.parametrize("leak", [1.0, 1.6, None], ids=["as claimed", "too little noise", "not audited"])
def test_a_release_whose_canaries_show_more_than_is_claimed_is_not_published(shop, leak, capsys):
    shop.add_tenant("everyone", sample_rate=1.0)
    shop.open_round("everyone")
    train = shop.trainer.train

    def audited(job, **how):
        for result, tenant in zip(train(job, **how), job.tenants, strict=True):
            mu = math.sqrt(tenant.plan.steps) / tenant.plan.noise_multiplier
            yield replace(result, audit=None if leak is None else scores_of(leak * mu, assumed=mu))

    shop.trainer.train = lambda job, **how: tuple(audited(job, **how))
    shop.process(audit=AuditRequest()).run_once()

    (outcome,) = shop.outcomes.ended
    with shop.session() as session:
        spend = shop.ledger.spend(session, "everyone", 0)
        versions = session.exec(select(AdapterVersionRow)).all()
    assert spend.reservations == {ReservationState.COMMITTED: 1}
    if leak == 1.0:
        privacy = outcome.manifest.privacy
        assert privacy.audit.claimed_epsilon <= privacy.release_epsilon
        assert len(versions) == 1
        return
    assert outcome.code is OutcomeCode.GATE_REJECTED
    assert "audit" in outcome.reason
    assert versions == []
    if leak is not None:
        assert "Canaries in a shadow of the plan show an epsilon of at least" in outcome.reason
        assert "release_audited" in capsys.readouterr().out


def test_a_second_release_supersedes_the_first(shop):
    for _ in range(2):
        shop.open_round()
        shop.process().run_once()

    with shop.session() as session:
        rows = session.exec(select(AdapterVersionRow).order_by(AdapterVersionRow.version)).all()
    assert [(row.version, row.state) for row in rows] == [
        (1, VersionState.SUPERSEDED),
        (2, VersionState.PUBLISHED),
    ]
    assert [event.epoch for event in shop.events.committed] == [1, 2]
