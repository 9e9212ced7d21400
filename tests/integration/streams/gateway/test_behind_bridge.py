"""Gateway and bridge together: nobody is answered by another tenant's weights, and places go to who asks.

The engine answers with the digest of the weights that it read, so the truth is the file's, not its name's. Versions
change, some carry the other tenant's file under the right name, the engine lies, forgets and is killed, the bridge dies
between any two calls to its engine and begins anew. A short run is part of the suite; the whole one:

    python -m pytest -m slow -n 0 tests/integration/streams/gateway/test_behind_bridge.py
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import threading
import time
from collections import Counter

import aiohttp
import pytest

from personalization.planning.model_shape import read_shape
from streams.client import AdapterCache, AdapterFeed
from streams.contracts.codec import decode_ack
from streams.contracts.topics import SERVING_ACKS
from streams.serving.engines.bridge import Bridge
from streams.serving.engines.metrics import BridgeMetrics
from streams.serving.engines.routes import Routes
from streams.serving.engines.shapes import checked_pairs
from streams.serving.engines.vllm import VllmEngine
from streams.serving.engines.web import BridgeWeb
from streams.serving.engines.wire import EngineHttp
from tests.fakes.adapters_on_disk import write_adapter
from tests.fakes.bridged_engines import activation_of_weights
from tests.fakes.engines import BASE, engine
from tests.fakes.gateways import GatewayThread, wait_until
from tests.fakes.tiny_models import write_tiny_base
from tests.integration.streams.gateway.test_cross_tenant import AT_ONCE, TENANTS, ask

SECRET = "bridge-token"
WEIGHTS = "adapter_model.safetensors"


class BridgeKilledError(BaseException):
    """The bridge's process ended here; nothing of ours catches it."""


class Mortal:
    """An engine whose bridge dies at a call: whatever it had in hand stays as it is."""

    def __init__(self, behind, after):
        self._behind = behind
        self._after = after  # calls that it still lives

    def __getattr__(self, name):
        value = getattr(self._behind, name)
        if not callable(value):
            return value

        def called(*given, **named):
            self._after -= 1
            if self._after < 0:
                raise BridgeKilledError
            return value(*given, **named)

        return called

    def die_after(self, calls):
        self._after = calls


class BridgeThread:
    """One bridge after another over the same engine and directory, as processes that are killed and started again."""

    def __init__(self, gateway, url, folder, base, *, capacity=4, stay=30.0, port=0):
        self.gateway, self.url, self.folder, self.capacity, self.stay = gateway, url, folder, capacity, stay
        self.shape = read_shape(base)
        self.routes = Routes()
        self.deaths = 0
        self._seen, self._last = {}, {}
        self.start()

    def start(self):
        keys = [self.gateway.signer.public_key]
        self.mortal = Mortal(
            VllmEngine(
                EngineHttp(self.url, timeout_seconds=5),
                model=BASE,
                capacity=self.capacity,
                precision="float32",
            ),
            10**9,
        )
        self.feed = AdapterFeed(self.gateway.broker, trusted_keys=keys, server_id="b", engine="vllm")
        self.bridge = Bridge(
            self.feed,
            self.mortal,
            AdapterCache(self.folder, trusted_keys=keys),
            check=lambda directory: checked_pairs(directory, self.shape, most_rank=16),
            linger_seconds=0.3,
            stay_seconds=self.stay,
        )
        self.routes = self.bridge.routes
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(self.bridge, self.stop), daemon=True)
        self.thread.start()

    def _run(self, bridge, stop):
        with contextlib.suppress(BridgeKilledError):
            bridge.run(stop)

    def kill(self, calls):
        self.mortal.die_after(calls)
        self.thread.join(5)
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.deaths += 1
        self.feed.close()
        self.start()

    def close(self):
        self.stop.set()
        self.thread.join(30)
        self.feed.close()

    def verified(self):
        """Return what the bridge's reports say that it has verified last, as the gateway's database would."""
        with contextlib.suppress(AttributeError):
            self.feed._acks.flush()
        for record in self.gateway.broker.records(SERVING_ACKS.name):  # in order for each line
            if id(record) not in self._seen:
                self._seen[id(record)] = record
                ack = decode_ack(record.headers, record.value, key=record.key).data
                self._last[ack.served_name] = ack.status.value
        return {name for name, status in self._last.items() if status == "verified"}


