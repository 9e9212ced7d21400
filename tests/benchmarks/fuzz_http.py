"""Send malformed requests to every route of operator API, ``discreet serve`` and gateway; none may be a 5xx or dropped.

python tests/benchmarks/fuzz_http.py --requests 20000 --seed 1 --json fuzz_http.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Before this folder, whose privacy.py is a benchmark.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from privacy.policy import versions as policies
from privacy.policy.ceilings import PolicyCeilings
from privacy.storage.session import open_engine, transaction
from streams.http.calculations import CalculationLimits
from streams.http.server import HttpServer
from streams.http.tokens import Access
from streams.serving.holder import Holdings
from streams.serving.web import ServingWeb
from streams.storage import schema as database
from tests.fakes.engines import engine as fake_engine
from tests.fakes.gateways import GatewayThread
from tests.fakes.malformed_requests import (
    GATEWAY_ROUTES,
    OPERATOR_ROUTES,
    SERVING_ROUTES,
    malformed_requests,
)
from tests.fakes.stream_records import NOW

TOKEN = "platform-token"
AT_ONCE = 8
ANSWER_SECONDS = 60
LIMITS = CalculationLimits(per_caller=AT_ONCE, waiting=AT_ONCE, burst=1_000_000, per_second=1e6)


class Found:
    """What came back: statuses, and what must not be: a 5xx, no end, or no answer to a whole request."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.crashes: Counter[str] = Counter()

    def note(self, asked: str, answer: bytes | None) -> None:
        if answer is None:
            self.crashes[f"no end: {asked}"] += 1
            return
        first = answer.split(b"\r\n", 1)[0].split(b" ")
        if first[0] == b"HTTP/1.1" and first[1] == b"100":
            first = answer.split(b"\r\n\r\n", 1)[1].split(b" ")
        status = first[1].decode() if len(first) > 1 and first[0].startswith(b"HTTP/") else "closed"
        self.statuses[status] += 1
        unready = status == "503" and asked == "GET /readyz"  # the fake worker is not ready
        if status == "closed" or (status >= "500" and not unready):
            self.crashes[f"{status}: {asked}"] += 1


class Probes:
    """A worker that is alive and not ready."""

    alive = True
    ready = False


class Host:
    """Holds one adapter and answers at once."""

    def answers(self, prompts, *, name, max_new_tokens, favour=()):
        self._known(name)
        return [prompt[:max_new_tokens] for prompt in prompts]

    def losses(self, pairs, *, name):
        self._known(name)
        return [1.0] * len(pairs)

    def _known(self, name):
        if name not in (None, "a-1"):
            raise KeyError(name)


async def _ask(port: int, request: bytes) -> bytes | None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            try:
                writer.write(request)
                await writer.drain()
                if _announces_more(request):
                    writer.write_eof()  # it will not come
            except ConnectionError:
                pass  # refused before it was read to its end; the answer may be there all the same
            try:
                while chunk := await reader.read(65_536):
                    answer += chunk
            except ConnectionError:
                pass
            return answer
    except TimeoutError:
        return None
    finally:
        writer.close()


def _announces_more(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [
        line[15:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    ]
    longer = any(length.isdigit() and int(length) > len(body) for length in lengths)
    return longer or b"transfer-encoding" in head.lower()


async def _fuzz(port: int, seed: int, count: int, routes) -> Found:
    found, requests = Found(), malformed_requests(seed, count, routes, TOKEN.encode())

    async def work() -> None:
        for asked, request in requests:
            answer = await _ask(port, request)
            if answer == b"" and _announces_more(request):
                continue  # we left in the middle of a body: there is nobody to answer to
            if answer == b"" and len(request) > 65_536:
                continue  # refused while we were still sending, and the answer was lost with the connection
            found.note(asked, answer)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return found


def fuzz_operator(engine, seed: int, count: int) -> Found:
    """Ask the operator API."""
    with transaction(engine) as session:
        for name in ("acme", "globex"):
            policies.register_tenant(session, name, actor="fuzz", now=NOW)
            policies.set_policy(session, name, {"declared_users": 90}, actor="fuzz", reason="fuzz", now=NOW)

    async def main() -> Found:
        server = HttpServer(
            host="127.0.0.1",
            port=0,
            probes=Probes(),
            exposition=lambda: b"x 1\n",
            access=Access(engine, TOKEN, lambda: NOW, limits=LIMITS),
            ceilings=PolicyCeilings(),
        )
        async with server:
            return await _fuzz(server.port, seed, count, OPERATOR_ROUTES)

    return asyncio.run(main())


def fuzz_serving(seed: int, count: int) -> Found:
    """Ask ``discreet serve``."""
    with ServingWeb(port=0, token=TOKEN, host=Host(), holdings=Holdings()) as web:
        return asyncio.run(_fuzz(web.port, seed, count, SERVING_ROUTES))


def fuzz_gateway(seed: int, count: int, folder: Path) -> Found:
    """Ask the gateway, in front of an engine that answers whatever it is asked."""
    with fake_engine("vllm") as behind, GatewayThread(folder, url=behind.url) as gateway:
        gateway.let_in("acme", TOKEN)
        gateway.line("acme", "acme")
        return asyncio.run(_fuzz(gateway.port, seed, count, GATEWAY_ROUTES))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000, help="requests to each server")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", help="URL of an empty database; by default a SQLite file")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)
    rows = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        url = options.database or f"sqlite:///{directory}/fuzz.sqlite3"
        database.upgrade(url)
        engine = open_engine(url)
        found = {
            "operator API": fuzz_operator(engine, options.seed, options.requests),
            "serve": fuzz_serving(options.seed, options.requests),
            "gateway": fuzz_gateway(options.seed, options.requests, Path(directory)),
        }
        dialect = engine.dialect.name
        engine.dispose()
    for name, one in found.items():
        crashes = one.crashes.total()
        rows.append({"name": f"fuzz {name}: requests", "value": options.requests, "unit": "requests"})
        rows.append(
            {"name": f"fuzz {name}: 5xx, dropped, endless", "value": crashes, "must": "0", "ok": not crashes}
        )
        for status, count in sorted(one.statuses.items()):
            rows.append({"name": f"fuzz {name}: status {status}", "value": count, "unit": "answers"})
        for crash, count in one.crashes.most_common(10):
            print(f"{name}: {count} x {crash}", file=sys.stderr)
    document = {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "settings": {
            "seed": options.seed,
            "database": dialect,
            "seconds": round(time.monotonic() - started, 1),
        },
        "rows": rows,
    }
    print(json.dumps(document, indent=1))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(each.get("ok") is not False for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
