"""Destroying a user's key for good, which erases what was encrypted under it, and asking whose was destroyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlmodel import col, select

from privacy.keys.tables import SubjectKeyRow, TenantKeyRow
from privacy.storage.subjects import Subject, wanted
from privacy.storage.upserts import insert_ignoring_conflicts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.keys.store import KeyStore


def destroy_key(
    session: Session, store: KeyStore, names: Sequence[Subject], *, request: bytes, now: datetime
) -> int:
    """Destroy a user's key, leave the mark of it, tell every cache; return how many keys there were.

    The key is gone from the key store on return, whatever becomes of the caller's transaction; the mark belongs to
    that. A repeat after a crash in between counts the key again.

    Args:
        session: inside the caller's transaction, which locks batches out.
        store: the key store.
        names: all names that the user has or had, the present one last.
        request: digest that tells this request of this user from all others.
        now: the clock.
    """
    tenant_id, pseudonym = names[-1]
    mark = {"tenant_id": tenant_id, "pseudonym": pseudonym, "created_at": now, "destroyed_at": now}
    insert_ignoring_conflicts(session, SubjectKeyRow, [mark])
    session.connection().execute(
        update(TenantKeyRow)
        .where(col(TenantKeyRow.tenant_id) == tenant_id)
        .values(erasures=col(TenantKeyRow.erasures) + 1)
    )
    return store.destroy_user_keys(names, request, now)


def erasure_counts(session: Session, tenant_ids: Collection[str]) -> dict[str, int]:
    """Return how often a user key was destroyed, of each tenant that has keys; it only grows."""
    return dict(
        session.exec(
            select(TenantKeyRow.tenant_id, TenantKeyRow.erasures).where(
                col(TenantKeyRow.tenant_id).in_(tenant_ids), col(TenantKeyRow.erasures) > 0
            )
        ).all()
    )


def raise_erasure_count(session: Session, tenant_id: str, least: int) -> None:
    """Bring a tenant's count to at least ``least``: erasures that a restored backup lacks were carried out again."""
    session.execute(
        update(TenantKeyRow)
        .where(col(TenantKeyRow.tenant_id) == tenant_id, col(TenantKeyRow.erasures) < least)
        .values(erasures=least)
    )


def all_erased(session: Session) -> Iterator[tuple[Subject, datetime]]:
    """Yield every user whose key was destroyed, and when."""
    rows = session.exec(
        select(SubjectKeyRow.tenant_id, SubjectKeyRow.pseudonym, SubjectKeyRow.destroyed_at)
        .where(col(SubjectKeyRow.destroyed_at).is_not(None))
        .order_by(col(SubjectKeyRow.tenant_id), col(SubjectKeyRow.pseudonym))
        .execution_options(yield_per=1000)
    )
    for tenant_id, pseudonym, destroyed_at in rows:
        assert destroyed_at is not None
        yield Subject(tenant_id, pseudonym), destroyed_at


def erased_among(session: Session, subjects: Iterable[tuple[str, str]]) -> frozenset[Subject]:
    """Return which of these users were erased; one statement, however many users are asked for."""
    asked = wanted(session, subjects)
    rows = session.exec(
        select(SubjectKeyRow.tenant_id, SubjectKeyRow.pseudonym)
        .join(
            asked,
            (col(SubjectKeyRow.tenant_id) == asked.c.tenant_id)
            & (col(SubjectKeyRow.pseudonym) == asked.c.pseudonym),
        )
        .where(col(SubjectKeyRow.destroyed_at).is_not(None))
    )
    return frozenset(Subject(*row) for row in rows)


def marked_users(session: Session, tenant_id: str, after: str, most: int) -> list[str]:
    """Return up to ``most`` names of the tenant's erased users, from ``after`` on."""
    return list(
        session.exec(
            select(SubjectKeyRow.pseudonym)
            .where(
                SubjectKeyRow.tenant_id == tenant_id,
                SubjectKeyRow.pseudonym > after,
                col(SubjectKeyRow.destroyed_at).is_not(None),
            )
            .order_by(SubjectKeyRow.pseudonym)
            .limit(most)
        )
    )
