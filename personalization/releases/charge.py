"""What a round asks of the ledger, and what the ledger then proves about its release."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from personalization.adapters.manifest import PrivacyFacts
from privacy.accounting.calibration import caps_of, release_mechanisms
from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, best_epsilon, total_curve
from privacy.errors import LedgerIntegrityError
from privacy.guarantee import NeighboringRelation, PrivacyUnit
from privacy.ledger import ReservationRequest
from privacy.ledger.populations import population_of
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.planning.plan import TrainingPlan
    from personalization.rounds.tables import RoundRow
    from privacy.ledger import Ledger, Reservation
    from privacy.policy.values import TenantPrivacyPolicy


def reservation_request(
    row: RoundRow, epoch: int, policy_version: int, policy: TenantPrivacyPolicy, plan: TrainingPlan
) -> ReservationRequest:
    """Return everything the round will read, asked for at once; the round's id makes it idempotent."""
    return ReservationRequest(
        tenant_id=row.tenant_id,
        policy_version=policy_version,
        period_index=row.period_index,
        purpose=ReadPurpose.TRAINING,
        mechanisms=tuple(
            replace(mechanism, clipping_norm=plan.clipping_norm)
            if isinstance(mechanism, PoissonSampledGaussian)
            else mechanism
            for mechanism in release_mechanisms(policy, plan.noise_multiplier)
        ),
        idempotency_key=f"round-{row.round_id}",
        epoch=epoch,
        caps=caps_of(policy),
        population=population_of(policy),
    )


def cohort_count_of(reservation: Reservation) -> Gaussian:
    """Return the noisy count that the reservation paid for.

    Raises:
        LedgerIntegrityError: it paid for none.
    """
    for mechanism in reservation.mechanisms:
        if isinstance(mechanism, Gaussian) and mechanism.purpose is ReadPurpose.COHORT_COUNT:
            return mechanism
    raise LedgerIntegrityError("the reservation paid for no cohort count; nothing may be counted for it")


def privacy_facts(
    session: Session,
    ledger: Ledger,
    reservation: Reservation,
    plan: TrainingPlan,
    policy: TenantPrivacyPolicy,
    noisy_cohort: int | None,
) -> PrivacyFacts:
    """Return what the ledger proves about a release whose reservation was committed in this transaction.

    Raises:
        ReservationStateError: no commit entry exists for the reservation.
    """
    spend = ledger.spend(session, reservation.tenant_id, reservation.period_index)
    delta = policy.lifetime_delta if spend.delta is None else spend.delta
    cap = policy.lifetime_epsilon if spend.lifetime_cap is None else spend.lifetime_cap
    return PrivacyFacts(
        unit=PrivacyUnit.USER.value,
        relation=NeighboringRelation.ADD_OR_REMOVE_ONE.value,
        mechanism="poisson_sampled_gaussian",
        accountant=f"{ACCOUNTANT} {ACCOUNTANT_VERSION}",
        release_epsilon=best_epsilon(total_curve(reservation.mechanisms), delta)[0],
        cumulative_epsilon=max(spend.lifetime_epsilon, spend.population_epsilon),
        target_epsilon=max(cap, spend.population_cap or 0.0),
        delta=delta,
        noise_multiplier=plan.noise_multiplier,
        sample_rate=plan.sample_rate,
        steps=plan.steps,
        clipping_norm=plan.clipping_norm,
        contribution_bound=plan.contribution_bound,
        minimum_cohort=policy.minimum_cohort,
        reservation_id=reservation.reservation_id,
        ledger_entry_hash=ledger.entry_digest(session, reservation.reservation_id),
        plan_digest=plan.digest(),
        noisy_cohort=noisy_cohort,
    )
