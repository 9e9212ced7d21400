"""What a choice is frozen to when it is reserved, when it may be told, and what shows that it is what was reserved."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from personalization.choices.ballots import MOST_EXAMPLES, MOST_TOKENS
from personalization.choices.values import ChoiceTerms
from personalization.errors import PromptChoiceError
from personalization.rounds.slots import LONGEST_WINDOW, slots_end, told_at
from privacy.accounting.calibration import calibrate_policy, release_mechanisms
from privacy.errors import CalibrationError
from privacy.ledger.spending import spent_budget

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from personalization.choices.tables import PromptChoiceRow
    from privacy.ledger import Reservation
    from privacy.mechanisms.documents import Mechanism
    from privacy.mechanisms.exponential_choice import ExponentialChoice
    from privacy.policy.values import TenantPrivacyPolicy


def frozen(
    row: PromptChoiceRow,
    policy: TenantPrivacyPolicy,
    version: int,
    mechanism: ExponentialChoice,
    candidates: tuple[str, ...],
    *,
    base: str,
    now: datetime,
) -> ChoiceTerms:
    """Return the public numbers that a choice goes by from its reservation on.

    Args:
        row: what was asked for.
        policy: the tenant's newest.
        version: of the policy.
        mechanism: what is charged.
        candidates: digests of the templates.
        base: digest of the weights of the model that is asked.
        now: when it is reserved.
    """
    padding = timedelta(seconds=policy.release_padding_seconds)
    told = told_at(row.asked_at, now, padding)
    drawn_by = told if padding else max(told, now) + LONGEST_WINDOW
    return ChoiceTerms(
        mechanism=mechanism,
        candidates=candidates,
        since=row.asked_at - policy.retention,
        until=row.asked_at,
        contribution_bound=min(policy.contribution_bound, MOST_EXAMPLES),
        max_tokens=MOST_TOKENS,
        base=base,
        percent=row.percent,
        policy_version=version,
        told_at=told,
        drawn_by=drawn_by,
        ends_at=drawn_by + max(3 * padding, LONGEST_WINDOW),  # a round may be told two windows later
    )


def waits_until(session: Session, row: PromptChoiceRow, terms: ChoiceTerms, now: datetime) -> datetime | None:
    """Return until when what was drawn is not told; ``None`` where its instant has come.

    What comes of a padded round of the line is held until its slot ends, and a move would send it at once: see
    ``personalization.drift.protocol``.
    """
    if now < terms.told_at:
        return terms.told_at
    padded = terms.told_at > terms.until
    return slots_end(session, row.tenant_id, row.domain, now) if padded and terms.percent > 0 else None


def release_of(
    session: Session, tenant_id: str, period: int, policy: TenantPrivacyPolicy
) -> tuple[Mechanism, ...]:
    """Return what an account is to suit if this choice opens it: training, which most of it is for."""
    spent = spent_budget(session, tenant_id, period)
    if spent.lifetime is not None and spent.period is not None:
        return ()
    try:
        return release_mechanisms(policy, calibrate_policy(policy))
    except CalibrationError:
        return ()


def terms_of(row: PromptChoiceRow) -> ChoiceTerms:
    """Return what a choice is frozen to.

    Raises:
        PromptChoiceError: it was never reserved, or is damaged.
    """
    if row.terms_json is None:
        raise PromptChoiceError("the choice has no terms; it was never reserved")
    return ChoiceTerms.from_json(row.terms_json)


def key_of(row: PromptChoiceRow, terms: ChoiceTerms) -> str:
    """Return the key of the reservation: it names the terms, so nothing else is read on the same charge."""
    return f"choice-{row.choice_id}-{terms.digest().removeprefix('sha256:')}"


def departure(reservation: Reservation, row: PromptChoiceRow, terms: ChoiceTerms) -> str | None:
    """Say in what a choice differs from what was reserved for; None where it does not."""
    if reservation.mechanisms != (terms.mechanism,):
        return "the mechanism that is charged is not that of the terms"
    return (
        None
        if reservation.idempotency_key == key_of(row, terms)
        else "the terms are not those that were reserved for"
    )
