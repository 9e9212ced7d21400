"""Failed logins: limited by remote address, logged without the token, and counted.

A token that was good a while ago is still looked up for an address that is limited, so that whoever shares an address
with a guesser (behind one proxy, say) goes on working.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog

from streams.errors import TooManyRequestsError
from streams.http.limits import RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

BURST = 10
PER_SECOND = 0.1
MOST_REMEMBERED = 1_000


class FailedLogins:
    """Counts wrong tokens by remote address.

    Args:
        on_failure: told ``refused`` or ``limited`` of each (metrics).
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        on_failure: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = RateLimit(burst=BURST, per_second=PER_SECOND, monotonic=monotonic)
        self._on_failure = on_failure
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def check(self, remote: str | None, digest: bytes) -> None:
        """Refuse an address that failed too often.

        Raises:
            TooManyRequestsError: it did, and the token is not known to have been good.
        """
        if digest in self._good:
            return
        wait = self._limit.wait(address_of(remote))
        if wait:
            self._on_failure("limited")
            raise TooManyRequestsError(
                "too many wrong tokens came from this address; wait", retry_after=math.ceil(wait)
            )

    def failed(self, remote: str | None, digest: bytes) -> None:
        """Note a wrong token, by its digest; it may have been good until it was revoked."""
        self._good.pop(digest, None)
        address = address_of(remote)
        self._limit.take(address)
        self._on_failure("refused")
        log.warning("login_failed", address=address)

    def succeeded(self, digest: bytes) -> None:
        """Note a good token, by its digest."""
        self._good[digest] = None
        self._good.move_to_end(digest)
        while len(self._good) > MOST_REMEMBERED:
            self._good.popitem(last=False)


def address_of(remote: str | None) -> str:
    """Return whom a remote address stands for; of IPv6 one customer has a whole /64."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return "unknown"
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))
