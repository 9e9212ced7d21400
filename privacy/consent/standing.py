"""What ingest must know of a batch's users: whether they were erased, and what they agreed to; one statement."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from privacy.consent.admission import Consent
from privacy.storage.subjects import PLACED_SUBJECTS, Subject

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlmodel import Session

# The database answers with the place of each user in the question: a number is cheaper to carry than two texts.
_COLUMNS: Final = "SELECT w.place, c.purpose, c.granted, k.destroyed_at IS NOT NULL FROM "
_JOINS: Final = (
    " LEFT JOIN subject_keys k ON k.tenant_id = w.tenant_id AND k.pseudonym = w.pseudonym"
    " LEFT JOIN consents c ON c.tenant_id = w.tenant_id AND c.pseudonym = w.pseudonym"
)
_STATEMENTS: Final = {name: _COLUMNS + placed + _JOINS for name, placed in PLACED_SUBJECTS.items()}


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


_UNKNOWN: Final = Standing()


def lookup(session: Session, subjects: Collection[Subject]) -> Mapping[Subject, Standing]:
    """Return where each of ``subjects`` stands, unknown users included."""
    if not subjects:
        return {}
    asked = list(dict.fromkeys(subjects))
    found = dict.fromkeys(asked, _UNKNOWN)
    connection = session.connection()
    # Straight to the driver: thousands of users per transaction, of which two small columns each are wanted.
    rows: Any = connection.exec_driver_sql(
        _STATEMENTS[connection.dialect.name], (orjson.dumps([[*subject] for subject in asked]).decode(),)
    ).all()
    for place, purpose, granted, erased in rows:
        if purpose is None and not erased:
            continue
        subject = asked[place]
        standing = found[subject]
        if standing is _UNKNOWN:
            standing = found[subject] = Standing(erased=bool(erased))
        if purpose is not None:
            standing.consents[purpose] = _SAID[bool(granted)]
    return found
