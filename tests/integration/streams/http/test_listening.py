"""A listener lets nobody hold more than a bounded part of it: connections, headers, bodies."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager

from aiohttp import web

from streams.errors import MalformedRequestError
from streams.http.bodies import json_body
from streams.http.listening import BoundedListener


@asynccontextmanager
async def listening(**bounds):
    async def echo(request):
        try:
            return web.json_response(await json_body(request, seconds=0.3))
        except MalformedRequestError:
            return web.json_response({}, status=400)

    async def fine(_):
        return web.json_response({})

    application = web.Application(client_max_size=1000)
    application.router.add_post("/", echo)
    application.router.add_get("/", fine)
    server = socket.create_server(("127.0.0.1", 0))
    async with BoundedListener(application, server, **bounds):
        yield server.getsockname()[1]


async def say(port, *parts, pause=0.0):
    """Send bytes and return what comes back until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_half_open_connections_and_half_headers_are_closed():
    async def main():
        async with listening(header_seconds=0.3) as port:
            began = time.monotonic()
            halves = [say(port), say(port, b"GET / HTTP/1.1\r\nHost: x\r\nX"), say(port, b"G")]
            dripped = say(port, *[b"A"] * 8, pause=0.1)  # a byte now and then is no header either
            assert await asyncio.gather(*halves, dripped) == [b""] * 4
            assert time.monotonic() - began < 5

    asyncio.run(main())


def test_a_body_that_does_not_come_is_given_up():
    async def main():
        async with listening(header_seconds=5.0) as port:
            answer = await say(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12")
            assert answer.startswith(b"HTTP/1.1 408")

    asyncio.run(main())


def test_bodies_are_bounded_and_their_length_is_a_number():
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"

    async def main():
        async with listening() as port:

            async def status(*parts):
                return int((await say(port, *parts)).split(b" ", 2)[1])

            assert await status(head + b"Content-Length: 4\r\n\r\n1234") == 200
            assert await status(head + b"Content-Length: -1\r\n\r\n") == 400
            assert await status(head + b"Content-Length: x\r\n\r\n") == 400
            assert await status(head + b"\r\n") == 400  # none: an empty body is no JSON
            assert await status(head + b"Content-Length: 1001\r\n\r\n" + b"1" * 1001) == 413
            chunk = b"190\r\n" + b"1" * 400 + b"\r\n"
            assert (
                await status(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n") == 413
            )
            assert await status(head + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\n1") == 415

    asyncio.run(main())


def test_connections_are_bounded_and_free_ones_are_used_again():
    async def main():
        async with listening(header_seconds=1.0, most_connections=5) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            assert await say(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
            for reader, writer in held:
                assert await reader.read() == b""  # the time for a header is over
                writer.close()
            answer = await say(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")

    asyncio.run(main())
