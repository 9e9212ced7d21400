"""Records on their way into the outbox pass the boundary: every field of the data and every header has a mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.boundary.marks import Kind, Released
from privacy.boundary.register import BOUNDARY

if TYPE_CHECKING:
    from streams.contracts.fields import WireModel
    from streams.outbox.rows import Sendable


def released_record(kind: Kind, record: Sendable, data: WireModel | None = None) -> Released[Sendable]:
    """Return a record as released; ``data`` is what its value says, ``None`` for a tombstone.

    Raises:
        BoundaryError: a field or header has no mark.
    """
    BOUNDARY.require(Kind.ENVELOPE, [name for name, _ in record.headers])
    return BOUNDARY.release(kind, record, {} if data is None else data.model_dump(mode="json"))
