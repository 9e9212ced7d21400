"""A round goes by what it was frozen to: policies may change, rows may be altered, and a run may lie about itself."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlmodel import select

from personalization.errors import RoundTermsError
from personalization.planning import planner
from personalization.planning.plan import TrainingPlan
from personalization.registry import queries as registry
from personalization.registry import terming
from personalization.registry.announcements import Act
from personalization.registry.tables import AdapterVersionRow
from personalization.releases.terms import Terms
from personalization.rounds.queries import plan_of
from personalization.rounds.states import OutcomeCode, RoundState
from personalization.rounds.tables import RoundRow, SealedSnapshotRow
from personalization.terms.values import TermPair
from personalization.training.jobs.receipt import SignedReceipt
from privacy.ledger import ReservationState
from privacy.ledger.tables import ReservationRow
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from tests.fakes.training import Workshop, honest_receipt


class KilledError(BaseException):
    """The process ends here: nothing catches this."""


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    return shop


def amend(shop, **changes):
    with transaction(shop.engine) as session:
        policies.set_policy(session, "acme", changes, actor="test", reason="test", now=shop.clock.now())


def killed_in_training(shop):
    """Open a round and let its first trainer die with the child under way."""
    round_id = shop.open_round()

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        shop.process("first").run_once()
    shop.trainer.during = lambda _should_stop: None
    shop.clock.advance(seconds=61)
    return round_id


def the(shop, round_id):
    with shop.session() as session:
        row = session.get(RoundRow, round_id)
        (reservation,) = session.exec(select(ReservationRow)).all()
        manifests = [registry.read_version(one).manifest for one in session.exec(select(AdapterVersionRow))]
        return row, reservation, manifests


def sealed(shop):
    with shop.session() as session:
        return session.exec(select(SealedSnapshotRow)).all()


def test_the_reservation_names_the_plan_the_terms_and_the_key_of_the_receipt(shop):
    round_id = shop.open_round()
    shop.process().run_once()

    row, reservation, (manifest,) = the(shop, round_id)
    terms = Terms.from_json(row.terms_json)
    with shop.session() as session:
        reserved = shop.ledger.attested(session, reservation.reservation_id)
    count, vote, training = reserved.mechanisms
    assert reserved.mechanisms == terms.mechanisms
    assert (count, vote.purpose, training) == (terms.cohort_count, ReadPurpose.STYLE, terms.plan.mechanism)
    assert reserved.binding.plan_digest == terms.plan.digest() == manifest.privacy.plan_digest
    assert reserved.binding.terms_digest == terms.digest()
    signed = SignedReceipt.from_document(manifest.privacy.receipt)
    signed.verify(bytes.fromhex(reserved.binding.receipt_key))
    assert signed.receipt.mechanism == terms.plan.mechanism


def test_a_policy_that_changes_during_a_round_changes_nothing_of_it(shop):
    amend(shop, previous_share=0.25, retention_days=30)
    shop.open_round()
    shop.process().run_once()  # what is blended into the next release
    round_id = killed_in_training(shop)
    amend(
        shop, minimum_cohort=100, retention_days=1, previous_share=0.9, contribution_bound=1, steps=3,
        clipping_norm=0.5, sample_rate=0.9, release_padding_seconds=0,
    )  # fmt: skip
    shop.process("second").run_once()

    with shop.session() as session:
        row = session.get(RoundRow, round_id)
        manifest = registry.read_version(session.get(AdapterVersionRow, row.version_id)).manifest
    assert row.outcome_code == OutcomeCode.PUBLISHED
    facts = manifest.privacy
    assert (facts.minimum_cohort, facts.steps, facts.sample_rate, facts.contribution_bound) == (20, 4, 0.5, 8)
    assert [check.value for check in manifest.evaluation.checks if check.name == "blend"] == [0.25]
    assert shop.signals.retentions == [timedelta(days=30)] * 2


def test_terms_that_were_altered_after_the_reservation_are_never_read_under(shop):
    round_id = shop.open_round()
    protocol = shop.protocol()
    start = protocol._start

    def alter(lease):
        start(lease)
        with shop.session() as session:
            row = session.get(RoundRow, round_id)
            document = json.loads(row.terms_json)
            document["plan"]["mechanism"]["steps"] *= 50
            row.terms_json = json.dumps(document, sort_keys=True)
            session.add(row)

    protocol._start = alter
    shop.process(protocol=protocol).run_once()

    row, reservation, manifests = the(shop, round_id)
    assert (row.state, row.outcome_code) == (RoundState.FAILED, OutcomeCode.FORFEITED)
    assert reservation.state == ReservationState.FORFEITED
    assert shop.signals.reads == 0
    assert manifests == []


def test_a_planner_that_runs_other_steps_than_were_charged_publishes_nothing(shop, monkeypatch):
    """The review's change: what is trained takes 50 times the steps of what the ledger holds."""
    round_id = shop.open_round()
    more_steps(monkeypatch, 50)
    honest = Terms.mechanism.fget
    monkeypatch.setattr(
        Terms, "mechanism", property(lambda terms: replace(honest(terms), steps=honest(terms).steps // 50))
    )
    shop.process().run_once()

    row, reservation, manifests = the(shop, round_id)
    assert reservation.state == ReservationState.FORFEITED
    assert row.outcome_code == OutcomeCode.FORFEITED
    assert manifests == []


def more_steps(monkeypatch, times):
    propose = planner.propose

    def propose_more(*args, **named):
        plan = propose(*args, **named)
        return plan.with_mechanism(steps=times * plan.steps)

    monkeypatch.setattr(planner, "propose", propose_more)


def test_what_the_planner_plans_is_what_is_charged(shop, monkeypatch):
    more_steps(monkeypatch, 2)
    shop.open_round()
    shop.process().run_once()
    with shop.session() as session:
        (reservation,) = session.exec(select(ReservationRow)).all()
    assert json.loads(reservation.mechanisms)[-1]["steps"] == 8


@pytest.mark.parametrize(
    "wrong",
    [
        lambda _receipt: None,
        lambda receipt: replace(receipt, steps=receipt.steps * 50),
        lambda receipt: replace(receipt, mechanism=replace(receipt.mechanism, steps=receipt.steps * 50)),
        lambda receipt: replace(receipt, mechanism=replace(receipt.mechanism, sample_rate=0.3)),
        lambda receipt: replace(receipt, mechanism=replace(receipt.mechanism, noise_multiplier=0.1)),
        lambda receipt: replace(receipt, mechanism=replace(receipt.mechanism, clipping_norm=9.0)),
        lambda receipt: replace(receipt, plan_digest="sha256:" + "0" * 64),
        lambda receipt: replace(receipt, noise_ok=False),
        lambda receipt: replace(receipt, distinct_steps_ok=False),
        lambda receipt: replace(receipt, coins_ok=False),
        lambda receipt: replace(receipt, largest_norm_ok=False),
    ],
)
def test_a_run_whose_receipt_does_not_agree_is_not_published(shop, wrong):
    round_id = shop.open_round()
    shop.trainer.receipt = wrong
    shop.process().run_once()

    row, reservation, manifests = the(shop, round_id)
    assert (row.state, row.outcome_code) == (RoundState.FAILED, OutcomeCode.FORFEITED)
    assert reservation.state == ReservationState.FORFEITED
    assert manifests == []
    assert sealed(shop) == []


def test_a_receipt_signed_by_another_key_is_refused(shop):
    round_id = shop.open_round()
    shop.trainer.signed = lambda tenant: SignedReceipt.of(honest_receipt(tenant.plan), bytes(32))
    shop.process().run_once()

    row, _, manifests = the(shop, round_id)
    assert row.outcome_code == OutcomeCode.FORFEITED
    assert manifests == []


def test_a_reservation_whose_row_was_changed_is_found_in_the_chain(shop):
    round_id = killed_in_training(shop)
    with shop.session() as session:
        (reservation,) = session.exec(select(ReservationRow)).all()
        mechanisms = json.loads(reservation.mechanisms)
        mechanisms[-1]["noise_multiplier"] *= 2
        reservation.mechanisms = json.dumps(mechanisms)
        session.add(reservation)
    shop.process("second").run_once()

    row, _, manifests = the(shop, round_id)
    assert row.state == RoundState.FAILED
    assert manifests == []
    assert len(shop.trainer.keys) == 0


def test_the_seal_holds_what_is_trained_on_and_goes_with_the_round(shop):
    round_id = killed_in_training(shop)
    (part,) = sealed(shop)
    assert part.round_id == round_id
    assert b"completion" not in part.sealed
    shop.process("second").run_once()
    assert sealed(shop) == []


def test_a_seal_that_is_gone_or_damaged_forfeits(shop):
    round_id = killed_in_training(shop)
    with shop.session() as session:
        (part,) = session.exec(select(SealedSnapshotRow)).all()
        part.sealed = part.sealed[:-1] + bytes([part.sealed[-1] ^ 1])
        session.add(part)
    shop.process("second").run_once()

    row, reservation, _ = the(shop, round_id)
    assert row.state == RoundState.FAILED
    assert reservation.state == ReservationState.FORFEITED
    assert shop.signals.reads == 1


def test_terms_of_an_earlier_version_are_not_gone_on_with_but_their_plan_is_read(shop):
    round_id = shop.open_round()
    shop.process().run_once()
    row, *_ = the(shop, round_id)
    plan = Terms.from_json(row.terms_json).plan
    flat = plan.to_document()
    mechanism = flat.pop("mechanism")
    names = ("steps", "sample_rate", "noise_multiplier", "clipping_norm", "contribution_bound")
    old = {**flat, **{name: mechanism[name] for name in names}}
    assert TrainingPlan.from_document(old) == plan
    assert isinstance(plan.mechanism, PoissonSampledGaussian)
    with pytest.raises(RoundTermsError, match="earlier version"):
        Terms.from_json(json.dumps(old))
    with shop.session() as session:
        session.execute(text("UPDATE training_rounds SET terms_json = :old"), {"old": json.dumps(old)})
    with shop.session() as session:
        assert plan_of(session, round_id) == plan


def test_a_round_votes_over_the_list_that_was_public_when_it_was_reserved(shop):
    pairs = [TermPair(written="cuber netties", meant="Kubernetes")]

    def propose(*more):
        with transaction(shop.engine) as session:
            act = Act(actor="test", reason="test", now=shop.clock.now())
            change = terming.proposing([*pairs, *more])
            terming.decide(session, shop.events, shop.signer, "acme", "default", "propose", change, act)

    propose()
    amend(shop, terms=True)
    round_id = killed_in_training(shop)
    propose(TermPair(written="later", meant="Later"))
    row, _, _ = the(shop, round_id)
    terms = Terms.from_json(row.terms_json)
    assert terms.votes_on_terms
    assert terms.glossary == (("cuber netties", "Kubernetes"),)
    assert terms.digest() != replace(terms, glossary=()).digest(), "what was reserved names the list"
    assert "glossary" not in replace(terms, glossary=()).to_document(), "older terms keep their digest"
    shop.process("second").run_once()
    with shop.session() as session:
        session.execute(text("UPDATE term_lists SET document = '{'"))
    round_id = shop.open_round()
    shop.process().run_once()
    with shop.session() as session:
        terms = Terms.from_json(session.get(RoundRow, round_id).terms_json)
    assert (terms.votes_on_terms, terms.glossary) == (False, ()), "nobody knows that nothing was listed"
