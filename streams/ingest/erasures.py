"""Erasure requests: signals and consents go in one transaction with the certificate that answers, the key before it.

A request is carried out whatever its date says; one dated ahead of the clock counts as made when it arrived, so that no
wrong clock keeps anybody from being erased or moves the legal deadline.

The answer and the tombstones for the compacted consent topic leave through the outbox. Both carry the
request's key, which names the user, so the relay removes those rows the moment they are sent instead of
keeping them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from personalization.registry import queries as registry
from personalization.signals.rows import delete_user_signals
from privacy.boundary.marks import Kind
from privacy.erasure import erase as erasures
from privacy.keys.batch_locks import lock_out_batches
from streams.broker.records import OutgoingRecord
from streams.contracts.codec import Decoded, decode_erasure, encode
from streams.contracts.consent import ConsentPurpose
from streams.contracts.envelope import new_envelope
from streams.contracts.erasure import ErasureCertificateV1, ErasureCompletedV1, ErasureRequestedV1
from streams.contracts.topics import CONSENT, ERASURE_COMPLETED, ERASURES
from streams.ingest.handler import BatchHandler, Decision
from streams.ingest.identity import UserEvents
from streams.ingest.parsed import Parsed, parsed
from streams.outbox.released import released_record
from streams.outbox.rows import SOURCE, add_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.adapters.manifest import Signature
    from privacy.erasure.certificates import BackupRetention
    from privacy.keys.keyring import Keyring
    from privacy.policy.cache import TenantPolicies
    from streams.broker.records import SourceRecord
    from streams.contracts.envelope import Invalid
    from streams.ingest.letters import DeadLetterSink
    from streams.ingest.work import Work

ACTOR = "worker"


class CertificateSigner(Protocol):
    """What signs certificates; adapters are signed with another key, which no worker has."""

    def sign_bytes(self, payload: bytes) -> Signature:
        """Return the signature of a certificate's bytes."""


class ErasureHandler(BatchHandler[ErasureRequestedV1]):
    """Handler of the erasures topic; the answers on it are ours and have no effect."""

    def __init__(
        self,
        *,
        engine: Engine,
        letters: DeadLetterSink,
        clock: Callable[[], datetime],
        keyring: Keyring,
        policies: TenantPolicies,
        max_event_bytes: int,
        signer: CertificateSigner,
        backups: BackupRetention,
    ) -> None:
        super().__init__(ERASURES.name, engine=engine, letters=letters, clock=clock)
        self._users = UserEvents(ERASURES.name, keyring, policies)
        self._max_event_bytes = max_event_bytes
        self._signer = signer
        self._keyring = keyring
        self._backups = backups

    def parse(self, record: SourceRecord) -> Parsed[ErasureRequestedV1] | Invalid | None:
        """Read a request; ``None`` for an answer."""
        decoded = decode_erasure(
            record.headers, record.value, key=record.key, max_bytes=self._max_event_bytes
        )
        if isinstance(decoded, Decoded) and isinstance(decoded.data, ErasureCompletedV1):
            return None
        return parsed(decoded)

    def lock(self, session: Session, works: Sequence[Work[ErasureRequestedV1]]) -> None:
        """Wait for what is being stored of these tenants' users, and hold it off."""
        lock_out_batches(session, {work.event.data.tenant_id for work in works})

    def identify(
        self,
        session: Session,
        works: Sequence[Work[ErasureRequestedV1]],
        now: datetime,
        decision: Decision[ErasureRequestedV1],
    ) -> list[Work[ErasureRequestedV1]]:
        """Name the user of each; a tenant must be registered."""
        return self._users.identify(session, works, now, decision)

    def apply(
        self,
        session: Session,
        works: Sequence[Work[ErasureRequestedV1]],
        now: datetime,
        decision: Decision[ErasureRequestedV1],
    ) -> None:
        """Erase each user and answer with the certificate."""
        for work in works:
            self._erase(session, work, now)
            decision.applied.append(work)

    def _erase(self, session: Session, work: Work[ErasureRequestedV1], now: datetime) -> None:
        event, known = work.event, work.known
        data = event.data
        keys = self._keyring.tenant_keys(session, data.tenant_id, now=now)
        certificate = erasures.erase(
            session,
            known.subject,
            erasure_id=data.request_id,
            requested_at=min(data.occurred_at, now),
            actor=ACTOR,
            now=now,
            store=self._keyring.store,
            backups=self._backups,
            delete_signals=delete_user_signals,
            live_adapters=registry.live_names,
            earlier_names=keys.hashes.names(known.first)[:-1],
        )
        said = ErasureCertificateV1(
            issued_at=certificate.issued_at,
            keys_destroyed=certificate.keys_destroyed,
            live_adapters=certificate.live_adapters,
            statement=certificate.statement,
            audit_digest=certificate.audit_digest,
            backups_until=certificate.backups_until,
            database_backups_until=certificate.database_backups_until,
        )
        signature = self._signer.sign_bytes(said.signed_bytes())
        answer = ErasureCompletedV1(
            tenant_id=data.tenant_id,
            request_id=data.request_id,
            completed_at=now,
            certificate=said.model_copy(
                update={"key_id": signature.key_id, "signature": signature.signature}
            ),
        )
        envelope = new_envelope(
            event_id=f"{known.digest.hex()}.completed",
            source=SOURCE,
            event_type=ERASURE_COMPLETED,
            time=now,
            traceparent=event.traceparent,
        )
        user = f"{data.tenant_id}/{data.user_id}"
        record = encode(answer, envelope, key=user.encode())
        add_record(session, released_record(Kind.CERTIFICATE, record, answer), None)
        for purpose in ConsentPurpose:
            tombstone = OutgoingRecord(CONSENT.name, f"{user}/{purpose.value}".encode(), None, [])
            add_record(session, released_record(Kind.CONSENT_TOMBSTONE, tombstone), None)
