"""The audit's verdict: the bound beside the claim, and the gate's check that it does not lie above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from personalization.adapters.manifest import GateCheck
from personalization.canaries.estimators import audited
from privacy.accounting.composition import best_epsilon, curve_of
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

if TYPE_CHECKING:
    from personalization.adapters.manifest import AuditFacts
    from personalization.canaries.values import CanaryScores
    from personalization.planning.plan import TrainingPlan

AUDIT_CHECK: Final = "audit"


def facts_of_audit(scores: CanaryScores, plan: TrainingPlan, delta: float) -> AuditFacts:
    """Return what the canaries of a plan's shadow showed, beside what the ledger charges for the plan.

    Args:
        scores: of the canaries.
        plan: whose mechanism was audited.
        delta: at which the release's ε is stated.
    """
    mechanism = PoissonSampledGaussian(
        noise_multiplier=plan.noise_multiplier, sample_rate=plan.sample_rate, steps=plan.steps
    )
    claimed, _ = best_epsilon(curve_of(mechanism), delta)
    return audited(scores, mechanism, claimed_epsilon=claimed, delta=delta)


def audit_check(facts: AuditFacts | None) -> GateCheck:
    """Return the gate's check: it fails where the bound lies above the claim, and where nothing was audited."""
    if facts is None:
        return GateCheck(name=AUDIT_CHECK, passed=False, detail="not audited")
    return GateCheck(
        name=AUDIT_CHECK,
        passed=facts.empirical_epsilon <= facts.claimed_epsilon,
        value=facts.empirical_epsilon,
        threshold=facts.claimed_epsilon,
        detail=f"lower bound on epsilon from {facts.canaries} canaries, at confidence {facts.confidence:g}",
    )
