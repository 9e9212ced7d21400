"""Who agreed to what, and whether an interaction may be used at all. Pure; nothing is used without consent.

Consent is given per purpose and belongs to a version of the notice. It is asked for at ingest, again when a
release collects its users, and it can be withdrawn at any time for everything that was not yet used. Two
statements of one user on one purpose are ordered by when the user made them, not by when they arrived; of
two at the same instant the withdrawal counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from privacy.clock import CLOCK_TOLERANCE
from privacy.policy.values import DataPurpose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privacy.policy.values import TenantPrivacyPolicy


_FIRST = datetime.min.replace(tzinfo=UTC)


class RefusalReason(StrEnum):
    """Why an interaction is not stored."""

    SUBJECT_ERASED = "subject_erased"
    CONSENT_MISSING = "consent_missing"  # none is known (yet)
    CONSENT_WITHDRAWN = "consent_withdrawn"
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"  # consented, but the tenant's policy does not allow it
    DOMAIN_UNKNOWN = "domain_unknown"
    RETENTION_PASSED = "retention_passed"
    FROM_THE_FUTURE = "from_the_future"


@dataclass(frozen=True, kw_only=True, slots=True)
class Consent:
    """What a user last said about one purpose."""

    granted: bool
    notice_version: str
    occurred_at: datetime


def newer(first: Consent, second: Consent) -> Consent:
    """Return the statement that counts, whichever of the two arrived first."""
    if first.occurred_at != second.occurred_at:
        return max(first, second, key=lambda consent: consent.occurred_at)
    return second if first.granted else first


class Open(NamedTuple):
    """Which interactions of users who agreed are admitted at one moment; ``AdmissionRule.refusal`` says the same.

    Attributes:
        oldest: may have happened then,
        newest: and then, and between the two.
        domains: adapter lines that they may belong to; ``None``: any.
    """

    oldest: datetime
    newest: datetime
    domains: frozenset[str] | None


class AdmissionRule:
    """Decides under one policy whether an interaction may be stored; what the policy determines is worked out once.

    A tenant without a policy is ingested (and never trained): its users' consents decide alone.
    """

    __slots__ = ("_domains", "_purposes", "_retention")

    def __init__(self, policy: TenantPrivacyPolicy | None) -> None:
        self._domains = None if policy is None else frozenset(policy.domains)
        self._purposes = None if policy is None else frozenset(policy.purposes)
        self._retention = timedelta.max if policy is None else policy.retention

    def refusal(
        self, *, age: timedelta, domain: str, consents: Mapping[str, Consent], erased: bool
    ) -> RefusalReason | None:
        """Return why an interaction must not be stored, or ``None`` if it may be.

        Args:
            age: the public clock less the time of the interaction.
            domain: the adapter line it belongs to.
            consents: the user's newest statement per purpose.
            erased: whether the user was erased.
        """
        if erased:
            return RefusalReason.SUBJECT_ERASED
        if age < -CLOCK_TOLERANCE:
            return RefusalReason.FROM_THE_FUTURE
        if self._domains is not None and domain not in self._domains:
            return RefusalReason.DOMAIN_UNKNOWN
        if age > self._retention:
            return RefusalReason.RETENTION_PASSED
        return self.objection(consents)

    def open_at(self, now: datetime) -> Open:
        """Return what is admitted of users to whose consents there is no objection, and who are not erased."""
        kept = self._retention <= now - _FIRST
        return Open(now - self._retention if kept else _FIRST, now + CLOCK_TOLERANCE, self._domains)

    def objection(self, consents: Mapping[str, Consent]) -> RefusalReason | None:
        """Return why nothing of a user who said this may be stored, or ``None``."""
        refused = RefusalReason.CONSENT_MISSING
        for purpose, consent in consents.items():
            if not consent.granted:
                if refused is RefusalReason.CONSENT_MISSING:
                    refused = RefusalReason.CONSENT_WITHDRAWN
            elif purpose != DataPurpose.SHARING:  # sharing alone gives nothing to store an interaction for
                if self._purposes is None or purpose in self._purposes:
                    return None
                refused = RefusalReason.PURPOSE_NOT_ALLOWED
        return refused
