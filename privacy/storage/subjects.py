"""Joins with a list of users of any length, as one bound parameter.

A worker asks for thousands of (tenant, pseudonym) pairs at once. As one JSON parameter the statement stays
the same for every batch (it is compiled once), does not meet a limit on parameters, and the database looks
each pair up by its primary key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
from sqlalchemy import String, bindparam, text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Subquery
    from sqlmodel import Session


class Subject(NamedTuple):
    """One user of one tenant."""

    tenant_id: str
    pseudonym: str


_WANTED = {
    "sqlite": "SELECT DISTINCT value ->> 0 AS tenant_id, value ->> 1 AS pseudonym FROM json_each(:subjects)",
    "postgresql": "SELECT DISTINCT value ->> 0 AS tenant_id, value ->> 1 AS pseudonym "
    "FROM json_array_elements(CAST(:subjects AS json))",
}


PLACED_SUBJECTS: Final = {
    "sqlite": "(SELECT key AS place, value ->> 0 AS tenant_id, value ->> 1 AS pseudonym, value ->> 2 AS period_index"
    " FROM json_each(?)) w",
    "postgresql": "(SELECT place - 1 AS place, value ->> 0 AS tenant_id, value ->> 1 AS pseudonym,"
    " CAST(value ->> 2 AS bigint) AS period_index"
    " FROM json_array_elements(CAST(%s AS json)) WITH ORDINALITY AS e(value, place)) w",
}
"""FROM item ``w(place, tenant_id, pseudonym, period_index)`` over one JSON parameter, for the driver itself.

The parameter is an array of [tenant, pseudonym] or [tenant, pseudonym, period]; ``place`` is the index in it.
"""


def wanted_tenants(session: Session, tenant_ids: Iterable[str]) -> Subquery:
    """Return a subquery ``wanted(tenant_id, pseudonym)`` that holds ``tenant_ids`` once each, to join with."""
    return wanted(session, ((tenant_id, "") for tenant_id in tenant_ids))


def wanted(session: Session, subjects: Iterable[tuple[str, str]]) -> Subquery:
    """Return a subquery ``wanted(tenant_id, pseudonym)`` that holds ``subjects`` once each, to join with."""
    statement = text(_WANTED[session.get_bind().dialect.name]).bindparams(
        bindparam("subjects", orjson.dumps([[*subject] for subject in subjects]).decode(), String)
    )
    return statement.columns(tenant_id=String, pseudonym=String).subquery("wanted")
