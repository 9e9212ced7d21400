"""Who agreed to training, as the consent topic says, and who is to be erased; by digests of names, in memory.

The worker decides again when an interaction arrives. This is here so that what nobody agreed to is neither kept nor
sent. A user's decision takes about 150 bytes; beyond a bound further grants are not believed.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import structlog

from streams.client import BrokerUnreachableError, ConsentPurpose, ErasureRequestedV1
from streams.contracts.codec import Decoded, decode_consent, decode_erasure
from streams.contracts.topics import CONSENT, CONSENT_GRANTED, ERASURES

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from streams.client.transport import Broker, StoredRecord

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.2
READ_SECONDS = 120.0
MOST = 5_000_000


class Consents:
    """Follows the topics of consents and erasures; one thread writes, requests only read.

    Args:
        broker: where they are.
        forget: called with tenant and user when nothing of a user may be kept any more; from the reading thread.
        most: users whose decision is remembered.
    """

    def __init__(
        self, broker: Broker, *, forget: Callable[[str, str], None] = lambda *_: None, most: int = MOST
    ) -> None:
        self._sources = {name: broker.open_source(name) for name in (CONSENT.name, ERASURES.name)}
        self._forget = forget
        self._most = most
        self._names = os.urandom(32)
        self._decisions: dict[bytes, tuple[datetime, str | None]] = {}  # when, and under which notice
        self._notices: dict[str, str] = {}  # one text of each
        self.caught_up = False

    def __len__(self) -> int:
        return len(self._decisions)

    def notice(self, tenant_id: str, user_id: str) -> str | None:
        """Return the version of the notice under which a user agreed to training; ``None`` without consent."""
        decision = self._decisions.get(self._who(tenant_id, user_id))
        return None if decision is None else decision[1]

    def run(self, stop: threading.Event) -> None:
        """Read everything there is, then every change, until ``stop`` is set.

        Raises:
            BrokerUnreachableError: the end was not reached in time.
        """
        ends = {
            (name, number): end
            for name, source in self._sources.items()
            for number, (_, end) in source.bounds().items()
        }
        give_up = time.monotonic() + READ_SECONDS
        while not stop.is_set():
            for name, source in self._sources.items():
                for record in source.poll(POLL_SECONDS / 2 if self.caught_up else 0.01):
                    self.take(name, record)
            if not self.caught_up:
                self.caught_up = all(
                    self._sources[name].position(number) >= end for (name, number), end in ends.items()
                )
                if self.caught_up:
                    log.info("consents_read")
                elif time.monotonic() > give_up:
                    raise BrokerUnreachableError(
                        f"the end of {CONSENT.name} was not reached within {READ_SECONDS:g} s; try again"
                    )

    def close(self) -> None:
        """Give the connections up."""
        for source in self._sources.values():
            source.close()

    def take(self, topic: str, record: StoredRecord) -> None:
        """Take one record in; what cannot be read is nobody's consent."""
        if topic == ERASURES.name:
            self._erasure(record)
        elif record.value is None:
            self._tombstone(record.key or b"")
        else:
            self._decision(record)

    def _decision(self, record: StoredRecord) -> None:
        decoded = decode_consent(record.headers, record.value, key=record.key)
        if not isinstance(decoded, Decoded) or decoded.data.purpose is not ConsentPurpose.TRAINING:
            return
        event, granted = decoded.data, decoded.envelope.type == CONSENT_GRANTED
        who = self._who(event.tenant_id, event.user_id)
        known = self._decisions.get(who)
        if known is not None and known[0] > event.occurred_at:
            return
        if known is None and len(self._decisions) >= self._most:
            return
        notice = self._notices.setdefault(event.notice_version, event.notice_version) if granted else None
        self._decisions[who] = (event.occurred_at, notice)
        if not granted:
            self._forget(event.tenant_id, event.user_id)

    def _tombstone(self, key: bytes) -> None:
        """An erased user's key: tenant, user and purpose, of which the user's id may hold slashes."""
        tenant_id, _, rest = key.decode(errors="replace").partition("/")
        user_id, _, purpose = rest.rpartition("/")
        if purpose == ConsentPurpose.TRAINING.value:
            self._decisions.pop(self._who(tenant_id, user_id), None)
            self._forget(tenant_id, user_id)

    def _erasure(self, record: StoredRecord) -> None:
        decoded = decode_erasure(record.headers, record.value, key=record.key)
        if not isinstance(decoded, Decoded) or not isinstance(decoded.data, ErasureRequestedV1):
            return
        event = decoded.data
        who = self._who(event.tenant_id, event.user_id)
        known = self._decisions.get(who)
        if known is not None and known[0] <= event.occurred_at:
            del self._decisions[who]
        self._forget(event.tenant_id, event.user_id)

    def _who(self, tenant_id: str, user_id: str) -> bytes:
        name = f"{tenant_id}\0{user_id}".encode(errors="surrogatepass")
        return hashlib.blake2b(name, key=self._names, digest_size=16).digest()
