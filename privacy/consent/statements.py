"""Store and look up consents, in batches, inside the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, or_
from sqlmodel import col, select

from privacy.consent.admission import Consent, newer
from privacy.consent.tables import ConsentRow
from privacy.storage.subjects import Subject, wanted
from privacy.storage.upserts import insert_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from sqlmodel import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsentStatement:
    """A user of a tenant said something about one purpose."""

    subject: Subject
    purpose: str
    consent: Consent


def recorded(session: Session) -> int:
    """Return how many statements are stored, of all users and purposes."""
    return session.exec(select(func.count()).select_from(ConsentRow)).one()


def record(session: Session, statements: Iterable[ConsentStatement], *, now: datetime) -> None:
    """Store what users said; of several statements on one purpose the newest (by event time) counts.

    The outcome does not depend on the order of arrival, and storing a statement again changes nothing.
    Statements of users who were erased are the caller's to leave out (``erasures.erased_among``).
    """
    newest: dict[tuple[str, str, str], Consent] = {}
    for statement in statements:
        key = (*statement.subject, statement.purpose)
        known = newest.get(key)
        newest[key] = statement.consent if known is None else newer(known, statement.consent)
    if not newest:
        return
    insert = insert_for(session, ConsentRow)
    given = insert.excluded
    counts_more = or_(
        given.occurred_at > ConsentRow.occurred_at,
        and_(given.occurred_at == ConsentRow.occurred_at, ~given.granted, col(ConsentRow.granted)),
    )
    upsert = insert.on_conflict_do_update(
        index_elements=["tenant_id", "pseudonym", "purpose"],
        set_={
            "granted": given.granted,
            "notice_version": given.notice_version,
            "occurred_at": given.occurred_at,
            "recorded_at": given.recorded_at,
        },
        where=counts_more,
    )
    # Sorted, so that two transactions that touch the same users wait for each other instead of deadlocking.
    rows = [
        {
            "tenant_id": tenant_id,
            "pseudonym": pseudonym,
            "purpose": purpose,
            "granted": consent.granted,
            "notice_version": consent.notice_version,
            "occurred_at": consent.occurred_at,
            "recorded_at": now,
        }
        for (tenant_id, pseudonym, purpose), consent in sorted(newest.items(), key=lambda item: item[0])
    ]
    session.connection().execute(upsert, rows)


def lookup(session: Session, subjects: Iterable[tuple[str, str]]) -> Mapping[Subject, Mapping[str, Consent]]:
    """Return the newest statement per purpose of each (tenant, pseudonym).

    Users who said nothing are left out. One SQL statement, however many users are asked for.
    """
    asked = wanted(session, subjects)
    columns = (
        ConsentRow.tenant_id,
        ConsentRow.pseudonym,
        ConsentRow.purpose,
        ConsentRow.granted,
        ConsentRow.notice_version,
        ConsentRow.occurred_at,
    )
    # Columns, not row objects: ingest asks for thousands of users per transaction.
    statement = select(*columns).join(  # type: ignore[call-overload]  # no overload for six columns
        asked,
        (col(ConsentRow.tenant_id) == asked.c.tenant_id) & (col(ConsentRow.pseudonym) == asked.c.pseudonym),
    )
    found: dict[Subject, dict[str, Consent]] = {}
    for tenant_id, pseudonym, purpose, granted, notice_version, occurred_at in session.execute(statement):
        of_user = found.setdefault(Subject(tenant_id, pseudonym), {})
        of_user[purpose] = Consent(granted=granted, notice_version=notice_version, occurred_at=occurred_at)
    return found


def consenting(session: Session, tenant_id: str, purpose: str) -> frozenset[str]:
    """Return the pseudonyms of the tenant's users who consent to ``purpose`` now.

    For the choice of a release's users only: its size is private and must not be shown, logged or decided on.
    """
    return frozenset(
        session.exec(
            select(ConsentRow.pseudonym).where(
                ConsentRow.tenant_id == tenant_id, ConsentRow.purpose == purpose, col(ConsentRow.granted)
            )
        )
    )


def delete_statements(session: Session, tenant_id: str, pseudonym: str) -> int:
    """Delete everything a user ever agreed to or withdrew and return how many statements there were."""
    result = session.connection().execute(
        delete(ConsentRow).where(
            col(ConsentRow.tenant_id) == tenant_id, col(ConsentRow.pseudonym) == pseudonym
        )
    )
    return result.rowcount
