"""Consent events become each user's newest statement per purpose, ordered by when the user decided.

That time is the sender's word. A grant dated ahead of the clock would outlast every withdrawal until then, so it is
refused; a withdrawal dated ahead is never lost to a wrong clock, and counts as made at the latest time believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.rollouts import comparison_rows, reactions
from privacy.clock import CLOCK_TOLERANCE, from_the_future
from privacy.consent import statements as consents
from privacy.consent.admission import Consent
from privacy.consent.statements import ConsentStatement
from privacy.keys.batch_locks import join_batches
from privacy.keys.destruction import erased_among
from streams.contracts.codec import decode_consent
from streams.contracts.consent import ConsentPurpose, ConsentV1
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.topics import CONSENT, CONSENT_GRANTED
from streams.ingest.handler import BatchHandler, Decision
from streams.ingest.identity import UserEvents
from streams.ingest.parsed import Parsed, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from privacy.keys.keyring import Keyring
    from privacy.policy.cache import TenantPolicies
    from streams.broker.records import SourceRecord
    from streams.contracts.envelope import Invalid
    from streams.ingest.letters import DeadLetterSink
    from streams.ingest.work import Work


class ConsentHandler(BatchHandler[ConsentV1]):
    """Handler of the consent topic; a tombstone there is compaction's business and has no effect."""

    def __init__(
        self,
        *,
        engine: Engine,
        letters: DeadLetterSink,
        clock: Callable[[], datetime],
        keyring: Keyring,
        policies: TenantPolicies,
        max_event_bytes: int,
    ) -> None:
        super().__init__(CONSENT.name, engine=engine, letters=letters, clock=clock)
        self._users = UserEvents(CONSENT.name, keyring, policies)
        self._max_event_bytes = max_event_bytes

    def parse(self, record: SourceRecord) -> Parsed[ConsentV1] | Invalid | None:
        """Read a consent."""
        if record.value is None:
            return None
        return parsed(
            decode_consent(record.headers, record.value, key=record.key, max_bytes=self._max_event_bytes)
        )

    def lock(self, session: Session, works: Sequence[Work[ConsentV1]]) -> None:
        """Hold off erasures: one that comes now finds what is stored here."""
        join_batches(session, {work.event.data.tenant_id for work in works})

    def identify(
        self,
        session: Session,
        works: Sequence[Work[ConsentV1]],
        now: datetime,
        decision: Decision[ConsentV1],
    ) -> list[Work[ConsentV1]]:
        """Name the user of each; a tenant must be registered."""
        return self._users.identify(session, works, now, decision)

    def apply(
        self,
        session: Session,
        works: Sequence[Work[ConsentV1]],
        now: datetime,
        decision: Decision[ConsentV1],
    ) -> None:
        """Record the statements of users who were not erased, but for grants from the future."""
        erased = erased_among(session, {work.known.subject for work in works})
        statements: list[ConsentStatement] = []
        for work in works:
            subject = work.known.subject
            if subject in erased:
                decision.refuse(work, DeadLetterReason.USER_ERASED, "user_id: was erased")
                continue
            data = work.event.data
            granted = work.event.event_type == CONSENT_GRANTED
            if granted and from_the_future(data.occurred_at, now):
                decision.refuse(
                    work, DeadLetterReason.IN_THE_FUTURE, "occurred_at: a grant lies ahead of the clock"
                )
                continue
            consent = Consent(
                granted=granted,
                notice_version=data.notice_version,
                occurred_at=min(data.occurred_at, now + CLOCK_TOLERANCE),
            )
            statements.append(ConsentStatement(subject=subject, purpose=data.purpose.value, consent=consent))
            decision.applied.append(work)
        consents.record(session, statements, now=now)
        left = {
            one.subject
            for one in statements
            if not one.consent.granted and one.purpose == ConsentPurpose.EVALUATION.value
        }
        # A comparison that takes a look now is waited for here, and not over the rows of its users, which it locks in
        # an order of its own: who is ended for a deadlock there loses a look that is paid for.
        comparison_rows.wanted(session, {tenant_id for tenant_id, _ in left})
        reactions.withdrawn(session, left)
