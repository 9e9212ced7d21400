"""Run an ASGI application on a socket with bounds on connections and headers, until it is told to stop, then drain.

uvicorn bounds neither the time nor the size of a request's header with its fast parser; this does.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from starlette.types import ASGIApp

HEADER_SECONDS = 10.0
MOST_HEADER_BYTES = 65_536
MOST_CONNECTIONS = 2_048
IDLE_SECONDS = 30


class _BoundedProtocol(HttpToolsProtocol):
    """Closes connections on which no whole header comes in time, or one that is too large."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._seen = 0  # ends of headers and of bodies
        self._header_bytes = 0
        self._in_header = True
        self._header_timer: asyncio.TimerHandle | None = None
        self._wait_for_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_header and self._header_timer is None:
            self._wait_for_header()
        before = self._seen
        super().data_received(data)
        if self._in_header and self._seen == before:  # nothing ended in it: all of it belongs to one header
            self._header_bytes += len(data)
            if self._header_bytes > MOST_HEADER_BYTES:
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._in_header = False
        self._seen += 1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_header, self._header_bytes = True, 0
        self._seen += 1
        super().on_message_complete()

    def _wait_for_header(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._too_late)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_late(self) -> None:
        self._header_timer = None
        self.transport.close()


class _Server(uvicorn.Server):
    """Leaves the signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class GatewayServer:
    """One application on one socket; ``serve`` returns when it was told to stop and everything in progress has ended.

    Args:
        application: what answers.
        listening: the socket, bound and listening; closed at the end.
        drain_seconds: time for what is in progress when it is told to stop.
    """

    def __init__(self, application: ASGIApp, listening: socket.socket, *, drain_seconds: float) -> None:
        self._socket = listening
        self._server = _Server(
            uvicorn.Config(
                application,
                http=_BoundedProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=max(1, int(drain_seconds)),
                limit_concurrency=MOST_CONNECTIONS,
            )
        )

    async def started(self) -> None:
        """Wait until requests are answered."""
        await self._server.up.wait()

    async def serve(self) -> None:
        """Answer requests until told to stop; signals are the caller's."""
        with self._socket:
            await self._server.serve([self._socket])

    def stop(self) -> None:
        """Take no more requests, and end those in progress."""
        self._server.should_exit = True


def options() -> dict[str, Any]:
    """Return what a runner of event loops needs to make the fast one."""
    try:
        import uvloop  # noqa: PLC0415  # it is there on every platform but Windows
    except ImportError:
        return {}
    return {"loop_factory": uvloop.new_event_loop}
