"""Tell the bridge beside the engine which versions are asked for, so that the engine's places go to who uses them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
import structlog

from streams.gateway.fair import FairStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

log = structlog.get_logger(__name__)

MOST_AT_ONCE: Final = 500  # names in one request; a bridge takes twice as many, and they are short
MOST_KEPT: Final = 10_000
SECONDS: Final = 5.0  # for one request


class Wanted(Protocol):
    """Where names go that somebody asked for."""

    def note(self, tenant_id: str, names: Iterable[str]) -> None:
        """Take note of served names that a tenant's request asks for, whether or not the engine holds them."""

    async def run(self) -> None:
        """Hand them on again and again until cancelled."""

    async def close(self) -> None:
        """Give the connection up."""


class NobodyToTell:
    """There is no bridge: what the engine holds is not ours to say."""

    def note(self, tenant_id: str, names: Iterable[str]) -> None:
        """Forget them."""

    async def run(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class BridgeWanted:
    """One bridge's ``POST /v1/wanted``; for one event loop.

    Names that could not be handed over are kept, each once, and go with the next request: a bridge that began anew
    hears of them as well. With each goes a pseudonym of the tenant who asks, the same at every gateway of the bridge,
    so that the engine's places are shared among tenants and not among names.

    Args:
        url: address of the bridge.
        token: its bearer token.
        every_seconds: between two requests; nothing is sent while nobody asks.
    """

    def __init__(self, *, url: str, token: str, every_seconds: float) -> None:
        self._url = url.rstrip("/") + "/v1/wanted"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._key = token.encode()
        self._every = every_seconds
        self._names: FairStore[str, str] = FairStore(MOST_KEPT)
        self._away = False
        self._opened: aiohttp.ClientSession | None = None

    def note(self, tenant_id: str, names: Iterable[str]) -> None:
        """Take note of served names; beyond the bound of what is kept, the tenant with most loses its oldest."""
        for name in names:
            if self._names.get(tenant_id, name) is None:
                self._names.put(tenant_id, name, self._share(tenant_id))

    async def tell(self) -> None:
        """Hand over what was noted."""
        noted = [
            (tenant_id, name, share)
            for tenant_id in self._names.tenants()
            for name, share in self._names.items(tenant_id)
        ]
        for start in range(0, len(noted), MOST_AT_ONCE):
            part = noted[start : start + MOST_AT_ONCE]
            if not await self._told([(name, share) for _, name, share in part]):
                return
            for tenant_id, name, _ in part:
                self._names.pop(tenant_id, name)

    async def run(self) -> None:
        """Hand over again and again until cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(self._every)

    async def close(self) -> None:
        """Give the connection up."""
        if self._opened is not None:
            await self._opened.close()

    def _share(self, tenant_id: str) -> str:
        return hmac.new(self._key, b"share of " + tenant_id.encode(), hashlib.sha256).hexdigest()[:16]

    async def _told(self, noted: Sequence[tuple[str, str]]) -> bool:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(headers=self._headers)
        body = {"names": [name for name, _ in noted], "shares": [share for _, share in noted]}
        try:
            async with (
                asyncio.timeout(SECONDS),
                self._opened.post(self._url, json=body) as answer,
            ):
                told, why = answer.status == 200, str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            told, why = False, type(error).__name__
        if told == self._away:
            self._away = not told
            log.info("bridge_back") if told else log.warning("bridge_away", error=why)
        return told
