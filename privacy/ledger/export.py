"""An exported ledger: one JSON object a line, readable and verifiable without a database.

    {"line": "header", "format": "discreet-ledger", "version": 1, …}
    {"line": "tenant", "tenant_id": …, "head": {…}}      then its entries in order, accounts and reservations
    {"line": "entry" | "account" | "member" | "reservation", …}      the stored rows, field by field
    {"line": "population", …}                             accounts over several tenants
    {"line": "footer", "lines": n, "digest": "sha256:…"}  over every line before it

It is read in one snapshot, so trainers may go on. It holds nothing of a person.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from sqlmodel import Session, col, select

from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION
from privacy.accounting.curve import GRID_NAME
from privacy.errors import UnknownTenantError
from privacy.ledger.chain import canonical
from privacy.ledger.tables import (
    AccountRow,
    LedgerEntryRow,
    LedgerHeadRow,
    PopulationMemberRow,
    ReservationRow,
)
from privacy.ledger.values import AccountScope

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from sqlalchemy.engine import Engine

EXPORT_FORMAT: Final = "discreet-ledger"
EXPORT_VERSION: Final = 1


def export_ledger(engine: Engine, tenant_ids: list[str] | None = None) -> Generator[str, None, None]:
    """Yield the lines (without line ends) of an export of some tenants, or of all.

    Raises:
        UnknownTenantError: a tenant asked for has no ledger yet.
    """
    digest, count = hashlib.sha256(), 0
    with closing(_documents(engine, tenant_ids)) as documents:
        for document in documents:
            line = canonical(document)
            digest.update(line.encode() + b"\n")
            count += 1
            yield line
    yield canonical({"line": "footer", "lines": count, "digest": "sha256:" + digest.hexdigest()})


def _documents(engine: Engine, tenant_ids: list[str] | None) -> Generator[dict[str, Any], None, None]:
    snapshot = engine
    if engine.dialect.name == "postgresql":
        snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    with Session(snapshot) as session:
        heads = {row.tenant_id: row for row in session.exec(select(LedgerHeadRow)).all()}
        wanted = sorted(heads) if tenant_ids is None else tenant_ids
        for tenant_id in wanted:
            if tenant_id not in heads:
                raise UnknownTenantError(
                    f"tenant {tenant_id} has no ledger; nothing was ever reserved for it"
                )
        yield {
            "line": "header",
            "format": EXPORT_FORMAT,
            "version": EXPORT_VERSION,
            "grid": GRID_NAME,
            "accountant": {"name": ACCOUNTANT, "version": ACCOUNTANT_VERSION},
            "all_tenants": set(wanted) == set(heads),
        }
        for tenant_id in wanted:
            yield from _tenant(session, heads[tenant_id])
        populations = select(AccountRow).where(AccountRow.scope == AccountScope.POPULATION.value)
        for account in session.exec(populations.order_by(AccountRow.account_id)):
            yield {"line": "population", **_fields(account, "orders", "curve")}


def _tenant(session: Session, head: LedgerHeadRow) -> Iterator[dict[str, Any]]:
    tenant_id = head.tenant_id
    place = {"sequence": head.sequence, "digest": head.digest}
    yield {"line": "tenant", "tenant_id": tenant_id, "head": place}
    entries = (
        select(LedgerEntryRow)
        .where(col(LedgerEntryRow.tenant_id) == tenant_id)
        .order_by(col(LedgerEntryRow.sequence))
        .execution_options(yield_per=1000)
    )
    for entry in session.exec(entries):
        yield {"line": "entry", **_fields(entry)}  # the document stays text: those bytes are what is hashed
    accounts = select(AccountRow).where(col(AccountRow.tenant_id) == tenant_id)
    for account in session.exec(accounts.order_by(AccountRow.account_id)):
        yield {"line": "account", **_fields(account, "orders", "curve")}
    members = select(PopulationMemberRow).where(col(PopulationMemberRow.tenant_id) == tenant_id)
    for member in session.exec(members.order_by(PopulationMemberRow.population_id)):
        yield {"line": "member", **_fields(member)}
    reservations = (
        select(ReservationRow)
        .where(col(ReservationRow.tenant_id) == tenant_id)
        .order_by(ReservationRow.reservation_id)
        .execution_options(yield_per=1000)
    )
    for reservation in session.exec(reservations):
        yield {"line": "reservation", **_fields(reservation, "mechanisms", "accounts", "curve", "binding")}


def _fields(
    row: LedgerEntryRow | AccountRow | PopulationMemberRow | ReservationRow, *parsed: str
) -> dict[str, Any]:
    fields: dict[str, Any] = row.model_dump()
    return {
        name: json.loads(value) if name in parsed and value is not None else value
        for name, value in fields.items()
    }
