"""What people decide about a tenant's documents: approve, remove, accept, go back; and the event that tells it.

Each decision is one transaction: rows, a signed version of the collection, an audit record, and an event of the line
whose questions the collection is looked up for. A collection for every domain is told on the default domain's line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from personalization.memory import documents, restoring, versions
from personalization.memory.queries import standing
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, MemoryFacts, announce
from privacy.policy import versions as policies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlmodel import Session

    from personalization.memory.documents import Added, Place, Prepared
    from personalization.memory.restoring import RolledBack
    from personalization.memory.sealing import MemoryKeys
    from personalization.registry.announcements import AdapterEvents

Result = TypeVar("Result")
EVERY_DOMAINS: Final = "default"  # line on which a collection for every domain is told


def add(
    session: Session, events: AdapterEvents, keys: MemoryKeys, place: Place, given: Sequence[Prepared]
) -> list[Added]:
    """Make each document the live version of its name, all of them or none; see ``documents.add``."""
    return _told(session, events, place, lambda: documents.add(session, keys, place, given))


def remove(
    session: Session,
    events: AdapterEvents,
    keys: MemoryKeys,
    place: Place,
    document_ids: Iterable[str],
    *,
    earlier: bool = False,
) -> list[Added]:
    """Remove documents for good; see ``documents.remove``."""
    return _told(
        session,
        events,
        place,
        lambda: documents.remove(session, keys, place, document_ids, earlier=earlier),
    )


def accept(session: Session, events: AdapterEvents, keys: MemoryKeys, place: Place, document_id: str) -> None:
    """Let the marked passages of a live document be sent; see ``documents.accept``."""
    _told(session, events, place, lambda: documents.accept(session, keys, place, document_id))


def roll_back(
    session: Session, events: AdapterEvents, keys: MemoryKeys, place: Place, to: int | None = None
) -> RolledBack:
    """Make the documents of an earlier version live again; see ``restoring.roll_back``."""
    return _told(session, events, place, lambda: restoring.roll_back(session, keys, place, to))


def _told(session: Session, events: AdapterEvents, place: Place, change: Callable[[], Result]) -> Result:
    """Make a change, and tell it where it made a version; the line is locked before the tenant, as everywhere."""
    policies.tenant(session, place.tenant_id)
    domain = place.domain
    if domain is None:
        _, domain = standing(session, place.tenant_id, place.collection)
    line = registry.ensure_line(session, place.tenant_id, domain or EVERY_DOMAINS, now=place.now)
    line = registry.lock_line(session, line.line_ref)
    before, _ = standing(session, place.tenant_id, place.collection)
    done = change()
    number, _ = standing(session, place.tenant_id, place.collection)
    made = None if number == before else versions.find(session, place.tenant_id, place.collection, number)
    if made is not None:
        announce(
            session,
            events,
            line,
            AdapterEventKind.MEMORY_CHANGED,
            Act(
                actor=place.actor.strip(),
                reason=place.reason or made.decision.replace("_", " "),
                now=place.now,
            ),
            memory=MemoryFacts(
                collection=made.collection,
                number=made.number,
                version_id=made.version_id,
                decision=made.decision,
                restores=made.restores,
                documents=made.documents,
            ),
        )
    return done
