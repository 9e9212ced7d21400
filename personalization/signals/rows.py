"""Stored signals: a batch goes in with the bound applied in the same transaction; what is too old or erased goes out.

Whoever is erased has reactions to candidates deleted with the signals (``personalization.rollouts.reactions``).

One statement reads what a batch's users already have, one inserts, at most one deletes; no statement runs per event.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import orjson
from sqlalchemy import BigInteger, Index, LargeBinary, delete, func, select, text
from sqlmodel import Field, SQLModel

from personalization.rollouts.reactions import delete_user
from personalization.signals.bound import Contribution, reduce
from personalization.signals.values import StoredSignal
from privacy.storage.bulk import insert_rows, moment_writer
from privacy.storage.subjects import PLACED_SUBJECTS, wanted
from privacy.storage.types import UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Table
    from sqlmodel import Session


Item = TypeVar("Item")


PARAMETERS_PER_STATEMENT = 500


class SignalRow(SQLModel, table=True):
    """One signal: in the clear only what retention, the bound and the choice of a release need."""

    __tablename__: ClassVar[Any] = "signals"
    __table_args__ = (
        Index("ix_signals_user", "tenant_id", "pseudonym", "period_index"),
        Index("ix_signals_line", "tenant_id", "domain", "occurred_at"),
    )

    event_digest: bytes = Field(sa_type=LargeBinary, primary_key=True)
    tenant_id: str = Field(max_length=63)
    pseudonym: str = Field(max_length=64)
    domain: str = Field(max_length=63)
    period_index: int = Field(sa_type=BigInteger)
    rank: bytes = Field(sa_type=LargeBinary)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    ciphertext: bytes = Field(sa_type=LargeBinary)


_TABLE: Table = SignalRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes


UserPeriod = tuple[str, str, int]
"""A user in one budget period: (tenant id, pseudonym, period index)."""


_COUNTS = {
    name: "SELECT w.place, (SELECT count(*) FROM signals s WHERE s.tenant_id = w.tenant_id"  # noqa: S608  # from code
    f" AND s.pseudonym = w.pseudonym AND s.period_index = w.period_index) FROM {placed}"
    for name, placed in PLACED_SUBJECTS.items()
}


def _of(session: Session, users: Collection[UserPeriod], *columns: Any) -> Any:
    """Return a SELECT of ``columns`` over the signals of these users in these periods."""
    asked = wanted(session, {(tenant_id, pseudonym) for tenant_id, pseudonym, _ in users})
    return (
        select(_TABLE.c.tenant_id, _TABLE.c.pseudonym, _TABLE.c.period_index, *columns)
        .join(asked, (_TABLE.c.tenant_id == asked.c.tenant_id) & (_TABLE.c.pseudonym == asked.c.pseudonym))
        .where(_TABLE.c.period_index.in_({period for _, _, period in users}))
    )


def _stored_counts(session: Session, users: Collection[UserPeriod]) -> Mapping[UserPeriod, int]:
    asked = list(users)
    connection = session.connection()
    parameter = orjson.dumps(asked).decode()
    rows = connection.exec_driver_sql(_COUNTS[connection.dialect.name], (parameter,)).all()
    return {asked[place]: count for place, count in rows}


def _stored_contributions(
    session: Session, users: Collection[UserPeriod]
) -> Mapping[UserPeriod, Collection[Contribution]]:
    found: dict[UserPeriod, list[Contribution]] = defaultdict(list)
    statement = _of(session, users, _TABLE.c.rank, _TABLE.c.event_digest)
    for tenant_id, pseudonym, period, rank, digest in session.connection().execute(statement):
        found[tenant_id, pseudonym, period].append(Contribution(bytes(rank), bytes(digest)))
    return found


class Ranked(Protocol):
    """A new signal as the bound sees it."""

    @property
    def rank(self) -> bytes:
        """Its place in the user's order."""

    @property
    def event_digest(self) -> bytes:
        """Identity of its event."""


def apply_bound(
    session: Session,
    offered: Sequence[Ranked],
    users: Mapping[UserPeriod, Sequence[int]],
    bounds: Mapping[str, int],
) -> set[bytes]:
    """Delete the stored signals that the offered ones drive out, and return the digests of those that do not enter.

    Ranks are read only of users for whom the bound is in reach; for the others a count is enough.

    Args:
        session: inside the caller's transaction.
        offered: new signals.
        users: each user and period of them, with the places of theirs in ``offered``.
        bounds: each tenant's contribution bound.
    """
    if not users:
        return set()
    counts = _stored_counts(session, users.keys())
    crowded = [user for user, places in users.items() if counts[user] + len(places) > bounds[user[0]]]
    if not crowded:
        return set()
    stored = _stored_contributions(session, crowded)
    outside: set[bytes] = set()
    evicted: list[bytes] = []
    for user in crowded:
        mine = (offered[place] for place in users[user])
        new = {Contribution(one.rank, one.event_digest) for one in mine}
        change = reduce(stored.get(user, ()), new, bounds[user[0]])
        outside.update(contribution.event_digest for contribution in new - change.entering)
        evicted.extend(contribution.event_digest for contribution in change.evicted)
    delete_signals(session, evicted)
    return outside