class BridgedGateway(GatewayThread):
    """A gateway that believes its bridge's reports alone."""

    bridge = None

    def directory(self):
        self.verified = set() if self.bridge is None else self.bridge.verified()
        return super().directory()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"))


class Files:
    """Adapters of each tenant, and versions made of them."""

    def __init__(self, base, folder, each=4):
        self.of = {
            tenant: [
                {
                    path.name: path.read_bytes()
                    for path in write_adapter(base, folder / f"{tenant}-{n}", seed=100 * number + n).iterdir()
                }
                for n in range(each)
            ]
            for number, tenant in enumerate(TENANTS)
        }
        self.owner = {
            hashlib.sha256(files[WEIGHTS]).hexdigest(): tenant
            for tenant, many in self.of.items()
            for files in many
        }

    def publish(self, gateway, tenant, number, *, other=None, domain="default"):
        """Publish a version of a tenant, with its own file, or with another's under its name and its own proof."""
        files = self.of[tenant][number % len(self.of[tenant])]
        shown = files if other is None else {**files, WEIGHTS: self.of[other][0][WEIGHTS]}
        evaluation = {
            "verdict": "accepted",
            "checks": [],
            "activation": activation_of_weights(files[WEIGHTS]),
        }
        return gateway.publish(
            tenant, number, domain=domain, verified=False, files=shown, evaluation=evaluation
        )


class Unrest(threading.Thread):
    """Publishes, forges, lies and kills until it is told to stop; seeded."""

    def __init__(self, gateway, bridge, behind, files, seed, pause):
        super().__init__(daemon=True)
        self.gateway, self.bridge, self.behind, self.files, self.pause = gateway, bridge, behind, files, pause
        self.random = random.Random(seed)
        self.numbers = dict.fromkeys(TENANTS, 1)
        self.forged, self.done = set(), Counter()
        self.ended, self.failed = threading.Event(), None

    def run(self):
        try:
            acts = [self.version, self.forge, self.lie, self.kill_engine, self.kill_bridge]
            self.random.shuffle(acts)  # each of them at least once, then by weight
            for act in acts:
                self._do(act)
            while not self.ended.wait(self.pause):
                self._do(self.random.choices(acts, weights=[5 if a == self.version else 1 for a in acts])[0])
        except Exception as error:
            self.failed = error
            raise

    def _do(self, act):
        act()
        self.done[act.__name__] += 1
        self.ended.wait(self.pause)

    def _next(self):
        tenant = self.random.choice(TENANTS)
        self.numbers[tenant] += 1
        return tenant, self.numbers[tenant]

    def version(self):
        self.files.publish(self.gateway, *self._next())

    def forge(self):
        tenant, number = self._next()
        other = next(one for one in TENANTS if one != tenant)
        self.forged.add(self.files.publish(self.gateway, tenant, number, other=other))

    def lie(self):
        with contextlib.suppress(OSError):
            self.behind.control(fault="swap")
            self.ended.wait(self.pause / 2)
            self.behind.control(fault="")

    def kill_engine(self):
        self.behind.restart()

    def kill_bridge(self):
        self.bridge.kill(self.random.randrange(12))


