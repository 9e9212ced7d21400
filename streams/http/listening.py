"""Listen with bounds: so many connections, so long for a request's header, and no unpacking of bodies."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    import socket

HEADER_SECONDS = 10.0
MOST_CONNECTIONS = 256
LINGER_SECONDS = 2.0  # for the rest of a body that was answered before it had come
LEAVE_SECONDS = 5.0  # for requests in progress at the end


class _Refused(asyncio.Protocol):
    """One connection too many: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class BoundedListener:
    """An aiohttp application on a socket, as an async context manager.

    A connection on which no whole header of a request arrives in time, the first or a next one, is closed; so is every
    connection beyond the bound. Bodies are bounded by the application (``client_max_size``) and read in time by
    ``streams.http.bodies``.

    Args:
        application: what answers.
        listening: the socket, bound and listening; it is closed at the end.
        header_seconds: time for a request's header.
        most_connections: bound on open connections.
        leave_seconds: time for requests in progress at the end.
    """

    def __init__(
        self,
        application: web.Application,
        listening: socket.socket,
        *,
        header_seconds: float = HEADER_SECONDS,
        most_connections: int = MOST_CONNECTIONS,
        leave_seconds: float = LEAVE_SECONDS,
    ) -> None:
        self._socket = listening
        self._most = most_connections
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=header_seconds,  # aiohttp counts it from the connection's start on
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,  # a small body may unpack to a large one
            shutdown_timeout=leave_seconds,
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None  # set up before anybody connects
        return _Refused() if len(server.connections) >= self._most else server()


class ListeningThread:
    """An application on a socket, answering in a thread of its own from entering on; a context manager.

    Args:
        application: what answers.
        listening: the socket, bound and listening.
        name: of the thread.
        bounds: see ``BoundedListener``.
    """

    def __init__(
        self, application: web.Application, listening: socket.socket, *, name: str, **bounds: Any
    ) -> None:
        self._application = application
        self._listening = listening
        self._name = name
        self._bounds = bounds

    def __enter__(self) -> Self:
        self._stop = asyncio.Event()
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = runner.get_loop()
        self._thread = threading.Thread(target=self._run, args=(runner,), name=self._name, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, runner: asyncio.Runner) -> None:
        with runner, self._listening:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with BoundedListener(self._application, self._listening, **self._bounds):
            await self._stop.wait()
