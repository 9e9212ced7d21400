"""Network links that can be slowed, blocked and cut: a relay for each way between a process and a service.

All links live on one event loop in one thread. A blocked link keeps connections open and takes new ones, but passes
nothing, as a network does that drops packets; what was sent meanwhile arrives when it is open again.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

CHUNK_BYTES = 65_536


class Link:
    """One way to ``host:port``; connect to ``port`` of the link instead."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._target = 0
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._delay_seconds = 0.0
        self._server: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def lead_to(self, port: int) -> None:
        """Say where connections go; may change."""
        self._target = port

    def block(self) -> None:
        self._loop.call_soon_threadsafe(self._open.clear)

    def unblock(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def slow(self, seconds: float) -> None:
        """Let every piece of data, either way, come so much later; 0 ends it."""
        self._delay_seconds = seconds

    def cut(self) -> None:
        """Reset every open connection."""

        def reset() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(reset)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = (writer, inner_writer)
        self._writers.update(both)
        try:
            ways = (self._pass(reader, inner_writer), self._pass(inner_reader, writer))
            await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when="FIRST_COMPLETED")
        finally:
            self._writers.difference_update(both)
            for each in both:
                each.transport.abort() if not self._open.is_set() else each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._open.wait()
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        self._open.set()
        for writer in self._writers:
            writer.transport.abort()
        if self._server is not None:
            self._server.close()


class Network:
    """The links, and the thread they run in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._links: list[Link] = []

    def link(self) -> Link:
        made = Link(self._loop)
        asyncio.run_coroutine_threadsafe(made.listen(), self._loop).result(10)
        self._links.append(made)
        return made

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        for link in self._links:
            await link.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