def run(folder, base, *, requests, seed, pause):
    files = Files(base, folder / "adapters")
    with engine("vllm") as behind, BridgedGateway(folder, url=behind.url) as gateway:
        gateway.tokens = {tenant: gateway.token(tenant) for tenant in TENANTS}
        names = [files.publish(gateway, tenant, 1) for tenant in TENANTS]
        gateway.bridge = bridge = BridgeThread(gateway, behind.url, folder / "cache", base)
        found, answers = Counter(), []
        unrest = Unrest(gateway, bridge, behind, files, seed, pause)

        async def load():
            numbers = iter(range(requests))

            async def one_after_another():
                for number in numbers:
                    tenant = TENANTS[number % 2]
                    by, said, reason = await ask(session, gateway, tenant, number, found)
                    answers.append((tenant, by, said, reason))

            async with aiohttp.ClientSession() as session:
                await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

        try:
            wait_until(lambda: gateway.verified >= set(names), 60)
            unrest.start()
            asyncio.run(load())
        finally:
            unrest.ended.set()
            if unrest.ident is not None:
                unrest.join(60)
            bridge.close()
        assert unrest.failed is None
    found.update(f"why {reason}" for *_, reason in answers)
    found.update(f"did {name}" for name in unrest.done.elements())
    return answers, files, unrest, found


def check(answers, files, unrest, requests):
    assert len(answers) == requests, "every request was answered, at the latest when it was tried again"
    wrong = [one for one in answers if one[1] != "base" and files.owner[one[1]] != one[0]]
    assert wrong == []
    assert [one for one in answers if (one[1] == "base") != (one[2] == "base")] == [], (
        "headers tell the truth"
    )
    assert [one for one in answers if one[2] in unrest.forged] == [], "a forged version never answers"
    for tenant in TENANTS:
        assert {by for who, by, *_ in answers if who == tenant} - {"base"}, "its own adapter did answer"


@pytest.mark.timeout(300)
def test_nobody_is_answered_by_anothers_weights(base, tmp_path):
    answers, files, unrest, found = run(tmp_path, base, requests=800, seed=5, pause=0.15)
    check(answers, files, unrest, 800)
    assert found["why applied"] > 20  # on a machine with other work most of the time somebody is away
    assert unrest.done["kill_bridge"] >= 1
    assert unrest.done["kill_engine"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(2_400)
def test_nobody_of_ten_thousand_is(base, tmp_path):
    answers, files, unrest, found = run(tmp_path, base, requests=10_000, seed=20261129, pause=0.4)
    print(f"\n{sorted(found.items())}, versions {unrest.numbers}, forged {len(unrest.forged)}")
    check(answers, files, unrest, 10_000)
    assert min(unrest.done.values()) > 0


def test_places_of_the_engine_go_to_who_asks(base, tmp_path):
    """Three domains, two places: the one that nobody had a place for is asked for, and gets one."""
    files, domains = Files(base, tmp_path / "adapters"), ("default", "legal", "sales")
    routes = Routes()
    with (
        engine("vllm") as behind,
        BridgeWeb(port=0, token=SECRET, routes=routes, metrics=BridgeMetrics()) as web,
        BridgedGateway(
            tmp_path,
            url=behind.url,
            bridge_url=f"http://127.0.0.1:{web.port}",
            bridge_token=SECRET,
        ) as gateway,
    ):
        token = gateway.token("acme")
        names = {
            domain: files.publish(gateway, "acme", n, domain=domain) for n, domain in enumerate(domains, 1)
        }
        gateway.bridge = bridge = BridgeThread(
            gateway, behind.url, tmp_path / "cache", base, capacity=2, stay=0.2
        )
        web._routes = bridge.routes
        try:
            wait_until(lambda: len(gateway.verified) == 2, 60)
            (waiting,) = (domain for domain, name in names.items() if name not in gateway.verified)

            def asked(domain):
                raw = gateway.client(token).chat.completions.with_raw_response.create(
                    model="discreet" if domain == "default" else f"discreet/{domain}",
                    messages=[{"role": "user", "content": "hi"}],
                )
                time.sleep(0.05)
                return raw.headers["x-discreet-version"]

            assert asked(waiting) == "base", "it has no place yet"
            wait_until(lambda: asked(waiting) == names[waiting], 60)
            (out,) = (name for name in names.values() if name not in gateway.verified)
            assert out != names[waiting]
        finally:
            bridge.close()
