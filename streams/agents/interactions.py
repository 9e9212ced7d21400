"""Interactions become signals: admit, bound, redact, seal, store.

Event time rules the period and the retention (``privacy.consent.admit``); order of arrival does not matter,
because the bound keeps the smallest ranks whatever their order. An interaction whose user has not consented
yet is held, since the consent travels on another topic. Consent is read in the transaction that stores, so
it is never stale; policies come from a cache with a stated bound (``streams.tenants``). Statements are per
batch, never per event.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from personalization.signals import StoredSignal
from personalization.storage.signals import UserPeriod, apply_bound, insert_signals
from privacy.consent import Admitted, RefusalReason, admit
from privacy.contribution import Contribution
from privacy.pseudonyms import eviction_rank, pseudonym
from privacy.services import standing
from privacy.storage.subjects import Subject
from streams.agents.handler import BatchHandler, Decision, Parsed
from streams.contracts.codec import Decoded, decode_interaction
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.interaction import InteractionV1
from streams.contracts.topics import INTERACTIONS
from streams.tenants import WITHOUT_POLICY
from streams.translate import signal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from privacy.keyring import Keyring
    from privacy.policy import TenantPrivacyPolicy
    from streams.agents.intake import Work
    from streams.contracts.envelope import Invalid
    from streams.dead_letters import DeadLetterSink
    from streams.records import SourceRecord
    from streams.tenants import TenantPolicies

_MAY_CHANGE = frozenset({RefusalReason.CONSENT_MISSING, RefusalReason.PURPOSE_NOT_ALLOWED})
_LETTERS = {
    RefusalReason.SUBJECT_ERASED: (DeadLetterReason.USER_ERASED, "user_id: was erased"),
    RefusalReason.CONSENT_MISSING: (DeadLetterReason.CONSENT_MISSING, "user_id: no consent is known"),
    RefusalReason.CONSENT_WITHDRAWN: (DeadLetterReason.CONSENT_WITHDRAWN, "user_id: consent was withdrawn"),
    RefusalReason.PURPOSE_NOT_ALLOWED: (
        DeadLetterReason.PURPOSE_NOT_ALLOWED,
        "user_id: consented only to purposes outside the tenant's policy",
    ),
    RefusalReason.DOMAIN_UNKNOWN: (
        DeadLetterReason.SCHEMA_VIOLATION,
        "domain: is not in the tenant's policy",
    ),
    RefusalReason.RETENTION_PASSED: (
        DeadLetterReason.TOO_LATE,
        "occurred_at: is older than the tenant's retention",
    ),
    RefusalReason.FROM_THE_FUTURE: (DeadLetterReason.IN_THE_FUTURE, "occurred_at: lies ahead of the clock"),
}


class InteractionHandler(BatchHandler[InteractionV1]):
    """Handler of the interactions topic.

    Args:
        engine: database of signals and bookkeeping.
        letters: where refused records go.
        clock: aware UTC.
        keyring: pseudonyms and encryption.
        policies: newest policies, looked up per batch.
        redact: takes personal data out of a text.
        max_event_bytes: largest value of an event.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        letters: DeadLetterSink,
        clock: Callable[[], datetime],
        keyring: Keyring,
        policies: TenantPolicies,
        redact: Callable[[str], str],
        max_event_bytes: int,
    ) -> None:
        super().__init__(INTERACTIONS.name, engine=engine, letters=letters, clock=clock)
        self._keyring = keyring
        self._policies = policies
        self._redact = redact
        self._max_event_bytes = max_event_bytes

    def decode(self, record: SourceRecord) -> Decoded[Any] | Invalid | None:
        """Read an interaction."""
        return decode_interaction(
            record.headers, record.value, key=record.key, max_bytes=self._max_event_bytes
        )

    def apply(
        self, session: Session, works: Sequence[Work], now: datetime, decision: Decision[InteractionV1]
    ) -> None:
        """Store the signals of the admitted interactions, within each user's bound."""
        tenant_ids = {work.parsed.data.tenant_id for work in works}
        policies = self._policies.lookup(session, tenant_ids)
        keys = {name: self._keyring.tenant_keys(session, name, now=now).pseudonym_key for name in policies}
        named: list[tuple[Work, Subject]] = []
        for work in works:
            data: InteractionV1 = work.parsed.data
            key = keys.get(data.tenant_id)
            if key is None:
                decision.refuse(work, DeadLetterReason.TENANT_UNKNOWN, "tenant_id: is not registered")
            else:
                named.append((work, Subject(data.tenant_id, pseudonym(key, data.tenant_id, data.user_id))))
        admitted = self._admitted(session, named, policies, now, decision)
        self._store(session, admitted, policies, keys, now)
        decision.applied = [parsed for parsed, _ in admitted]

    def _admitted(
        self,
        session: Session,
        named: Sequence[tuple[Work, Subject]],
        policies: Mapping[str, TenantPrivacyPolicy | None],
        now: datetime,
        decision: Decision[InteractionV1],
    ) -> list[tuple[Parsed[InteractionV1], Subject]]:
        standings = standing.lookup(session, {subject for _, subject in named})
        admitted: list[tuple[Parsed[InteractionV1], Subject]] = []
        for work, subject in named:
            parsed: Parsed[InteractionV1] = work.parsed
            stands = standings[subject]
            verdict = admit(
                occurred_at=parsed.data.occurred_at,
                domain=parsed.data.domain,
                consents=stands.consents,
                erased=stands.erased,
                policy=policies[subject.tenant_id],
                now=now,
            )
            if isinstance(verdict, Admitted):
                admitted.append((parsed, subject))
            elif verdict.reason in _MAY_CHANGE and not work.final:
                decision.held.append(work)
            else:
                decision.refuse(work, *_LETTERS[verdict.reason])
        return admitted

    def _store(
        self,
        session: Session,
        admitted: Sequence[tuple[Parsed[InteractionV1], Subject]],
        policies: Mapping[str, TenantPrivacyPolicy | None],
        keys: Mapping[str, bytes],
        now: datetime,
    ) -> None:
        offered: dict[UserPeriod, list[Contribution]] = defaultdict(list)
        placed: dict[bytes, tuple[InteractionV1, Subject, int, bytes]] = {}
        for parsed, subject in admitted:
            policy = policies[subject.tenant_id] or WITHOUT_POLICY
            period = policy.period_index(parsed.data.occurred_at)
            rank = eviction_rank(keys[subject.tenant_id], subject.pseudonym, parsed.digest)
            offered[subject.tenant_id, subject.pseudonym, period].append(Contribution(rank, parsed.digest))
            placed[parsed.digest] = (parsed.data, subject, period, rank)
        bounds = {name: (policy or WITHOUT_POLICY).contribution_bound for name, policy in policies.items()}
        entering = apply_bound(session, offered, bounds)
        chosen = {digest: place for digest, place in placed.items() if digest in entering}
        sealed = self._keyring.encrypt_many(
            session,
            [(*subject, signal_of(data, self._redact).to_bytes()) for data, subject, _, _ in chosen.values()],
            now=now,
        )
        signals = [
            StoredSignal(
                event_digest=digest,
                tenant_id=subject.tenant_id,
                pseudonym=subject.pseudonym,
                domain=data.domain,
                period_index=period,
                rank=rank,
                occurred_at=data.occurred_at,
                ciphertext=ciphertext,
            )
            for (digest, (data, subject, period, rank)), ciphertext in zip(
                chosen.items(), sealed, strict=True
            )
        ]
        insert_signals(session, signals)