def insert_signals(session: Session, signals: Sequence[StoredSignal]) -> None:
    """Insert ``signals`` with one call; sorted by user they go in fastest."""
    moment = moment_writer(session)
    rows = [
        (digest, tenant_id, pseudonym, domain, period, rank, moment(at), ciphertext)
        for digest, tenant_id, pseudonym, domain, period, rank, at, ciphertext in signals
    ]
    insert_rows(session, _TABLE.name, StoredSignal._fields, rows)


def delete_signals(session: Session, event_digests: Sequence[bytes]) -> int:
    """Delete the signals of these events and return how many there were."""
    return sum(
        _rowcount(session.execute(delete(_TABLE).where(_TABLE.c.event_digest.in_(part))))
        for part in _parts(event_digests)
    )


def delete_user_signals(session: Session, tenant_id: str, pseudonym: str) -> int:
    """Delete everything stored of what one user did and return how many signals there were."""
    delete_user(session, tenant_id, pseudonym)
    statement = delete(_TABLE).where(_TABLE.c.tenant_id == tenant_id, _TABLE.c.pseudonym == pseudonym)
    return _rowcount(session.execute(statement))


_LIMITS = {
    "sqlite": "SELECT value ->> 0 AS tenant_id, value ->> 1 AS until FROM json_each(:limits)",
    "postgresql": "SELECT value ->> 0 AS tenant_id, CAST(value ->> 1 AS timestamptz) AS until"
    " FROM json_array_elements(CAST(:limits AS json))",
}
# The index leads from tenant to domain to time, so it is asked for one domain of a tenant after the other.
_EXPIRED = {
    name: text(
        f"WITH RECURSIVE limits AS ({limits}), lines AS ("  # noqa: S608  # from code
        " SELECT tenant_id, until, (SELECT domain FROM signals s WHERE s.tenant_id = limits.tenant_id"
        " ORDER BY domain LIMIT 1) AS domain FROM limits"
        " UNION ALL SELECT tenant_id, until, (SELECT domain FROM signals s WHERE s.tenant_id = lines.tenant_id"
        " AND s.domain > lines.domain ORDER BY domain LIMIT 1) FROM lines WHERE domain IS NOT NULL)"
        " SELECT s.event_digest FROM lines JOIN signals s ON s.tenant_id = lines.tenant_id"
        " AND s.domain = lines.domain AND s.occurred_at < lines.until LIMIT :most"
        f"{' FOR UPDATE OF s SKIP LOCKED' if name == 'postgresql' else ''}"
    )
    for name, limits in _LIMITS.items()
}


def delete_expired_signals(session: Session, before: Mapping[str, datetime], *, most: int) -> int:
    """Delete signals of each tenant that occurred before its instant, and return how many there were.

    Those that somebody else is just deleting are left to them, so that nobody is waited for.

    Args:
        session: inside a transaction that does nothing else.
        before: instant of each tenant.
        most: signals to delete at once; if so many are found, there may be more.
    """
    moment = moment_writer(session)
    limits = orjson.dumps([(tenant_id, moment(at)) for tenant_id, at in before.items()]).decode()
    statement = _EXPIRED[session.get_bind().dialect.name]
    found = session.connection().execute(statement, {"limits": limits, "most": most}).scalars()
    return delete_signals(session, [bytes(digest) for digest in found])


def signal_counts(session: Session, tenant_ids: Collection[str]) -> dict[str, int]:
    """Return how many signals each of these tenants has stored."""
    statement = (
        select(_TABLE.c.tenant_id, func.count())
        .where(_TABLE.c.tenant_id.in_(tenant_ids))
        .group_by(_TABLE.c.tenant_id)
    )
    stored: dict[str, int] = {row[0]: row[1] for row in session.execute(statement)}
    return {tenant_id: stored.get(tenant_id, 0) for tenant_id in tenant_ids}


def _parts(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    return (items[i : i + PARAMETERS_PER_STATEMENT] for i in range(0, len(items), PARAMETERS_PER_STATEMENT))


def _rowcount(result: Any) -> int:
    return int(result.rowcount)
