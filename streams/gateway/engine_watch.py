"""What the engine holds, asked again every second, and whether it answers at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from streams.errors import EngineAwayError
from streams.gateway.choosing import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from streams.gateway.upstreams import Upstream

log = structlog.get_logger(__name__)


class EngineWatch:
    """Asks one engine for its adapters.

    Args:
        upstream: the engine.
        verified: returns the served names that the server beside the engine has verified.
        every_seconds: between two questions.
    """

    def __init__(
        self, upstream: Upstream, verified: Callable[[], Collection[str]], *, every_seconds: float
    ) -> None:
        self._upstream = upstream
        self._verified = verified
        self._every = every_seconds
        self._held: frozenset[str] | None = None
        self._down = False

    @property
    def up(self) -> bool:
        """Whether it answered when it was asked last."""
        return self._held is not None

    def refusal(self, served_name: str) -> Reason | None:
        """Return why a version cannot be asked for now; ``None`` when it can."""
        if served_name not in (self._held or ()):
            return Reason.NOT_VERIFIED if self._upstream.proves else Reason.NOT_HELD
        if not self._upstream.proves and served_name not in self._verified():
            return Reason.NOT_VERIFIED
        return None

    def gone(self, served_name: str) -> None:
        """Note that a version is not there, whatever the engine listed; until it is asked again."""
        if self._held is not None:
            self._held -= {served_name}

    async def look(self) -> None:
        """Ask once."""
        try:
            self._held = await self._upstream.held()
        except EngineAwayError as error:
            self._held = None
            if not self._down:
                log.warning("engine_away", code=error.code)
            self._down = True
        else:
            if self._down:
                log.info("engine_back")
            self._down = False

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every)
