"""How much at once: bodies, requests of one tenant, requests of all; who comes beyond is told when to come again."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streams.errors import GatewayError, MalformedRequestError
from streams.http.bodies import parsed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from starlette.requests import Request


async def json_body(request: Request, *, most_bytes: int, seconds: float) -> Any:
    """Return the JSON document in a request's body.

    Raises:
        GatewayError: it is too large, too late, packed, or no JSON.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise GatewayError("bodies must not be packed; leave Content-Encoding out", status=415)
    announced = request.headers.get("content-length", "")
    content = bytearray()
    too_large = GatewayError(f"the body is too large; allowed are {most_bytes} bytes", status=413)
    if announced.isdecimal() and int(announced[:20]) > most_bytes:
        raise too_large
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise GatewayError("the client left before the body had come", status=400)
                content += message.get("body", b"")
                if len(content) > most_bytes:
                    raise too_large
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise GatewayError(f"the body did not arrive within {seconds:g} s", status=408) from None
    try:
        return parsed(bytes(content))
    except MalformedRequestError as error:
        raise GatewayError(str(error)) from None


class Places:
    """Counts requests in progress; for one thread.

    Args:
        most: of all tenants.
        most_per_tenant: of one.
    """

    def __init__(self, *, most: int, most_per_tenant: int) -> None:
        self._most = most
        self._most_per_tenant = most_per_tenant
        self._of: Counter[str] = Counter()
        self.taken = 0

    def take(self, tenant_id: str) -> None:
        """Take a place; it must be given back.

        Raises:
            GatewayError: there is none.
        """
        if self._of[tenant_id] >= self._most_per_tenant:
            raise GatewayError(
                "too many requests of this tenant at once; come again",
                status=429,
                kind="rate_limit_error",
                word="too_many_at_once",
                retry_after=1,
            )
        if self.taken >= self._most:
            raise GatewayError(
                "the gateway has as much to do as it takes; come again",
                status=503,
                kind="server_error",
                word="busy",
                retry_after=1,
            )
        self.taken += 1
        self._of[tenant_id] += 1

    def take_spare(self, tenant_id: str) -> bool:
        """Take a place for what no user waits for, if half of them are free; say whether it was taken.

        So users find a place as if nothing else were asked, and the engine gets no more at once than it may.
        """
        if 2 * self._of[tenant_id] >= self._most_per_tenant or 2 * self.taken >= self._most:
            return False
        self.take(tenant_id)
        return True

    def give_back(self, tenant_id: str) -> None:
        """Give a place back."""
        self.taken -= 1
        self._of[tenant_id] -= 1
        if not self._of[tenant_id]:
            del self._of[tenant_id]

    @contextmanager
    def place(self, tenant_id: str) -> Iterator[None]:
        """Hold a place for a while.

        Raises:
            GatewayError: there is none.
        """
        self.take(tenant_id)
        try:
            yield
        finally:
            self.give_back(tenant_id)
