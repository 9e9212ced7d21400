"""What a round asks of the ledger, and what the ledger then proves about its release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import PrivacyFacts
from privacy.accounting.calibration import caps_of
from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, best_epsilon, total_curve
from privacy.errors import LedgerIntegrityError
from privacy.guarantee import NeighboringRelation, PrivacyUnit
from privacy.ledger import ReservationRequest, RunBinding
from privacy.ledger.populations import population_of
from privacy.mechanisms.private_read import ReadPurpose

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.releases.terms import Terms
    from personalization.rounds.tables import RoundRow
    from personalization.training.jobs.receipt import SignedReceipt
    from privacy.ledger import Ledger, Reservation
    from privacy.policy.values import TenantPrivacyPolicy


def reservation_request(
    row: RoundRow, epoch: int, terms: Terms, receipt_key: bytes, policy: TenantPrivacyPolicy
) -> ReservationRequest:
    """Return everything the round will read, asked for at once; the round's id makes it idempotent.

    Args:
        row: the round.
        epoch: of its lease.
        terms: what it is frozen to; the plan in it owns the mechanism that training is charged as.
        receipt_key: public half of the key that will sign the run's receipt.
        policy: its caps, and the population that it names.
    """
    return ReservationRequest(
        tenant_id=row.tenant_id,
        policy_version=terms.policy_version,
        period_index=row.period_index,
        purpose=ReadPurpose.TRAINING,
        mechanisms=terms.mechanisms,
        idempotency_key=f"round-{row.round_id}",
        epoch=epoch,
        caps=caps_of(policy),
        population=population_of(policy),
        binding=RunBinding(
            plan_digest=terms.plan.digest(), terms_digest=terms.digest(), receipt_key=receipt_key.hex()
        ),
    )


def departure(reservation: Reservation, terms: Terms) -> str | None:
    """Say in what the terms of a round differ from what was reserved for it; None where all agrees."""
    binding = reservation.binding
    if binding is None:
        return "the reservation names no run"
    if reservation.mechanisms != terms.mechanisms:
        return "the mechanisms that are charged are not those of the terms"
    if binding.plan_digest != terms.plan.digest():
        return "the plan is not the one that was reserved for"
    if binding.terms_digest != terms.digest():
        return "the terms are not those that were reserved for"
    return None


def receipt_departure(reservation: Reservation, terms: Terms, signed: SignedReceipt | None) -> str | None:
    """Say in what a run differs from what was charged, by what it measured of itself; None where all agrees."""
    if signed is None or reservation.binding is None:
        return "the training process gave no receipt"
    try:
        signed.verify(bytes.fromhex(reservation.binding.receipt_key))
    except ValueError as error:
        return str(error)
    receipt = signed.receipt
    if receipt.plan_digest != reservation.binding.plan_digest:
        return "the receipt is of another plan"
    if receipt.mechanism != terms.mechanism:
        return "the mechanism that was measured is not the one that is charged"
    return receipt.departures[0] if receipt.departures else None


def privacy_facts(
    session: Session,
    ledger: Ledger,
    reservation: Reservation,
    terms: Terms,
    noisy_cohort: int | None,
    receipt: SignedReceipt,
) -> PrivacyFacts:
    """Return what the ledger proves about a release whose reservation was committed in this transaction.

    Raises:
        ReservationStateError: no commit entry exists for the reservation.
        LedgerIntegrityError: the tenant has no lifetime account, though one was charged.
    """
    spend = ledger.spend(session, reservation.tenant_id, reservation.period_index)
    if spend.delta is None or spend.lifetime_cap is None:
        raise LedgerIntegrityError(
            "the lifetime account that was charged is gone; run `discreet budget verify`"
        )
    mechanism = terms.mechanism
    return PrivacyFacts(
        unit=PrivacyUnit.USER.value,
        relation=NeighboringRelation.ADD_OR_REMOVE_ONE.value,
        mechanism=mechanism.kind,
        accountant=f"{ACCOUNTANT} {ACCOUNTANT_VERSION}",
        release_epsilon=best_epsilon(total_curve(reservation.mechanisms), spend.delta)[0],
        cumulative_epsilon=max(spend.lifetime_epsilon, spend.population_epsilon),
        target_epsilon=max(spend.lifetime_cap, spend.population_cap or 0.0),
        delta=spend.delta,
        noise_multiplier=mechanism.noise_multiplier,
        sample_rate=mechanism.sample_rate,
        steps=mechanism.steps,
        clipping_norm=terms.plan.clipping_norm,
        contribution_bound=terms.contribution_bound,
        minimum_cohort=terms.minimum_cohort,
        reservation_id=reservation.reservation_id,
        ledger_entry_hash=ledger.entry_digest(session, reservation.reservation_id),
        plan_digest=terms.plan.digest(),
        noisy_cohort=noisy_cohort,
        receipt=receipt.to_document(),
    )
