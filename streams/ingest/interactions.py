"""Interactions become signals: read, admit, keep (``personalization.signals.keep``).

Event time rules the period and the retention (``privacy.consent.admission.admit``). An interaction whose user has not
consented yet is held, since the consent travels on another topic. Consent is read in the transaction that stores, so
it is never stale; policies come from a cache with a stated bound (``privacy.policy.cache``). Statements are per
batch, never per event.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Self

from personalization.signals.keep import Offered, keep
from privacy.consent import standing
from privacy.consent.admission import AdmissionRule, RefusalReason
from privacy.keys.batch_locks import join_batches
from privacy.policy.cache import WITHOUT_POLICY
from privacy.policy.values import DataPurpose
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.topics import INTERACTIONS
from streams.ingest.handler import BatchHandler, Decision
from streams.ingest.identity import UserEvents
from streams.ingest.reacting import keep_reactions
from streams.ingest.reading import Interaction, InteractionReader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from privacy.keys.keyring import Keyring
    from privacy.keys.pseudonyms import TenantHashes
    from privacy.policy.cache import TenantPolicies
    from privacy.policy.values import TenantPrivacyPolicy
    from privacy.storage.subjects import Subject
    from streams.broker.records import SourceRecord
    from streams.contracts.envelope import Invalid
    from streams.ingest.letters import DeadLetterSink
    from streams.ingest.parsed import Parsed
    from streams.ingest.work import Work

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


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Tenant(NamedTuple):
    """What ingest needs of a tenant, worked out anew only when its policy changes."""

    policy: TenantPrivacyPolicy | None
    hashes: TenantHashes
    rank: Callable[[str, bytes], bytes]
    rule: AdmissionRule
    period: timedelta  # as ``privacy.policy.values.period_index`` counts
    bound: int
    compares: bool  # users' reactions may decide about its versions

    @classmethod
    def of(cls, policy: TenantPrivacyPolicy | None, hashes: TenantHashes) -> Self:
        """Work it out."""
        bounded = policy or WITHOUT_POLICY
        period = timedelta(seconds=bounded.period_seconds)
        rule = AdmissionRule(policy)
        compares = bounded.rollout.by_reactions and DataPurpose.EVALUATION in bounded.purposes
        return cls(policy, hashes, hashes.eviction_rank, rule, period, bounded.contribution_bound, compares)


class InteractionHandler(BatchHandler[Interaction]):
    """Handler of the interactions topic.

    Args:
        engine: database of signals and bookkeeping.
        letters: where refused records go.
        clock: aware UTC.
        keyring: pseudonyms and encryption.
        policies: newest policies, looked up per batch.
        redact: takes personal data out of the texts of one interaction.
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
        redact: Callable[[Sequence[str]], Sequence[str]],
        max_event_bytes: int,
    ) -> None:
        super().__init__(INTERACTIONS.name, engine=engine, letters=letters, clock=clock)
        self._users = UserEvents(INTERACTIONS.name, keyring, policies)
        self._keyring = keyring
        self._policies = policies
        self._redact = redact
        self._reader = InteractionReader(max_event_bytes)
        self._known: dict[str, _Tenant] = {}

    def parse(self, record: SourceRecord) -> Parsed[Interaction] | Invalid | None:
        """Read an interaction."""
        return self._reader.read(record)

    def lock(self, session: Session, works: Sequence[Work[Interaction]]) -> None:
        """Hold off erasures: who is not erased now is not until this is stored."""
        join_batches(session, (work.event.data.tenant_id for work in works))

    def identify(
        self,
        session: Session,
        works: Sequence[Work[Interaction]],
        now: datetime,
        decision: Decision[Interaction],
    ) -> list[Work[Interaction]]:
        """Name the user of each; a tenant must be registered."""
        return self._users.identify(session, works, now, decision)

    def apply(
        self,
        session: Session,
        works: Sequence[Work[Interaction]],
        now: datetime,
        decision: Decision[Interaction],
    ) -> None:
        """Store the signals of the admitted interactions, within each user's bound."""
        subjects = [work.known.subject for work in works]
        asked = sorted(set(subjects))  # as the indexes are, through which they are looked up
        tenants = self._tenants(session, {tenant_id for tenant_id, _ in asked}, now)
        standings = standing.lookup(session, asked)
        open_ = {name: tenant.rule.open_at(now) for name, tenant in tenants.items()}
        # What is true of all of a user's events is asked once.
        agreed = {
            subject: open_[subject.tenant_id]
            for subject, stands in standings.items()
            if not stands.erased and tenants[subject.tenant_id].rule.objection(stands.consents) is None
        }
        admitted: list[Work[Interaction]] = []
        for work, subject in zip(works, subjects, strict=True):
            data = work.event.data
            if (space := agreed.get(subject)) is not None:
                oldest, newest, domains = space
                if oldest <= data.occurred_at <= newest and (domains is None or data.domain in domains):
                    admitted.append(work)
                    continue
            stands = standings[subject]
            reason = tenants[subject.tenant_id].rule.refusal(
                age=now - data.occurred_at,
                domain=data.domain,
                consents=stands.consents,
                erased=stands.erased,
            )
            if reason is None:
                admitted.append(work)
            elif reason in _MAY_CHANGE and work.may_wait():
                decision.held.append(work)
            else:
                decision.refuse(work, *_LETTERS[reason])
        if len(admitted) < len(works):
            asked = sorted({work.known.subject for work in admitted})
        admitted = self._with_keys(session, admitted, asked, decision)
        self._store(session, admitted, tenants, now)
        if any(tenant.compares for tenant in tenants.values()):
            compared = [work for work in admitted if tenants[work.known.subject.tenant_id].compares]
            keep_reactions(session, compared, standings, now)
        decision.applied = admitted

    def _with_keys(
        self,
        session: Session,
        admitted: list[Work[Interaction]],
        subjects: Iterable[Subject],
        decision: Decision[Interaction],
    ) -> list[Work[Interaction]]:
        """Refuse those whose user's key was destroyed although the database does not know (yet); return the others."""
        destroyed = self._keyring.destroyed_among(session, subjects)
        if not destroyed:
            return admitted
        for work in admitted:
            if work.known.subject in destroyed:
                decision.refuse(work, *_LETTERS[RefusalReason.SUBJECT_ERASED])
        return [work for work in admitted if work.known.subject not in destroyed]

    def _tenants(self, session: Session, tenant_ids: Collection[str], now: datetime) -> dict[str, _Tenant]:
        tenants: dict[str, _Tenant] = {}
        policies = self._policies.lookup(session, tenant_ids)
        keys = self._keyring.keys_of_tenants(session, policies.keys(), now=now)
        for name, policy in policies.items():
            hashes = keys[name].hashes
            known = self._known.get(name)
            if known is None or known.policy is not policy or known.hashes is not hashes:
                known = self._known[name] = _Tenant.of(policy, hashes)
            tenants[name] = known
        return tenants

    def _store(
        self,
        session: Session,
        admitted: Sequence[Work[Interaction]],
        tenants: Mapping[str, _Tenant],
        now: datetime,
    ) -> None:
        offered: list[Offered] = []
        for work in admitted:
            (subject, digest, first), event = work.known, work.event
            data = event.data
            tenant = tenants[subject[0]]
            period = (data.occurred_at - _EPOCH) // tenant.period
            rank = tenant.rank(first, event.sender)
            # A named tuple at half the cost of a call of its class.
            offered.append(tuple.__new__(Offered, (digest, subject, period, rank, data)))
        bounds = {name: tenant.bound for name, tenant in tenants.items()}
        keep(session, offered, bounds, redact=self._redact, keyring=self._keyring, now=now)
