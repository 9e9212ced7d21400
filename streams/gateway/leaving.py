"""Stop working for a client that has left; the engine is told at once, because what waits for it is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.requests import Request

Result = TypeVar("Result")


class ClientLeftError(Exception):
    """Whoever asked is not there any more."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what ``work`` returns; when the client leaves before, the work is cancelled.

    Raises:
        ClientLeftError: it did.
    """
    own = asyncio.current_task()
    assert own is not None  # a coroutine runs in one
    watch = asyncio.ensure_future(_left(request))
    left = over = False

    def leave(_: object) -> None:
        nonlocal left
        if not over:  # whoever awaits below is cancelled there, and nowhere later
            left = True
            own.cancel()

    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left and own.cancelling() == 1:  # by nobody else
            raise ClientLeftError from None
        raise
    finally:
        over = True
        watch.cancel()
        if left:
            own.uncancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
