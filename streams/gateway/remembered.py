"""What was asked and shown, kept until its user says what became of it: encrypted, bounded, and not for long.

The key is made when the process starts and never leaves it, so what is kept ends with the process; whoever can read the
process's memory can read it all the same. When there is no room, tenants with more than an even share give up their
oldest answers first, so a flood drives out nobody else's. Only users who consented are kept at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

if TYPE_CHECKING:
    from collections.abc import Callable

_NONCE_BYTES = 12
LOOKED_AT = 64  # of the oldest answers, for one of a tenant that holds much; after a flood most are


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One answer as its user saw it.

    Attributes:
        prompt: what the user asked, without any template.
        completion: what was shown.
        domain: which of the tenant's lines.
        served_name: of the adapter that answered; ``None`` for the base.
        whole: whether the user saw it to its end.
        passages: of the tenant's documents that it was made with; what carries their words teaches nothing.
    """

    prompt: str
    completion: str
    domain: str
    served_name: str | None
    whole: bool = True
    passages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    tenant: str
    who: bytes
    nonce: bytes
    sealed: bytes


class Remembered:
    """Answers by the id of their completion; for one thread.

    Args:
        most: answers at once.
        most_bytes: of sealed text at once.
        seconds: how long one is kept.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        *,
        most: int,
        most_bytes: int,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._monotonic = monotonic
        self._cipher = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())
        self._names = os.urandom(32)  # key of the digests of users
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # oldest first
        self._of: dict[bytes, set[str]] = defaultdict(set)
        self._of_tenant: dict[str, OrderedDict[str, None]] = {}  # oldest first
        self._bytes_of: Counter[str] = Counter()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, answer_id: str, tenant_id: str, user_id: str, shown: Shown) -> None:
        """Keep an answer for its user; one that is larger than everything may be is not kept."""
        self.tidy()
        nonce = os.urandom(_NONCE_BYTES)
        plain = json.dumps(vars(shown), ensure_ascii=False).encode(errors="surrogatepass")
        sealed = self._cipher.encrypt(nonce, plain, answer_id.encode())
        if len(sealed) > self._most_bytes:
            return
        who = self._who(tenant_id, user_id)
        self._drop(answer_id)
        self._kept[answer_id] = _Kept(self._monotonic() + self._seconds, tenant_id, who, nonce, sealed)
        self._of[who].add(answer_id)
        self._of_tenant.setdefault(tenant_id, OrderedDict())[answer_id] = None
        self._bytes_of[tenant_id] += len(sealed)
        self.bytes += len(sealed)
        while len(self._kept) > self._most or self.bytes > self._most_bytes:
            self._drop(self._next_to_go(tenant_id))

    def _next_to_go(self, tenant_id: str) -> str:
        """Return whose place an answer of this tenant takes: the oldest of a tenant with more than its even share."""
        if self._has_much(tenant_id):
            return next(iter(self._of_tenant[tenant_id]))
        oldest = list(islice(self._kept, LOOKED_AT))
        return next((one for one in oldest if self._has_much(self._kept[one].tenant)), oldest[0])

    def _has_much(self, tenant_id: str) -> bool:
        tenants, answers = len(self._of_tenant), len(self._of_tenant.get(tenant_id, ()))
        return answers * tenants > self._most or self._bytes_of[tenant_id] * tenants > self._most_bytes

    def recall(self, answer_id: str, tenant_id: str, user_id: str) -> Shown | None:
        """Return an answer to its own user; what is unknown, too old or another's all looks alike."""
        self.tidy()
        kept = self._kept.get(answer_id)
        if kept is None or kept.who != self._who(tenant_id, user_id):
            return None
        try:
            plain = self._cipher.decrypt(kept.nonce, kept.sealed, answer_id.encode())
        except InvalidTag:  # memory that went bad
            return None
        fields = json.loads(plain.decode(errors="surrogatepass"))
        return Shown(**{**fields, "passages": tuple(fields["passages"])})

    def forget(self, tenant_id: str, user_id: str) -> None:
        """Drop everything of a user, who withdrew or is to be erased."""
        for answer_id in list(self._of.get(self._who(tenant_id, user_id), ())):
            self._drop(answer_id)

    def tidy(self) -> None:
        """Drop what was kept long enough."""
        now = self._monotonic()
        while self._kept:
            answer_id, kept = next(iter(self._kept.items()))
            if kept.until > now:
                return
            self._drop(answer_id)

    def _drop(self, answer_id: str) -> None:
        kept = self._kept.pop(answer_id, None)
        if kept is None:
            return
        self.bytes -= len(kept.sealed)
        self._bytes_of[kept.tenant] -= len(kept.sealed)
        theirs = self._of_tenant[kept.tenant]
        del theirs[answer_id]
        if not theirs:
            del self._of_tenant[kept.tenant], self._bytes_of[kept.tenant]
        mine = self._of[kept.who]
        mine.discard(answer_id)
        if not mine:
            del self._of[kept.who]

    def _who(self, tenant_id: str, user_id: str) -> bytes:
        name = f"{tenant_id}\0{user_id}".encode(errors="surrogatepass")
        return hashlib.blake2b(name, key=self._names, digest_size=16).digest()
