"""Which two records are the same event: those of one topic, tenant and user whose sender gave them one id.

A sender's id (``source`` and ``ce_id``) counts within one user of one tenant. So an id that two users, two tenants or
two topics share makes two events, and nobody's event, accepted or refused, stands in for anybody else's. What a
server reports counts within its adapter line instead, for no user does it.

The digest is over the user's first pseudonym, never over the user id, and stands in the database as it is. No
rotation of pseudonym keys changes it.
"""

from __future__ import annotations

import hashlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from privacy.keys.renaming import rename_users
from privacy.storage.subjects import Subject
from streams.contracts.dead_letter import DeadLetterReason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.keys.keyring import Keyring
    from privacy.policy.cache import TenantPolicies
    from streams.ingest.handler import Decision
    from streams.ingest.work import Work

Data = TypeVar("Data")
_TENANT_OF = attrgetter("event.data.tenant_id")
SENDER_LENGTH = (32).to_bytes(2, "big")


class Identity(NamedTuple):
    """Whose event it is, and which one.

    Attributes:
        subject: tenant and pseudonym of the user; without a pseudonym where no user did it.
        digest: 32 bytes, ``event_digest`` of it.
        first: the user's name under the tenant's first pseudonym key, which no rotation changes.
    """

    subject: Subject
    digest: bytes
    first: str = ""


def event_digest(topic: str, subject: tuple[str, str], sender: bytes) -> bytes:
    """Return the identity of an event as 32 bytes.

    Migration 0009 holds a copy of this function: whoever changes it makes all stored identities strange.

    Args:
        topic: that it is read from.
        subject: (tenant, first pseudonym); the pseudonym is empty where no user did it.
        sender: ``streams.contracts.envelope.sender_digest`` of its source and id.
    """
    tenant_id, first = subject
    return hashlib.sha256(
        _head(topic, tenant_id) + _after_its_length(first) + SENDER_LENGTH + sender
    ).digest()


def _head(topic: str, tenant_id: str) -> bytes:
    """Return what is hashed before the user and the sender."""
    return _after_its_length(topic) + _after_its_length(tenant_id)


def _after_its_length(part: str) -> bytes:
    """Return a part as it is hashed, so that none runs on into the next."""
    coded = part.encode()
    return len(coded).to_bytes(2, "big") + coded


class UserEvents:
    """Names the users of one topic's events.

    Args:
        topic: that the events are read from.
        keyring: knows the tenants' pseudonym keys.
        policies: knows which tenants are registered.
    """

    def __init__(self, topic: str, keyring: Keyring, policies: TenantPolicies) -> None:
        self._topic = topic
        self._keyring = keyring
        self._policies = policies

    def identify(
        self, session: Session, works: Sequence[Work[Data]], now: datetime, decision: Decision[Data]
    ) -> list[Work[Data]]:
        """Give each work its identity and return those that have one.

        The events of a tenant that is not registered are refused without a mark: that tenant has no pseudonyms, and
        without the user in it an identity could be another's. Such a record is judged anew when it comes again.
        """
        tenants = self._policies.lookup(session, set(map(_TENANT_OF, works)))
        keys = self._keyring.keys_of_tenants(session, tenants.keys(), now=now)
        heads = {tenant_id: _head(self._topic, tenant_id) for tenant_id in keys}
        subjects: dict[tuple[str, str], tuple[Subject, bytes, str]] = {}
        named: list[Work[Data]] = []
        old: dict[str, set[str]] = {}
        for work in works:
            event = work.event
            data: Any = event.data
            user = data.tenant_id, data.user_id
            found = subjects.get(user)
            if found is None:  # also of a work that waited: its user may have got another name meanwhile
                tenant_id = user[0]
                key = keys.get(tenant_id)
                if key is None:
                    decision.refuse(work, DeadLetterReason.TENANT_UNKNOWN, "tenant_id: is not registered")
                    continue
                first = key.hashes.first(user[1])
                names = key.hashes.names(first)
                if key.renaming:
                    old.setdefault(tenant_id, set()).add(names[-2])
                before = heads[tenant_id] + _after_its_length(first) + SENDER_LENGTH
                found = subjects[user] = Subject(tenant_id, names[-1]), before, first
            subject, before, first = found
            known = work.identity
            if known is None or known.subject != subject:
                digest = hashlib.sha256(before + event.sender).digest()
                work.identity = tuple.__new__(
                    Identity, (subject, digest, first)
                )  # at half the cost of a call of it
            named.append(work)
        for tenant_id in sorted(old):
            rename_users(session, self._keyring, tenant_id, keys[tenant_id], old[tenant_id], now=now)
        return named
