"""What users' reactions are kept of while two versions are compared: one row a user, one arm, one look, one number.

The price of a comparison rests on this table. A user's row is made by the user's first reaction and fixes arm and look
for good; later reactions are added to it while its look is still to come and fewer than the plan's bound were added,
and change nothing otherwise. No row depends on any other user, so nobody is kept out because others came first.

A row is emptied, not deleted, once its look was taken and when its user withdraws the consent to evaluation: it is what
keeps that user from being counted again. An erasure deletes it, for nothing is ever taken of an erased user again, and
the end of the comparison deletes them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import delete, update
from sqlmodel import col, select

from personalization.rollouts.tables import ReactionRow
from privacy.consent.statements import consenting
from privacy.keys.batch_locks import join_batches
from privacy.keys.renaming import hold_names
from privacy.policy.values import DataPurpose
from privacy.storage.upserts import insert_for

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sqlmodel import Session

    from personalization.rollouts.tables import ComparisonRow
    from personalization.rollouts.values import ComparisonPlan
    from privacy.mechanisms.noisy_comparison import Sums
    from privacy.storage.subjects import Subject

QUARTERS: Final = 4  # in a reaction's range of 1


class Reaction(NamedTuple):
    """One reaction of a user to an answer of the version that the user's own draw gave.

    Attributes:
        pseudonym: who.
        candidate: whether the draw gave the candidate.
        quarters: 0 (rejected) to 4 (accepted).
    """

    pseudonym: str
    candidate: bool
    quarters: int


def keep(
    session: Session, comparison: ComparisonRow, look: int, most: int, reactions: Iterable[Reaction]
) -> None:
    """Add reactions to their users' rows, in order.

    Args:
        session: inside the caller's transaction, which joined the batches.
        comparison: an open one.
        look: that is next.
        most: reactions of one user that count.
        reactions: of users who consent to evaluation.
    """
    insert = insert_for(session, ReactionRow)
    given = insert.excluded
    statement = insert.on_conflict_do_update(
        index_elements=["candidate_version_id", "tenant_id", "pseudonym"],
        set_={
            "total": ReactionRow.total + given.total,
            "reactions": ReactionRow.reactions + given.reactions,
        },
        where=(
            (col(ReactionRow.candidate) == given.candidate)
            & (col(ReactionRow.look) == given.look)
            & (col(ReactionRow.reactions) > 0)
            & (col(ReactionRow.reactions) < most)
        ),
    )
    # By user, so that two transactions that touch the same users wait for each other instead of deadlocking.
    rows = [
        {
            "candidate_version_id": comparison.candidate_version_id,
            "tenant_id": comparison.tenant_id,
            "pseudonym": one.pseudonym,
            "candidate": one.candidate,
            "look": look,
            "total": min(max(one.quarters, 0), QUARTERS),
            "reactions": 1,
        }
        for one in sorted(reactions, key=lambda one: one.pseudonym)
    ]
    if rows:
        session.connection().execute(statement, rows)


def parts(session: Session, comparison: ComparisonRow, plan: ComparisonPlan, look: int) -> Iterator[Sums]:
    """Yield what each user of a look adds to its sums; this is the private read.

    Only users who consent to evaluation now. A user has one row, so no user is in two arms or two looks.
    """
    join_batches(session, [comparison.tenant_id])
    hold_names(
        session, comparison.tenant_id
    )  # reactions and consents are two statements; a user has one name in both
    agreed = consenting(session, comparison.tenant_id, DataPurpose.EVALUATION)
    arms = plan.arms
    found = session.exec(
        select(ReactionRow.pseudonym, ReactionRow.candidate, ReactionRow.total, ReactionRow.reactions).where(
            ReactionRow.candidate_version_id == comparison.candidate_version_id,
            ReactionRow.look == look,
            ReactionRow.reactions > 0,
        )
    )
    for pseudonym, candidate, total, reactions in found:
        if pseudonym in agreed:
            yield arms.part(total / (QUARTERS * reactions), candidate=candidate)


def empty_look(session: Session, comparison: ComparisonRow, look: int) -> None:
    """Take the numbers out of the rows of a look that was taken; who was in it stays known."""
    _empty(
        session,
        (col(ReactionRow.candidate_version_id) == comparison.candidate_version_id)
        & (col(ReactionRow.look) == look),
    )


def withdrawn(session: Session, subjects: Collection[Subject]) -> None:
    """Take the numbers out of the rows of users who withdrew; they take no part in their comparisons any more."""
    for tenant_id, pseudonym in sorted(subjects):
        _empty(session, (col(ReactionRow.tenant_id) == tenant_id) & (col(ReactionRow.pseudonym) == pseudonym))


def delete_user(session: Session, tenant_id: str, pseudonym: str) -> None:
    """Delete all reactions of one user."""
    session.connection().execute(
        delete(ReactionRow).where(
            col(ReactionRow.tenant_id) == tenant_id, col(ReactionRow.pseudonym) == pseudonym
        )
    )


def drop(session: Session, candidate_version_id: str) -> None:
    """Delete the reactions of a comparison that has ended."""
    session.connection().execute(
        delete(ReactionRow).where(col(ReactionRow.candidate_version_id) == candidate_version_id)
    )


def _empty(session: Session, where: object) -> None:
    session.connection().execute(update(ReactionRow).where(where).values(total=0, reactions=0))  # type: ignore[arg-type]
