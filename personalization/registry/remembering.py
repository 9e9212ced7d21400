"""What people decide about a tenant's documents: approve, try, remove, accept, go back; and the event that tells it.

Each decision is one transaction: rows, a signed version of the collection or of its candidate, an audit record, and an
event of the line whose questions the collection is looked up for. A collection for every domain is told on the default
domain's line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from personalization.memory import candidates, documents, restoring, trying, versions
from personalization.memory.queries import collections, standing
from personalization.memory.versions import Decision
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, MemoryFacts, announce
from privacy.policy import versions as policies
from privacy.policy.values import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlmodel import Session

    from personalization.memory.candidates import Candidate
    from personalization.memory.documents import Added, Place, Prepared
    from personalization.memory.restoring import RolledBack
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.trying import Promoted, Tried
    from personalization.registry.announcements import AdapterEvents

Result = TypeVar("Result")
EVERY_DOMAINS: Final = DEFAULT_DOMAIN  # line on which a collection for every domain is told


def may_have_notes(session: Session, tenant_id: str, domain: str) -> bool:
    """Say whether questions on a line may be sent with passages.

    They are where a collection is for its domain or for every one, and may be where the tenant has no collection yet.
    The default domain's adapter also answers where another domain has none, with that one's passages.
    """
    domains = {one.domain for one in collections(session, tenant_id)}
    return not domains or domain == DEFAULT_DOMAIN or not domains.isdisjoint({"", domain})


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


def attempt(
    session: Session,
    events: AdapterEvents,
    keys: MemoryKeys,
    place: Place,
    given: Sequence[Prepared],
    percent: float | None = None,
) -> Tried:
    """Answer a share of the users from changed documents; see ``trying.attempt``."""
    return _told(session, events, place, lambda: trying.attempt(session, keys, place, given, percent))


def promote(session: Session, events: AdapterEvents, keys: MemoryKeys, place: Place) -> Promoted:
    """Make what is tried live for everybody; see ``trying.promote``."""
    return _told(session, events, place, lambda: trying.promote(session, keys, place))


def abandon(session: Session, events: AdapterEvents, place: Place) -> Candidate:
    """Answer nobody from what is tried any more; see ``trying.abandon``."""
    return _told(session, events, place, lambda: trying.abandon(session, place))


def _told(session: Session, events: AdapterEvents, place: Place, change: Callable[[], Result]) -> Result:
    """Make a change, and tell what it made; the line is locked before the tenant, as everywhere."""
    policies.tenant(session, place.tenant_id)
    domain = place.domain
    if domain is None:
        _, domain = standing(session, place.tenant_id, place.collection)
    line = registry.ensure_line(session, place.tenant_id, domain or EVERY_DOMAINS, now=place.now)
    line = registry.lock_line(session, line.line_ref)
    before, _ = standing(session, place.tenant_id, place.collection)
    decided = len(candidates.moves_of(session, place.tenant_id, place.collection))
    done = change()
    number, _ = standing(session, place.tenant_id, place.collection)
    made = None if number == before else versions.find(session, place.tenant_id, place.collection, number)
    facts = [
        MemoryFacts(
            collection=move.collection,
            number=move.number,
            version_id=move.version_id,
            decision=move.decision,
            restores=None,
            documents=move.documents,
            candidate_percent=move.percent,
        )
        for move in candidates.moves_of(session, place.tenant_id, place.collection)[decided:]
        if move.decision != Decision.PROMOTED  # the live version that it became tells that
    ]
    if made is not None:
        facts.append(
            MemoryFacts(
                collection=made.collection,
                number=made.number,
                version_id=made.version_id,
                decision=made.decision,
                restores=made.restores,
                documents=made.documents,
            )
        )
    for one in facts:
        announce(
            session,
            events,
            line,
            AdapterEventKind.MEMORY_CHANGED,
            Act(
                actor=place.actor.strip(),
                reason=place.reason or one.decision.replace("_", " "),
                now=place.now,
            ),
            memory=one,
        )
    return done
