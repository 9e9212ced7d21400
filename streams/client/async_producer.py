"""The publisher for programs with an event loop: the same, with ``await`` where it may wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ..contracts.interaction import InteractionV1
from .producer import Delivery, InteractionPublisher
from .transport import Broker


class AsyncInteractionPublisher:
    """``InteractionPublisher`` without blocking the event loop.

    ``await publish(…)`` returns when there was room for the event; ``await`` the returned delivery to know
    that the broker has it.

    Args:
        broker: as for ``InteractionPublisher``.
        source: as for ``InteractionPublisher``.
        options: the further arguments of ``InteractionPublisher``.
    """

    def __init__(self, broker: str | Broker, *, source: str, **options: Any) -> None:
        self._broker = broker
        self._source = source
        self._options = options
        self._publisher: InteractionPublisher | None = None

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            await self.close()

    async def publish(
        self,
        interaction: InteractionV1 | Mapping[str, Any],
        *,
        event_id: str | None = None,
        traceparent: str | None = None,
    ) -> Delivery:
        """Send one interaction; raises what ``InteractionPublisher.publish`` raises."""
        publisher = await self._opened()
        return await asyncio.to_thread(
            publisher.publish, interaction, event_id=event_id, traceparent=traceparent
        )

    async def flush(self, timeout_seconds: float = 60.0) -> None:
        """Wait until every event sent so far is confirmed; raises ``DeliveryError`` if one was not."""
        await asyncio.to_thread((await self._opened()).flush, timeout_seconds)

    async def close(self) -> None:
        """Give back the connection."""
        if self._publisher is not None:
            await asyncio.to_thread(self._publisher.close)

    async def _opened(self) -> InteractionPublisher:
        if self._publisher is None:
            self._publisher = await asyncio.to_thread(
                lambda: InteractionPublisher(self._broker, source=self._source, **self._options)
            )
        return self._publisher
