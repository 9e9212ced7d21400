"""One suite for every engine, fake and real: what a bridge does with it, and what it never lets through.

On the real ones: ``DISCREET_TEST_LLAMACPP=DIR python -m pytest tests/integration/streams/serving/engines``, and with
``DISCREET_TEST_VLLM=DIR`` in a run of its own; ``discreet bridge … --install-engine DIR`` makes the directories.
"""

from __future__ import annotations

import pytest

from streams.client import readings
from tests.fakes.adapters_on_disk import on_layer, silenced, swapped
from tests.fakes.bridges import LINES, World, kinds

ONE, TWO, _ = LINES


@pytest.fixture(params=kinds())
def world(request, tmp_path):
    world = World(request.param, tmp_path)
    yield world
    world.close()


def statuses(world, version):
    return [status for name, status, _ in world.acks() if name == version.served_name]


def test_a_published_version_is_loaded_proved_and_routed(world):
    version = world.version(ONE, 1)
    world.publish(ONE, version)
    assert world.current(ONE) == version.served_name
    assert statuses(world, version) == ["loaded", "verified"]
    assert world.engine.held() == {version.served_name}
    assert world.bridge.routes.document()["verified"] == [version.served_name]


def test_two_lines_are_served_side_by_side(world):
    versions = {line: world.version(line, 1) for line in (ONE, TWO)}
    for line, version in versions.items():
        world.publish(line, version)
    assert {line: world.current(line) for line in versions} == {
        line: version.served_name for line, version in versions.items()
    }


@pytest.mark.parametrize("what", ["another tenant's file", "swapped tensors", "the base", "no proof"])
def test_what_is_not_the_adapter_is_caught_by_asking_the_model(world, tmp_path, what):
    right = world.version(ONE, 1)
    world.publish(ONE, right)
    own = world.adapter(50)
    files = {
        "another tenant's file": lambda: world.adapter(51),
        "swapped tensors": lambda: swapped(own, tmp_path / "swapped"),
        "the base": lambda: silenced(own, tmp_path / "silenced"),
        "no proof": lambda: own,
    }[what]()
    if what == "no proof":
        bad = world.lines[ONE].version(
            2,
            files={path.name: path.read_bytes() for path in files.iterdir()},
            evaluation={"verdict": "accepted", "checks": []},
        )
    else:
        bad = world.version(ONE, 2, files_of=files, proof_of=own)
    world.publish(ONE, bad)
    world.now += 400
    world.catch_up()
    expected = {"no proof": "client.adapter.unproven", "the base": "client.adapter.inactive"}.get(
        what, "client.adapter.wrong"
    )
    assert [(status, why) for name, status, why in world.acks() if name == bad.served_name] == [
        ("loaded", None),
        ("failed", expected),
        ("unloaded", None),
    ]
    assert world.current(ONE) == right.served_name
    assert world.engine.held() == {right.served_name}
    assert not world.cache.path(bad.served_name).exists()


def test_a_layer_that_the_base_does_not_have_is_refused_before_it_is_loaded(world, tmp_path):
    bad = world.version(ONE, 1, files_of=on_layer(world.adapter(1), tmp_path / "nowhere", 99))
    world.publish(ONE, bad)
    assert world.acks() == [(bad.served_name, "failed", "serving.adapter.misfit")]
    assert (world.current(ONE), world.engine.held()) == (None, frozenset())


def test_a_layer_that_the_base_does_not_have_is_caught_by_asking_where_nothing_else_catches_it(
    world, tmp_path
):
    """vLLM takes such a file with 200 and lists its name; llama.cpp's converter does not make one."""
    world.open_bridge(check=False)
    bad = world.version(
        ONE, 1, files_of=on_layer(world.adapter(1), tmp_path / "nowhere", 99), proof_of=world.adapter(1)
    )
    world.publish(ONE, bad)
    acks = [(status, why) for _, status, why in world.acks()]
    if "llamacpp" in world.kind:
        assert acks == [("failed", "serving.adapter.misfit")]
    else:
        assert acks == [("loaded", None), ("failed", "client.adapter.inactive"), ("unloaded", None)]
    assert (world.current(ONE), world.engine.held()) == (None, frozenset())


