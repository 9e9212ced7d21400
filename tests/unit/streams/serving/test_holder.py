"""The serving process: what it holds after each update, what it refuses, what it reports, how it answers."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request

import pytest

from personalization.prompts.values import PromptTemplate
from streams.client import AdapterCache, AdapterFeed
from streams.client.errors import ArtifactFetchError, DigestMismatchError
from streams.client.testing import FakeLine, InMemoryBroker
from streams.contracts.adapter import PromptsV1, PromptTemplateV1
from streams.contracts.codec import Decoded, decode_ack
from streams.contracts.topics import SERVING_ACKS
from streams.serving.holder import AdapterHolder, Holdings
from streams.serving.web import ServingWeb


class ScriptedHost:
    """Holds names; every watched token has log-probability -2 of the base and ``adapted`` with any adapter."""

    precision = "float32"

    def __init__(self) -> None:
        self.loaded: dict[str, object] = {}
        self.adapted = -1.0
        self.refuse: set[str] = set()

    def load(self, name, directory):
        if name in self.refuse:
            raise ValueError("does not fit")
        self.loaded[name] = sorted(path.name for path in directory.iterdir())

    def unload(self, name):
        self.loaded.pop(name, None)

    def next_log_probabilities(self, asked, *, name):
        if name is not None and name not in self.loaded:
            raise KeyError(name)
        watched = sum(len(tokens) for reading in asked for _, tokens in reading.points)
        return [-2.0 if name is None else self.adapted] * watched

    def losses(self, pairs, *, name):
        if name is not None and name not in self.loaded:
            raise KeyError(name)
        return [2.0 for _ in pairs]

    def answers(self, prompts, *, name, max_new_tokens, favour=()):
        return [f"{name}: {prompt[:max_new_tokens]}" for prompt in prompts]


@pytest.fixture
def broker():
    return InMemoryBroker()


@pytest.fixture
def line(tmp_path):
    return FakeLine(tmp_path / "artifacts")


@pytest.fixture
def host():
    return ScriptedHost()


@pytest.fixture
def holder(broker, line, host, tmp_path):
    keys = [line.signer.public_key]
    with AdapterFeed(broker, trusted_keys=keys, server_id="s", engine="peft") as feed:
        holder = AdapterHolder(feed, host, AdapterCache(tmp_path / "cache", trusted_keys=keys).obtain)
        holder.feed = feed
        yield holder


def _catch_up(holder):
    for update in holder.feed.poll(0.1):
        holder.apply(update)


def _acks(broker, holder):
    holder.feed.close()
    decoded = [decode_ack(r.headers, r.value, key=r.key) for r in broker.records(SERVING_ACKS.name)]
    assert all(isinstance(ack, Decoded) for ack in decoded)
    return [(ack.data.served_name, ack.data.status.value, ack.data.reason) for ack in decoded]


def test_a_published_version_is_fetched_loaded_verified_and_reported(broker, line, host, holder):
    version = line.version(1)
    line.publish(broker, version)
    _catch_up(holder)
    name = version.served_name
    assert host.loaded[name] == ["adapter_config.json", "adapter_model.safetensors", "manifest.json"]
    assert holder.holdings.current == {line.line_ref: name}
    assert _acks(broker, holder) == [(name, "loaded", None), (name, "verified", None)]


def test_a_line_has_the_template_that_its_signed_state_says(broker, line, holder):
    made = PromptTemplate(source="Calmly: {{ prompt }}")
    told = PromptTemplateV1(version_id=made.version_id, number=1, source=made.source)
    forged = PromptTemplateV1(version_id=made.version_id, number=1, source="Rudely: {{ prompt }}")
    unknown = PromptTemplateV1(version_id=made.version_id, number=1, source=made.source, when="never")
    version = line.version(1)
    for prompts, shown in ((told, "Calmly: why"), (forged, None), (unknown, None), (None, None)):
        line.publish(broker, version, prompts=None if prompts is None else PromptsV1(current=prompts))
        _catch_up(holder)
        template = holder.holdings.templates.get(line.line_ref)
        assert (None if template is None else template.render("why")) == shown


def test_the_next_version_is_in_service_before_the_old_one_leaves(broker, line, host, holder):
    first, second = line.version(1), line.version(2)
    line.publish(broker, first)
    _catch_up(holder)
    line.publish(broker, second)
    _catch_up(holder)
    assert set(host.loaded) == {second.served_name}
    assert [ack[:2] for ack in _acks(broker, holder)] == [
        (first.served_name, "loaded"),
        (first.served_name, "verified"),
        (second.served_name, "loaded"),
        (second.served_name, "verified"),
        (first.served_name, "unloaded"),
    ]


def test_a_version_that_does_not_load_leaves_the_line_what_it_had(broker, line, host, holder):
    first, second = line.version(1), line.version(2)
    line.publish(broker, first)
    _catch_up(holder)
    host.refuse = {second.served_name}
    line.publish(broker, second)
    _catch_up(holder)
    assert holder.holdings.current == {line.line_ref: first.served_name}
    assert set(host.loaded) == {first.served_name}
    assert holder.holdings.failures == {second.served_name: "serving.adapter.failed"}
    assert _acks(broker, holder)[-1] == (second.served_name, "failed", "serving.adapter.failed")


@pytest.mark.parametrize(
    ("adapted", "code"),
    [(-2.0, "client.adapter.inactive"), (-3.0, "client.adapter.wrong"), (-1.4, "client.adapter.wrong")],
)
def test_an_adapter_that_loads_and_does_not_act_as_it_should_is_refused(
    broker, line, host, holder, adapted, code
):
    host.adapted = adapted  # -2 is the base's: the server says "loaded" and ignores the adapter
    version = line.version(1)
    line.publish(broker, version)
    _catch_up(holder)
    assert holder.holdings.current == {}
    assert host.loaded == {}
    assert [ack[1:] for ack in _acks(broker, holder)] == [("loaded", None), ("failed", code)]


def test_a_version_that_says_nothing_to_compare_with_is_loaded_and_never_called_verified(
    broker, line, host, holder
):
    version = line.version(1, evaluation={"verdict": "accepted", "checks": [], "probes": []})
    line.publish(broker, version)
    _catch_up(holder)
    assert holder.holdings.current == {line.line_ref: version.served_name}
    assert [ack[1:] for ack in _acks(broker, holder)] == [("loaded", None)]


def test_a_verification_tells_the_effect_that_was_measured(broker, line, host, holder):
    line.publish(broker, line.version(1))
    _catch_up(holder)
    holder.feed.close()
    acks = [decode_ack(r.headers, r.value, key=r.key).data for r in broker.records(SERVING_ACKS.name)]
    assert [ack.probe_effect for ack in acks] == [None, 1.0]


def test_changed_bytes_are_refused(broker, line, host, holder, tmp_path):
    version = line.version(1)
    for weights in (tmp_path / "artifacts").glob("*/adapter_model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    line.publish(broker, version)
    _catch_up(holder)
    assert host.loaded == {}
    assert _acks(broker, holder) == [(version.served_name, "failed", "client.adapter.digest_mismatch")]


def test_a_withdrawn_line_is_unloaded(broker, line, host, holder):
    version = line.version(1)
    line.publish(broker, version)
    _catch_up(holder)
    line.withdraw(broker)
    _catch_up(holder)
    assert (host.loaded, holder.holdings.current) == ({}, {})
    assert _acks(broker, holder)[-1][:2] == (version.served_name, "unloaded")


class Store:
    """Fetches through a cache, after failing as often as it is told to."""

    def __init__(self, cache, failures):
        self.cache, self.failures = cache, list(failures)

    def obtain(self, version):
        if self.failures:
            raise self.failures.pop(0)
        return self.cache.obtain(version)


@pytest.fixture
def retrying(broker, line, host, tmp_path):
    keys, now = [line.signer.public_key], [0.0]
    store = Store(AdapterCache(tmp_path / "cache", trusted_keys=keys), [])
    with AdapterFeed(broker, trusted_keys=keys, server_id="s", engine="peft") as feed:
        holder = AdapterHolder(feed, host, store.obtain, monotonic=lambda: now[0])
        holder.feed = feed
        yield holder, store, now


def test_a_fetch_that_failed_is_tried_again_with_growing_pauses(broker, line, host, retrying):
    holder, store, now = retrying
    away = ArtifactFetchError("the store is away; try again")
    store.failures = [away] * 3
    version = line.version(1)
    line.publish(broker, version)
    _catch_up(holder)
    left = []
    for now[0] in range(12):
        holder.try_again()
        left.append(len(store.failures))
    assert left[:5] == [2, 1, 1, 0, 0]  # after 0, 1 and 3 s
    assert holder.holdings.current == {line.line_ref: version.served_name}
    assert holder.holdings.failures == {}
    assert [ack[1] for ack in _acks(broker, holder)] == ["failed", "loaded", "verified"]


def test_what_is_refused_for_good_or_no_longer_wanted_is_not_tried_again(broker, line, host, retrying):
    holder, store, now = retrying
    first, second = line.version(1), line.version(2)
    store.failures = [DigestMismatchError("other bytes"), ArtifactFetchError("away")]
    line.publish(broker, first)
    _catch_up(holder)
    now[0] = 1000.0
    holder.try_again()
    assert len(store.failures) == 1
    line.publish(broker, second)
    _catch_up(holder)
    line.withdraw(broker)
    _catch_up(holder)
    now[0] = 2000.0
    holder.try_again()
    assert (holder.holdings.current, host.loaded) == ({}, {})


def test_a_running_holder_serves_a_version_whose_first_fetch_failed(broker, line, host, retrying):
    holder, store, now = retrying
    store.failures = [ArtifactFetchError("away")]
    line.publish(broker, line.version(1))
    stop = threading.Event()
    runner = threading.Thread(target=holder.run, args=(stop,))
    runner.start()
    try:
        deadline = time.monotonic() + 20
        while not host.loaded and time.monotonic() < deadline:
            now[0] += 1
            time.sleep(0.05)
    finally:
        stop.set()
        runner.join()
    assert host.loaded


@pytest.fixture
def ask(host):
    host.loaded["a-1"] = []
    with ServingWeb(port=0, token="t0", host=host, holdings=Holdings(current={"line": "a-1"})) as web:

        def request(path, body=None, token="t0"):
            data = None if body is None else json.dumps(body).encode()
            asked = urllib.request.Request(f"http://127.0.0.1:{web.port}{path}", data=data)
            asked.add_header("Authorization", f"Bearer {token}")
            try:
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    return answer.status, json.loads(answer.read())
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read())

        yield request


def test_http_answers_with_and_without_an_adapter(ask):
    assert ask("/v1/answers", {"prompt": "hi", "model": "a-1"}) == (200, {"text": "a-1: hi"})
    assert ask("/v1/answers", {"prompt": "hi", "model": None}) == (200, {"text": "None: hi"})
    several = {"prompts": ["hi", "ho"], "model": "a-1"}
    assert ask("/v1/answers", several) == (200, {"texts": ["a-1: hi", "a-1: ho"]})
    assert ask("/v1/answers", {**several, "prompts": []})[0] == 400
    assert ask("/v1/losses", {"pairs": [["p", "c"]], "model": None}) == (200, {"losses": [2.0]})
    assert ask("/v1/adapters") == (200, {"adapters": {"line": "a-1"}, "failures": {}})


@pytest.mark.parametrize(
    ("path", "body", "token", "status", "code"),
    [
        ("/v1/adapters", None, "wrong", 401, "serving.access.denied"),
        ("/v1/nothing", None, "t0", 404, "serving.path.unknown"),
        ("/v1/losses", {"pairs": [["p", "c"]], "model": "other"}, "t0", 404, "serving.model.unknown"),
        ("/v1/losses", {"pairs": 3}, "t0", 400, "serving.request.invalid"),
        ("/v1/answers", {"prompt": "x" * 1_000_001}, "t0", 413, "serving.request.oversized"),
        ("/v1/answers", {"prompt": "x" * 3_000_000}, "wrong", 401, "serving.access.denied"),
        ("/v1/answers", ["hi"], "t0", 400, "serving.request.invalid"),
        ("/v1/answers", None, "t0", 404, "serving.path.unknown"),
    ],
)
def test_http_refuses_with_a_stable_code(ask, path, body, token, status, code):
    assert ask(path, body, token) == (status, {"error": code})


def test_health_needs_no_token(ask):
    assert ask("/healthz", token="none") == (200, {"status": "ok"})
