"""An engine that is right by itself and answers for the base with an adapter in one batch serves no adapter at all."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from streams.client import readings
from streams.errors import EngineLoadError, EngineUnreachableError
from streams.serving.engines.metrics import BridgeMetrics
from streams.serving.engines.web import BridgeWeb
from tests.fakes.bridged_engines import KEY
from tests.fakes.bridges import LINES, World
from tests.fakes.engines import BASE
from tests.fakes.gateways import GatewayThread, wait_until
from tests.fakes.tiny_models import write_tiny_base

ONE, TWO, THREE = LINES
MIXES = "serving.engine.mixes"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def world(tmp_path, base):
    world = World("vllm", tmp_path, base=base)
    yield world
    world.close()


def published(world, *lines):
    versions = {line: world.version(line, 1) for line in lines}
    for line, version in versions.items():
        world.publish(line, version)
    return versions


def served(world):
    return {line for line in LINES if world.current(line) is not None}


def unsafe(world):
    told = world.bridge._metrics.exposition().decode()
    assert (f"discreet_bridge_engine_unsafe {1.0 if world.bridge.routes.unsafe else 0.0}") in told
    return world.bridge.routes.document()["unsafe"]


def health(world):
    with BridgeWeb(port=0, token="t", routes=world.bridge.routes, metrics=BridgeMetrics()) as web:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{web.port}/healthz", timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())


def begin_anew(world, *, faults=()):
    """End the engine, let the bridge see it, and start another at its place."""
    world.fake.kill()
    world.catch_up()
    world.fake.faults = set(faults)
    world.fake.start()
    world.now += 400
    world.catch_up(steps=6)


def probes(world):
    return [body for path, body in world.fake.asked if path == "/v1/completions"]


def test_on_a_sound_engine_all_are_verified_for_a_handful_of_requests(world):
    versions = published(world, ONE, TWO)
    before = len(probes(world))
    versions |= published(world, THREE)
    asked = len(readings(versions[THREE].manifest.evaluation.activation))
    assert len(probes(world)) - before == 2 * asked + 6, (
        "alone without and with it, and three beside the base"
    )
    assert served(world) == set(LINES)
    assert unsafe(world) is None
    assert health(world) == (200, {"status": "ok"})
    world.catch_up()
    assert len(probes(world)) - before == 2 * asked + 6, "nothing is asked while nothing changes"


def test_an_engine_that_mixes_keeps_no_adapter_and_its_base_is_the_base_again(world):
    world.fake.faults = {"crossing"}
    first = published(world, ONE)[ONE]
    assert served(world) == {ONE}, "with a single adapter its last place is empty"
    with capture_logs() as logs:
        second = published(world, TWO)[TWO]
    assert served(world) == set()
    assert world.fake.adapters == {}
    assert [status for name, status, _ in world.acks() if name == second.served_name] == [
        "loaded",
        "failed",
        "unloaded",
    ]
    assert [ack for ack in world.acks() if ack[0] == first.served_name][2:] == [
        (first.served_name, "failed", MIXES),
        (first.served_name, "unloaded", None),
    ]
    assert world.bridge.routes.document()["verified"] == []
    assert unsafe(world) == MIXES
    assert health(world) == (503, {"status": "unsafe", "error": MIXES})
    (line,) = [line for line in logs if line["event"] == "engine_mixes_requests"]
    assert (line["code"], line["log_level"]) == (MIXES, "error")
    assert "--max-num-seqs 1" in line["what"]

    loads = [path for path, _ in world.fake.asked].count("/v1/load_lora_adapter")
    world.now += 1000
    published(world, THREE)
    world.catch_up(steps=6)
    assert [path for path, _ in world.fake.asked].count("/v1/load_lora_adapter") == loads
    activation = first.manifest.evaluation.activation
    right = [value for probe in activation.probes for point in probe.points for value in point.base]
    asked = readings(activation)
    with ThreadPoolExecutor(4) as pool:
        beside = [
            pool.submit(world.engine.next_log_probabilities, asked, name=name)
            for name in (None, first.served_name, None, second.served_name)
        ]
        for answered in beside[::2]:
            assert answered.result() == pytest.approx([float(value) for value in right], abs=1e-4)
        for refused in beside[1::2]:
            with pytest.raises(EngineLoadError, match="404"):
                refused.result()


@pytest.mark.parametrize("mended", [True, False])
def test_after_the_engine_began_anew_it_is_asked_again(world, mended):
    world.fake.faults = {"crossing"}
    published(world, ONE, TWO)
    assert unsafe(world) == MIXES
    with capture_logs() as logs:
        begin_anew(world, faults=() if mended else {"crossing"})
    found = [line["event"] for line in logs].count("engine_mixes_requests")
    assert found == (0 if mended else 1), "one trial, then none until it is away again"
    assert served(world) == ({ONE, TWO} if mended else set())
    assert unsafe(world) == (None if mended else MIXES)
    assert mended or world.fake.adapters == {}


def test_an_engine_that_was_sound_and_began_anew_without_its_flag_is_found_out(world):
    published(world, ONE, TWO)
    assert served(world) == {ONE, TWO}
    begin_anew(world, faults={"crossing"})
    assert (served(world), unsafe(world), world.fake.adapters) == (set(), MIXES, {})


def test_one_that_came_back_with_its_adapters_is_asked_again_too(world):
    """Names that a start loads by itself, or a pause without a restart: nothing is gone, and there is doubt."""
    published(world, ONE, TWO)
    kept = dict(world.fake.adapters)
    world.fake.kill()
    world.catch_up()
    world.fake.adapters.update(kept)
    world.fake.faults = {"crossing"}
    world.fake.start()
    world.catch_up(steps=6)
    assert (served(world), unsafe(world), world.fake.adapters) == (set(), MIXES, {})


@pytest.mark.parametrize("mended", [True, False])
def test_a_start_that_no_look_saw_has_an_engine_that_mixed_asked_again(world, mended):
    world.fake.faults = {"crossing"}
    published(world, ONE, TWO)
    assert unsafe(world) == MIXES
    world.now += 1000
    world.catch_up(steps=6)
    assert (served(world), unsafe(world)) == (set(), MIXES), "while it runs, it is left alone"
    world.fake.kill()
    world.fake.faults = set() if mended else {"crossing"}
    world.fake.start()
    for _ in range(4):  # each look at when it began is a second after the last
        world.now += 400
        world.catch_up()
    assert (served(world), unsafe(world)) == (({ONE, TWO}, None) if mended else (set(), MIXES))


def test_a_single_answer_that_was_otherwise_condemns_no_engine(world, monkeypatch):
    published(world, ONE, TWO)
    before, once = world.engine.next_log_probabilities, []

    def answer(asked, *, name):
        found = before(asked, name=name)
        if name is None and threading.current_thread() is not threading.main_thread() and not once:
            once.append(name)
            return [value - 1 for value in found]
        return found

    monkeypatch.setattr(world.engine, "next_log_probabilities", answer)
    third = published(world, THREE)[THREE].served_name
    assert once
    assert [ack[1:] for ack in world.acks() if ack[0] == third] == [
        ("loaded", None),
        ("failed", "serving.engine.load_refused"),
        ("unloaded", None),
        ("loaded", None),
        ("verified", None),
    ], "what came is not trusted at once"
    assert (served(world), unsafe(world)) == (set(LINES), None)
    assert {ack[0] for ack in world.acks() if ack[1] == "failed"} == {third}, "and the rest stays"


def test_an_adapter_that_the_engine_does_not_let_go_is_not_routed_and_taken_out_when_it_answers(
    world, monkeypatch
):
    world.fake.faults = {"crossing"}
    unload, refused = world.engine.unload, []

    def unloaded(name):
        if len(refused) < 2:
            refused.append(name)
            raise EngineUnreachableError("no answer")
        unload(name)

    monkeypatch.setattr(world.engine, "unload", unloaded)
    for line in (ONE, TWO):
        world.lines[line].publish(world.broker, world.version(line, 1))
    world.catch_up(steps=1)
    assert len(refused) == 1
    assert (served(world), unsafe(world), len(world.fake.adapters)) == (set(), MIXES, 2)
    world.catch_up(steps=1)
    assert len(refused) == 2
    assert (served(world), unsafe(world), len(world.fake.adapters)) == (set(), MIXES, 2)
    world.catch_up(steps=1)
    assert (served(world), world.fake.adapters) == (set(), {})


def test_a_bridge_that_began_anew_finds_it_out(world):
    published(world, ONE, TWO)
    world.fake.faults = {"crossing"}
    world.open_bridge()
    world.catch_up()
    assert (served(world), unsafe(world), world.fake.adapters) == (set(), MIXES, {})


def test_through_the_gateway_tenants_get_the_base_from_an_engine_that_mixes(world, tmp_path):
    first = published(world, ONE)[ONE]
    gateway = GatewayThread(
        tmp_path / "gateway",
        engine="vllm",
        url=world.fake.url,
        engine_token=KEY,
        engine_model=BASE,
        connect_seconds=10.0,
    )
    gateway.broker, gateway.signer = world.broker, world.lines[ONE].signer
    gateway.lines = {"acme": {"default": ONE}}
    gateway.verified = {first.served_name}
    with gateway:
        token = gateway.token("acme")

        def told():
            raw = gateway.client(token).chat.completions.with_raw_response.create(
                model="discreet", messages=[{"role": "user", "content": "Hello?"}], user="one"
            )
            return raw.headers["x-discreet-version"], raw.parse().choices[0].message.content

        wait_until(lambda: told() == (first.served_name, f"{first.served_name}: Hello?"), 30)
        world.fake.faults = {"crossing"}
        published(world, TWO)
        assert unsafe(world) == MIXES
        assert told() == ("base", "None: Hello?"), "even before the gateway hears that it is not verified"