def test_tampered_files_are_refused(world, tmp_path):
    version = world.version(ONE, 1)
    for weights in (tmp_path / "store").glob("*/adapter_model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    world.publish(ONE, version)
    assert world.acks() == [(version.served_name, "failed", "client.adapter.digest_mismatch")]
    assert world.current(ONE) is None


def test_a_successor_takes_over_and_the_old_one_leaves_after_a_while(world):
    first, second = world.version(ONE, 1), world.version(ONE, 2)
    world.publish(ONE, first)
    world.publish(ONE, second)
    assert world.current(ONE) == second.served_name
    assert world.engine.held() == {first.served_name, second.served_name}, "requests are still on their way"
    world.now += world.linger
    world.catch_up()
    assert world.engine.held() == {second.served_name}
    assert statuses(world, first) == ["loaded", "verified", "unloaded"]
    assert not world.cache.path(first.served_name).exists()
    assert world.cache.path(second.served_name).exists()
    assert world.current(ONE) == second.served_name


def test_a_version_in_use_stays_until_its_last_request_ended(world):
    if "llamacpp" in world.kind:
        pytest.skip("llama.cpp is started anew for another set, after its requests ended")
    first, second = world.version(ONE, 1), world.version(ONE, 2)
    world.publish(ONE, first)
    with world.busy(first.served_name):
        world.publish(ONE, second)
        assert world.current(ONE) == second.served_name
        world.now += world.linger
        world.catch_up()
        assert world.engine.in_flight(first.served_name), "or this test shows nothing"
        assert world.engine.held() == {first.served_name, second.served_name}
        assert world.cache.path(first.served_name).exists()
    world.now += world.linger
    world.catch_up()
    assert world.engine.held() == {second.served_name}
    assert not world.cache.path(first.served_name).exists()


def test_beside_anothers_request_the_base_is_the_base(world):
    """In one batch with an adapter's request vLLM on a CPU answers for the base with whoever has the last place."""
    if "llamacpp" in world.kind:
        pytest.skip("every request to llama.cpp names the scale of each adapter")
    versions = [world.version(line, 1) for line in (ONE, TWO)]
    for line, version in zip((ONE, TWO), versions, strict=True):
        world.publish(line, version)
    asked = readings(versions[0].manifest.evaluation.activation)
    alone = world.engine.next_log_probabilities(asked, name=None)
    for version in versions:
        with world.busy(version.served_name):
            beside = world.engine.next_log_probabilities(asked, name=None)
        assert beside == pytest.approx(alone, abs=1e-3)


def test_a_withdrawn_line_is_not_routed_and_leaves_at_once(world):
    version = world.version(ONE, 1)
    world.publish(ONE, version)
    world.lines[ONE].withdraw(world.broker)
    world.catch_up()
    assert (world.current(ONE), world.engine.held()) == (None, frozenset())
    assert statuses(world, version)[-1] == "unloaded"


def test_an_engine_that_began_anew_is_asked_again_before_anything_is_routed(world):
    version = world.version(ONE, 1)
    world.publish(ONE, version)
    world.kill_engine()
    world.bridge._compare(world.engine.held())
    assert world.current(ONE) is None, "nobody knows what it holds now"
    world.now += 2
    world.catch_up()
    assert world.current(ONE) == version.served_name
    assert statuses(world, version)[-1] == "verified"


def test_a_bridge_that_began_anew_finds_its_engine_as_it_is(world):
    version, other = world.version(ONE, 1), world.version(TWO, 1)
    world.publish(ONE, version)
    world.publish(TWO, other)
    world.lines[TWO].withdraw(world.broker)
    world.open_bridge()
    assert world.current(ONE) is None
    world.catch_up()
    assert world.current(ONE) == version.served_name
    assert world.engine.held() == {version.served_name}, "what it does not know it unloads"
    assert world.cache.held() == [version.served_name]
