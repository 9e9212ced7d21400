"""What follows an alarm: people are told, and where the policy says so a round comes sooner or the base answers.

An alarm follows from what a charged reading released, so nothing more is charged for what is done about it. It happens
in the transaction that releases the reading, at the reading's public instant, under the lock of the line.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog

from personalization.drift.features import FAMILIES, Side
from personalization.errors import RolloutError
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, DriftFacts, announce
from personalization.registry.steering import set_flag
from personalization.rollouts.values import Flag
from personalization.rounds.queries import bring_forward
from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.drift.tables import DriftReadingRow
    from personalization.drift.values import DriftTerms, Judgement
    from personalization.registry.announcements import AdapterEvents

_log = structlog.get_logger(__name__)
ACTOR: Final = "drift"


class Followed(StrEnum):
    """What an alarm led to."""

    TOLD = "told"
    ROUND_SOONER = "round_sooner"
    ROUND_OPEN = "round_open"  # one was on its way already
    BASE_ANSWERS = "base_answers"
    BASE_ANSWERED = "base_answered"  # it did so already


SENTENCES: Final = {
    Followed.TOLD: "nothing was done about it; the policy asks for an alarm alone",
    Followed.ROUND_SOONER: "the next scheduled round was brought forward",
    Followed.ROUND_OPEN: "a round is on its way already",
    Followed.BASE_ANSWERS: "the base model answers until a person raises the line's flag again",
    Followed.BASE_ANSWERED: "the base model answers already",
}
TO_DO: Final = {
    Followed.TOLD: "look at `discreet drift show TENANT`; open a round, or wait for the next one",
    Followed.ROUND_SOONER: "look at `discreet drift show TENANT`; nothing else is needed if the change is wanted",
    Followed.ROUND_OPEN: "look at `discreet drift show TENANT`; nothing else is needed if the change is wanted",
    Followed.BASE_ANSWERS: "look at `discreet drift show TENANT`; then `discreet adapters flag TENANT on`",
    Followed.BASE_ANSWERED: "look at `discreet drift show TENANT`; publish a version, or raise the flag",
}


def side_of(judgement: Judgement) -> Side:
    """Return what an alarm is about."""
    return next(family.side for family in FAMILIES if family.name == judgement.family)


def sentence_of(judgement: Judgement, followed: Followed) -> str:
    """Say in one public sentence what changed, since when, how sure that is, and what was done."""
    what = next(family.what for family in FAMILIES if family.name == judgement.family)
    since = "" if judgement.since is None else f" since {judgement.since:%Y-%m-%d}"
    return (
        f"It drifted{since}: {what} (statistic {judgement.statistic:.1f}, threshold {judgement.threshold:.1f}); "
        f"{SENTENCES[followed]}."
    )


def react(
    session: Session,
    events: AdapterEvents,
    row: DriftReadingRow,
    terms: DriftTerms,
    judgement: Judgement,
) -> str:
    """Do what the terms of a reading say about its alarm, tell it, and return what followed.

    Args:
        session: the transaction that releases the reading.
        events: where it is told.
        row: the held reading.
        terms: what it was frozen to.
        judgement: the alarm.
    """
    line = registry.lock_line(session, row.line_ref)
    round_id, followed = None, Followed.TOLD
    if terms.on_drift == "train_sooner":
        round_id = bring_forward(session, row.tenant_id, row.domain, actor=ACTOR, at=terms.told_at)
        followed = Followed.ROUND_OPEN if round_id is None else Followed.ROUND_SOONER
    elif terms.on_drift == "fall_back":
        followed = _fall_back(session, events, row, terms, judgement)
    code = f"{side_of(judgement).value}_drift"
    reason = sentence_of(judgement, followed)
    detail = {"line_ref": row.line_ref, "reason_code": code, "reason": reason, "followed": followed.value}
    audit_trail.append(
        session, row.tenant_id, actor=ACTOR, action="drift.alarm", detail=detail, now=terms.told_at
    )
    announce(
        session,
        events,
        line,
        AdapterEventKind.DRIFTED,
        Act(actor=ACTOR, reason=reason, code=code, now=terms.told_at),
        round_id=round_id,
        drift=DriftFacts(
            family=str(judgement.family),
            since=judgement.since,
            statistic=judgement.statistic,
            threshold=judgement.threshold,
            degrees=judgement.degrees,
            level=terms.level,
            followed=followed.value,
        ),
    )
    _log.warning(
        "line_drifted", line_ref=row.line_ref, code=code, outcome=followed.value, action=TO_DO[followed]
    )
    return followed.value


def _fall_back(
    session: Session, events: AdapterEvents, row: DriftReadingRow, terms: DriftTerms, judgement: Judgement
) -> Followed:
    act = Act(
        actor=ACTOR,
        reason=sentence_of(judgement, Followed.BASE_ANSWERS),
        code=f"{side_of(judgement).value}_drift",
        now=terms.told_at,
    )
    try:
        set_flag(session, events, row.tenant_id, row.domain, Flag.OFF, act)
    except RolloutError:  # it serves no version, or its flag is down: decided before anything is written
        return Followed.BASE_ANSWERED
    return Followed.BASE_ANSWERS
