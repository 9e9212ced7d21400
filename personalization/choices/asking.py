"""Ask for a choice among a line's templates: everything that public numbers can refuse is refused at once.

Nothing is read or charged here. A trainer takes what is asked for (``personalization.choices.protocol``) and looks
again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from personalization.adapters.signing import signed_by
from personalization.choices import rows
from personalization.choices.forecast import NOTICED_LEAD, users_needed
from personalization.choices.values import ChoiceOutcome
from personalization.errors import PromptChoiceError, PromptTemplateError
from personalization.prompts import rows as prompts
from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import name_of, signed_bytes
from personalization.registry import queries as registry
from personalization.registry.prompting import MOST_VERSIONS, require_reason
from privacy.accounting.calibration import calibrate_policy
from privacy.accounting.composition import best_epsilon, curve_of
from privacy.accounting.forecast import ClarityRule, outlook
from privacy.audit import trail as audit_trail
from privacy.errors import BudgetExhaustedError, CalibrationError
from privacy.ledger.spending import spent_budget
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.policy import versions as policies
from privacy.policy.values import DataPurpose

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.choices.tables import PromptChoiceRow
    from personalization.prompts.tables import PromptTemplateRow
    from personalization.prompts.values import PromptTemplate
    from personalization.registry.announcements import Act
    from privacy.accounting.curve import RdpCurve
    from privacy.accounting.forecast import SpentBudget
    from privacy.policy.ceilings import PolicyCeilings
    from privacy.policy.values import TenantPrivacyPolicy

FEWEST: Final = 2
MOST: Final = 16  # candidates
SMALLEST_EPSILON: Final = 0.05
LARGEST_EPSILON: Final = 4.0


@dataclass(frozen=True, kw_only=True)
class ChoiceForecast:
    """What a choice takes and can tell, by public numbers alone.

    Attributes:
        users_needed: with so many votes the best template is drawn nine times out of ten, where it leads by a fifth.
        declared_users: the policy's public number.
        epsilon_at_delta: what the choice costs by itself, at the lifetime's δ.
        releases_before: trained releases that still fit without it; None where the policy cannot be calibrated, or
            nobody asked.
        releases_after: and with it.
    """

    users_needed: int
    declared_users: int
    epsilon_at_delta: float
    releases_before: int | None
    releases_after: int | None


def ask(
    session: Session,
    tenant_id: str,
    domain: str,
    names: Sequence[str],
    act: Act,
    *,
    epsilon: float,
    percent: float,
    keys: Collection[bytes],
    ceilings: PolicyCeilings | None = None,
    outlooks: bool = True,
) -> tuple[PromptChoiceRow, ChoiceForecast]:
    """Open a choice among templates of a line; a trainer reserves its budget, asks the users, and draws.

    Args:
        session: the caller's transaction.
        tenant_id: whose line.
        domain: which.
        names: of the candidates: number, name or digest, each once.
        act: who asks, why and when.
        epsilon: of the draw.
        percent: share of the subjects that try what is chosen; 0 adds it and gives it to nobody.
        keys: raw public keys that templates may be signed with.
        ceilings: what the platform allows a policy at most.
        outlooks: whether to say how many trained releases still fit, which takes seconds of a processor.

    Raises:
        LineNotFoundError: the tenant's domain has no line.
        PromptNotFoundError: the line has no such template.
        PromptTemplateError: a candidate is damaged, cannot be rendered, or nobody who is trusted signed it.
        PromptChoiceError: public numbers refuse it.
        BudgetExhaustedError: it does not fit into what is left.
    """
    require_reason(act)
    line = registry.require_line(session, tenant_id, domain)
    found = [prompts.find(session, line.line_ref, name) for name in names]
    candidates = [row.version_id for row in found]
    mechanism = _mechanism(candidates, epsilon, percent)
    for one in found:
        template_of(line.line_ref, one, keys)
    if len(prompts.versions_of(session, line.line_ref)) >= MOST_VERSIONS:
        raise PromptChoiceError(
            f"a line has at most {MOST_VERSIONS:,} templates, and what is chosen is one more"
        )
    version = policies.current_policy(session, tenant_id)
    if version is None:
        raise PromptChoiceError("the tenant has no policy, so nothing may be read; set one first")
    outcome = refused(version.policy, mechanism, ceilings)
    if outcome is not None:
        raise PromptChoiceError(_sentence(outcome, version.policy, mechanism))
    forecast = _forecast(session, tenant_id, version.policy, mechanism, act.now, outlooks=outlooks)
    row = rows.open_choice(session, line, candidates, epsilon=epsilon, percent=percent, act=act)
    audit_trail.append(
        session,
        tenant_id,
        actor=act.actor,
        action="prompt.choice_asked",
        detail={
            "line_ref": line.line_ref,
            "reason": act.reason,
            "choice_id": row.choice_id,
            "candidates": candidates,
            "epsilon": epsilon,
            "percent": percent,
        },
        now=act.now,
    )
    return row, forecast


def refused(
    policy: TenantPrivacyPolicy, mechanism: ExponentialChoice, ceilings: PolicyCeilings | None
) -> ChoiceOutcome | None:
    """Say why nothing is read under a policy; None where it may be. Public numbers decide alone."""
    if DataPurpose.EVALUATION not in policy.purposes or DataPurpose.TRAINING not in policy.purposes:
        return ChoiceOutcome.PURPOSE_NOT_ALLOWED
    if ceilings is not None and ceilings.exceeded(policy):
        return ChoiceOutcome.ABOVE_CEILING
    if policy.declared_users < _needed(mechanism):
        return ChoiceOutcome.TOO_FEW_USERS
    return None


def template_of(line_ref: str, row: PromptTemplateRow, keys: Collection[bytes]) -> PromptTemplate:
    """Return the template of a row, which must be what its name says, signed for the line by a trusted key, and usable.

    What is chosen is signed anew, so nothing that the database alone says may become a candidate.

    Raises:
        PromptTemplateError: it is not.
    """
    signed = prompts.read_signed(row)
    if signed.template.version_id != row.version_id or not signed_by(
        keys,
        signed_bytes(line_ref, signed.template),
        key=signed.key_id,
        signature=signed.signature,
    ):
        raise PromptTemplateError(
            f"the template {name_of(row.version_id)} is damaged, or signed by no key of this installation; add it again"
        )
    try:
        rendering_of(signed.template)
    except PromptTemplateError as error:  # an earlier version took it
        raise PromptTemplateError(
            f"the template {name_of(row.version_id)} cannot be used: {error}; add a corrected one and ask with that"
        ) from error
    return signed.template


def _mechanism(candidates: Sequence[str], epsilon: float, percent: float) -> ExponentialChoice:
    if not FEWEST <= len(candidates) <= MOST or len(set(candidates)) != len(candidates):
        raise PromptChoiceError(
            f"{len(candidates)} candidates are named; allowed are {FEWEST} to {MOST} different templates of the line"
        )
    if not SMALLEST_EPSILON <= epsilon <= LARGEST_EPSILON:
        raise PromptChoiceError(
            f"an epsilon of {epsilon:g} is asked for; allowed is {SMALLEST_EPSILON:g} to {LARGEST_EPSILON:g}"
        )
    if not 0 <= percent <= 100:
        raise PromptChoiceError(f"a share of {percent:g} % is asked for; allowed is 0 (nobody) to 100")
    return ExponentialChoice(epsilon=epsilon, candidates=len(candidates))


def _needed(mechanism: ExponentialChoice) -> int:
    return users_needed(candidates=mechanism.candidates, epsilon=mechanism.epsilon)


def _sentence(outcome: ChoiceOutcome, policy: TenantPrivacyPolicy, mechanism: ExponentialChoice) -> str:
    if outcome is ChoiceOutcome.PURPOSE_NOT_ALLOWED:
        return (
            "users' votes are evaluation of text that is kept for training, and the policy does not allow both; set "
            "purposes=training,evaluation, and let users agree to both"
        )
    if outcome is ChoiceOutcome.ABOVE_CEILING:
        return "the tenant's policy is above what the platform allows; change it first"
    return (
        f"{policy.declared_users} users are declared, and {mechanism.candidates} candidates at epsilon "
        f"{mechanism.epsilon:g} need {_needed(mechanism)}, so that one that {NOTICED_LEAD:.0%} more of the users vote "
        "for than for each other is chosen nine times out of ten; name fewer candidates or a larger epsilon"
    )


def _forecast(
    session: Session,
    tenant_id: str,
    policy: TenantPrivacyPolicy,
    mechanism: ExponentialChoice,
    now: datetime,
    *,
    outlooks: bool,
) -> ChoiceForecast:
    spent, curve = spent_budget(session, tenant_id, policy.period_index(now)), curve_of(mechanism)
    for name, opened, charged, epsilon, delta in (
        ("lifetime", spent.lifetime, spent.lifetime_curve, policy.lifetime_epsilon, policy.lifetime_delta),
        ("period", spent.period, spent.period_curve, policy.period_epsilon, policy.period_delta),
    ):
        if opened is not None and not opened.narrowed_to(epsilon, delta).admits(charged, curve):
            raise BudgetExhaustedError(
                f"the {name} budget of tenant {tenant_id!r} does not admit a choice at epsilon {mechanism.epsilon:g}; "
                "nothing was read or charged"
            )
    before, after = _releases(policy, spent, curve, now) if outlooks else (None, None)
    return ChoiceForecast(
        users_needed=_needed(mechanism),
        declared_users=policy.declared_users,
        epsilon_at_delta=best_epsilon(curve, policy.lifetime_delta)[0],
        releases_before=before,
        releases_after=after,
    )


def _releases(
    policy: TenantPrivacyPolicy, spent: SpentBudget, curve: RdpCurve, now: datetime
) -> tuple[int | None, int | None]:
    """Return how many trained releases fit without the choice and with it; None where none can be calibrated."""
    with_it = dataclasses.replace(
        spent, lifetime_curve=spent.lifetime_curve + curve, period_curve=spent.period_curve + curve
    )
    try:
        noise = calibrate_policy(policy)
    except CalibrationError:
        return None, None
    before, after = (
        outlook("choice", policy, noise, spent=one, rule=ClarityRule(), now=now).releases_left
        for one in (spent, with_it)
    )
    return before, after
