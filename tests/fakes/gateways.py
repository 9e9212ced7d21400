"""A gateway in a thread, on a broker in memory and a directory that a test writes by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import openai

from streams.client import ConsentPublisher
from streams.client.testing import FakeLine, FakeSigner, InMemoryBroker
from streams.contracts.codec import decode_interaction
from streams.contracts.topics import INTERACTIONS
from streams.gateway.callers import Caller, Right
from streams.gateway.directory import Directory
from streams.gateway.listening import options
from streams.processes.gateway import answer_until_stopped
from streams.settings import Settings
from streams.storage.operator_tokens import token_digest
from tests.fakes.engines import BASE

EVERYTHING = frozenset(Right)


class GatewayThread:
    """One gateway; tenants, lines, versions and consents are added as a test goes on."""

    def __init__(self, folder, *, engine="vllm", url="http://127.0.0.1:9", find=None, **more) -> None:
        self.broker = InMemoryBroker()
        self.signer = FakeSigner()
        self._folder = folder
        self.callers, self.lines, self.verified, self.flags = {}, {}, set(), {}
        self.prompts, self.terms = {}, {}
        self.memories, self._find = {}, find
        self._lines: dict[tuple[str, str], FakeLine] = {}
        self.settings = Settings(
            gateway={
                "engine": engine,
                "url": url,
                "engine_model": BASE,
                "port": 0,
                "look_seconds": 0.05,
                **more,
            },
            http={"token": "operator"},
        )
        self._stop = threading.Event()
        self._ready = threading.Event()
        self.failed: BaseException | None = None
        self._clients: dict[tuple, openai.OpenAI] = {}

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(30)
        assert self.failed is None, self.failed
        wait_until(self.is_ready)
        return self

    def __exit__(self, *_):
        for client in self._clients.values():
            client.close()
        self.stop()
        self._thread.join(60)

    def stop(self):
        self._stop.set()

    @property
    def stopped(self):
        return not self._thread.is_alive()

    def _run(self):
        try:
            with asyncio.Runner(**options()) as runner:
                runner.run(
                    answer_until_stopped(
                        self.settings,
                        self.broker,
                        [self.signer.public_key],
                        self.directory,
                        stop=self._stop,
                        on_ready=self._listening,
                        find=self._find,
                    )
                )
        except BaseException as error:  # noqa: BLE001  # the test is told
            self.failed = error
            self._ready.set()

    def _listening(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._ready.set()

    def is_ready(self):
        import urllib.error
        import urllib.request

        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=10) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def directory(self):
        return Directory(
            callers=dict(self.callers),
            lines={tenant: dict(lines) for tenant, lines in self.lines.items()},
            verified=frozenset(self.verified),
            flags=dict(self.flags),
            memories=dict(self.memories),
            prompts=dict(self.prompts),
            terms=dict(self.terms),
        )

    def token(self, tenant, *, rights=EVERYTHING, name="backend"):
        """Make a token; it counts from the next look at the directory on."""
        return self.let_in(tenant, f"dg-{tenant}-{len(self.callers)}", rights=rights, name=name)

    def let_in(self, tenant, token, *, rights=EVERYTHING, name="backend"):
        """Let a token in that was made elsewhere."""
        self.callers[token_digest(token)] = Caller(tenant_id=tenant, name=name, rights=frozenset(rights))
        time.sleep(0.15)
        return token

    def line(self, tenant, domain="default"):
        key = (tenant, domain)
        if key not in self._lines:
            line_ref = f"{len(self._lines) + 1:012x}"
            self._lines[key] = FakeLine(self._folder, line_ref=line_ref, signer=self.signer)
            self.lines.setdefault(tenant, {})[domain] = line_ref
        return self._lines[key]

    def publish(self, tenant, number=1, *, domain="default", verified=True, **changes):
        """Let a tenant's line want a version served, and return its served name."""
        line = self.line(tenant, domain)
        version = line.version(number, **changes)
        line.publish(self.broker, version)
        if verified:
            self.verified.add(version.served_name)
        return version.served_name

    def consent(self, tenant, *users, granted=True):
        with ConsentPublisher(self.broker, source="/test") as consents:
            for user in users:
                act = consents.grant if granted else consents.withdraw
                act(tenant_id=tenant, user_id=user, notice_version="n1", occurred_at=datetime.now(UTC))
        time.sleep(0.5)

    def interactions(self):
        """Return the interactions that were published, in no order."""
        return [
            decode_interaction(record.headers, record.value, key=record.key)
            for record in self.broker.records(INTERACTIONS.name)
        ]

    def client(self, token, **more):
        """Return the official client, pointed here; it is closed with the gateway."""
        key = (token, *sorted(more.items()))
        if key not in self._clients:
            self._clients[key] = openai.OpenAI(
                base_url=f"{self.url}/v1", api_key=token, **{"max_retries": 0, "timeout": 30, **more}
            )
        return self._clients[key]


def style(prompt, pattern="", grammar=""):
    """Return the part of a manifest that carries a template."""
    return {
        "card": {},
        "card_digest": "sha256:" + 64 * "0",
        "prompt": prompt,
        "pattern": pattern,
        "grammar": grammar,
    }


def wait_until(done, seconds=30.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)
