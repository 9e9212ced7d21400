"""Admitted interactions become reactions of a comparison: those of consenting users, to the version that they drew.

The arm is the draw of the user's own name, worked out here again, and not what an event says. An answer of another
version than that (the engine did not hold it, the product asked for another) is no reaction of either arm.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from personalization.rollouts import comparison_rows as compared_rows
from personalization.rollouts import reactions
from personalization.rollouts.reactions import Reaction
from personalization.signals.values import acceptance
from privacy.policy.values import DataPurpose
from streams.contracts.adapter import drawn_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.consent.standing import Standing
    from privacy.storage.subjects import Subject
    from streams.ingest.reading import Interaction
    from streams.ingest.work import Work


def keep_reactions(
    session: Session,
    works: Sequence[Work[Interaction]],
    standings: Mapping[Subject, Standing],
    now: datetime,
) -> None:
    """Add what these interactions say of versions that are compared now, at most one row a user.

    Args:
        session: inside the caller's transaction, which joined the batches.
        works: admitted, of tenants whose policy has reactions decide.
        standings: what their users agreed to.
        now: the clock; it says to which look a user's first reaction belongs.
    """
    compared = compared_rows.wanted(session, {work.known.subject.tenant_id for work in works})
    of_line = {(one.tenant_id, one.domain): one for one in compared}
    plans = {one.candidate_version_id: compared_rows.plan_of(one) for one in compared}
    found: dict[str, list[Reaction]] = defaultdict(list)
    for work in works:
        data, subject = work.event.data, work.known.subject
        comparison = of_line.get((subject.tenant_id, data.domain))
        consent = standings[subject].consents.get(DataPurpose.EVALUATION.value)
        if comparison is None or consent is None or not consent.granted:
            continue
        if data.occurred_at < comparison.begun_at:
            continue  # to an answer of an earlier step
        share = plans[comparison.candidate_version_id].share
        candidate = drawn_at(comparison.salt, data.user_id) < share * 100
        if data.served_name == (comparison.candidate_name if candidate else comparison.version_name):
            quarters = acceptance(data.outcome, data.rating)
            found[comparison.candidate_version_id].append(Reaction(subject.pseudonym, candidate, quarters))
    for comparison in compared:
        plan = plans[comparison.candidate_version_id]
        look = plan.look_at(comparison.begun_at, now)
        if now >= comparison.begun_at and look < plan.mechanism.looks:
            told = found[comparison.candidate_version_id]
            reactions.keep(session, comparison, look, plan.reactions_per_user, told)
