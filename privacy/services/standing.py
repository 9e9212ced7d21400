"""What ingest must know of a batch's users: whether they were erased, and what they agreed to; one statement."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from privacy.consent import Consent
from privacy.storage.subjects import Subject

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlmodel import Session

_JOINS: Final = (
    " w LEFT JOIN subject_keys k ON k.tenant_id = w.tenant_id AND k.pseudonym = w.pseudonym"
    " LEFT JOIN consents c ON c.tenant_id = w.tenant_id AND c.pseudonym = w.pseudonym"
)
_COLUMNS: Final = "SELECT w.tenant_id, w.pseudonym, c.purpose, c.granted, k.destroyed_at IS NOT NULL FROM "
_ASKED: Final = "(SELECT value ->> 0 AS tenant_id, value ->> 1 AS pseudonym FROM "
_STATEMENTS: Final = {
    "sqlite": _COLUMNS + _ASKED + "json_each(?))" + _JOINS,
    "postgresql": _COLUMNS + _ASKED + "json_array_elements(CAST(%s AS json)))" + _JOINS,
}


@dataclass(slots=True)
class Standing:
    """Where one user stands.

    Attributes:
        erased: the user was erased.
        consents: purpose → what the user said last; only ``granted`` of it is filled in.
    """

    erased: bool = False
    consents: dict[str, Consent] = field(default_factory=dict)


_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SAID: Final = {
    granted: Consent(granted=granted, notice_version="", occurred_at=_NEVER) for granted in (False, True)
}


def lookup(session: Session, subjects: Collection[Subject]) -> Mapping[Subject, Standing]:
    """Return where each of ``subjects`` stands, unknown users included."""
    found = {subject: Standing() for subject in subjects}
    if not found:
        return found
    connection = session.connection()
    # Straight to the driver: thousands of users per transaction, of which two small columns each are wanted.
    asked = orjson.dumps([[*subject] for subject in found]).decode()
    rows: Any = connection.exec_driver_sql(_STATEMENTS[connection.dialect.name], (asked,))
    for tenant_id, pseudonym, purpose, granted, erased in rows:
        standing = found[Subject(tenant_id, pseudonym)]
        standing.erased = bool(erased)
        if purpose is not None:
            standing.consents[purpose] = _SAID[bool(granted)]
    return found
