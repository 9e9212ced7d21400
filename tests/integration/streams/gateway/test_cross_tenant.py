"""No request is ever answered by another tenant's adapter, whatever happens to versions and engines meanwhile.

Two tenants ask in turns, in pieces and in one piece, while versions change, engines load and forget them in any order,
answer with the wrong one, are killed and come back with other numbers. The engines say in every answer which adapters
were really applied, so the headers are compared with the truth. A short run is part of the suite; the whole one:

    python -m pytest -m slow -n 0 tests/integration/streams/gateway/test_cross_tenant.py
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter

import aiohttp
import pytest

from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, wait_until

TENANTS = ("acme", "globex")
AT_ONCE = 8
MOST_TRIES = 40
UNREST_SHOWS = (
    "wrong_answerer",
    "not_held",
)  # reasons of answers that met a lying engine, or one without the adapter


class Unrest(threading.Thread):
    """Changes versions and the engine until it is told to stop; seeded.

    Args:
        gateway: whose lines want versions.
        behind: the engine.
        seed: of everything that happens.
        pause: seconds between two changes.
    """

    def __init__(self, gateway, behind, seed, pause):
        super().__init__(daemon=True)
        self.gateway, self.behind, self.pause = gateway, behind, pause
        self.random = random.Random(seed)
        self.published = {tenant: [gateway.publish(tenant, 1)] for tenant in TENANTS}
        self.done = Counter()
        self.ended = threading.Event()
        self.failed = None
        self.hold()

    def hold(self):
        """Let the engine hold the newest two versions of each tenant, and perhaps forget some, in any order."""
        names = [name for versions in self.published.values() for name in versions[-2:]]
        self.random.shuffle(names)
        if self.random.random() < 0.2:
            names = names[:-1]
        self.behind.control(names=names)

    def run(self):
        try:
            for tenant in TENANTS:
                self.ended.wait(self.pause)
                self.version(tenant)
            while not self.ended.wait(self.pause):
                act = self.random.choices(
                    [self.version, self.hold, self.lie, self.kill], weights=[4, 3, 3, 1]
                )[0]
                act()
                self.done[act.__name__] += 1
        except Exception as error:
            self.failed = error
            raise

    def version(self, tenant=None):
        tenant = tenant or self.random.choice(TENANTS)
        number = len(self.published[tenant]) + 1
        line_ref = self.gateway.line(tenant).line_ref
        name = f"a-{line_ref}-v{number}"
        first_held = self.random.random() < 0.7
        self.published[tenant].append(name)
        if first_held:
            self.hold()
        assert self.gateway.publish(tenant, number) == name
        if not first_held:
            self.hold()

    def lie(self):
        self.behind.control(fault="swap" if self.behind.kind == "vllm" else "renumber")
        self.ended.wait(self.pause / 2)
        self.behind.control(fault="")

    def kill(self):
        self.behind.restart()
        self.hold()


async def ask(session, gateway, tenant, number, found):
    """Ask until there is an answer, and compare it with the truth."""
    stream = number % 3 == 0
    body = {
        "model": "discreet",
        "messages": [{"role": "user", "content": f"canary {number}"}],
        "stream": stream,
        "user": f"u{number % 50}",
    }
    headers = {"Authorization": f"Bearer {gateway.tokens[tenant]}"}
    for _ in range(MOST_TRIES):
        async with session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status in (429, 503):
                found["told to come again"] += 1
                await asyncio.sleep(0.1)
                continue
            assert answer.status == 200, (answer.status, content)
            text = _streamed(content) if stream else json.loads(content)["choices"][0]["message"]["content"]
            if text is None:  # broken off by a kill: the client is told and asks again
                found["broken off"] += 1
                continue
            by, _, prompt = text.partition("|")
            assert prompt == f"canary {number}"
            return by, answer.headers["x-discreet-version"], answer.headers["x-discreet-reason"]
    raise AssertionError("no answer after many tries")


def _streamed(content):
    text, whole = [], False
    for line in content.split(b"\n"):
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]":
            whole = True
            continue
        piece = json.loads(line[6:])
        if "error" in piece:
            return None
        text += [choice["delta"].get("content") or "" for choice in piece["choices"]]
    return "".join(text) if whole else None


def _numbers(answers, requests):
    """Number requests until there are enough and some met the unrest, however slow the machine is; never for ever."""
    for number in range(20 * requests):
        if number >= requests and any(reason in UNREST_SHOWS for *_, reason in answers):
            return
        yield number


def run(kind, folder, *, requests, seed, pause):
    with engine(kind) as behind, GatewayThread(folder, engine=kind, url=behind.url) as gateway:
        gateway.tokens = {tenant: gateway.token(tenant) for tenant in TENANTS}
        unrest = Unrest(gateway, behind, seed, pause)
        found, answers = Counter(), []

        async def load():
            numbers = _numbers(answers, requests)

            async def one_after_another():
                for number in numbers:
                    tenant = TENANTS[number % 2]
                    by, said, reason = await ask(session, gateway, tenant, number, found)
                    answers.append((tenant, by, said, reason))

            async with aiohttp.ClientSession() as session:
                await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

        wait_until(lambda: gateway.lines)
        time.sleep(0.5)
        unrest.start()
        try:
            asyncio.run(load())
        finally:
            unrest.ended.set()
            unrest.join(30)
            with contextlib.suppress(OSError):
                behind.control(fault="")
        assert unrest.failed is None
    found.update(f"why {reason}" for *_, reason in answers)
    found.update(f"did {name}" for name in unrest.done.elements())
    return answers, unrest.published, found


def check(answers, published, requests):
    assert len(answers) >= requests
    wrong = [one for one in answers if one[1] not in ("base", *published[one[0]])]
    assert wrong == []
    lies = [one for one in answers if one[1] != one[2]]
    assert lies == []
    for tenant in TENANTS:
        assert len({said for who, _, said, _ in answers if who == tenant} - {"base"}) >= 2  # versions changed


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_no_answer_is_by_another_tenants_adapter(kind, tmp_path):
    answers, published, found = run(kind, tmp_path, requests=900, seed=7, pause=0.25)
    check(answers, published, 900)
    assert found["why applied"] > 100
    assert sum(found[f"why {reason}"] for reason in UNREST_SHOWS) > 0


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_no_answer_of_ten_thousand_is(kind, tmp_path):
    answers, published, found = run(kind, tmp_path, requests=10_000, seed=20261129, pause=0.4)
    print(f"\n{kind}: {sorted(found.items())}, versions { ({t: len(v) for t, v in published.items()}) }")
    check(answers, published, 10_000)
    assert found["why wrong_answerer"] > 0
    assert found["did kill"] > 0
