"""How fast versions come into service, whether a bridge grows, and what an adapter costs llama.cpp.

    python tests/benchmarks/engines.py --json PATH                       bridge over the fake engine
    python tests/benchmarks/engines.py --llamacpp DIR --json PATH        and the real llama.cpp, installed in DIR
    python tests/benchmarks/engines.py --vllm DIR --json PATH            and the real vLLM, with tiny random weights

Bridge over the fake vLLM on this machine, real HTTP, local store, in-memory broker: seconds from the committed event to
the verified acknowledgement, and the process's memory over many changes of version.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from personalization.training.base.directory import bundled_file
from streams.client import AckStatus
from streams.contracts.topics import ADAPTERS
from tests.fakes.bridges import LINES, REAL_BASE, World
from tests.fakes.real_vllm import CAPACITY, MODEL, REAL_VLLM, real_vllm
from tests.fakes.tiny_models import write_tiny_base


def _memory_mb() -> float:
    """Return the resident memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


def bridge_rows(changes: int) -> dict[str, float]:
    """Publish one version after another to a running bridge; wait for each to be verified."""
    with tempfile.TemporaryDirectory() as folder:
        base = write_tiny_base(Path(folder) / "base")
        world = World("vllm", Path(folder) / "world", base=base, capacity=4)
        bridge, seen, done = world.bridge, {}, threading.Event()
        bridge._now, bridge._linger = time.monotonic, 0.0
        ack = world.feed.ack

        def heard(version, status, **facts):
            if status is AckStatus.VERIFIED:
                seen[version.served_name] = time.monotonic()
                done.set()
            return ack(version, status, **facts)

        world.feed.ack = heard
        stop = threading.Event()
        runner = threading.Thread(target=bridge.run, args=(stop,))
        runner.start()
        line, seconds, memory = world.lines[LINES[0]], [], []
        try:
            for number in range(1, changes + 1):
                version = world.version(LINES[0], number, seed=number % 8)
                done.clear()
                began = time.monotonic()
                line.publish(world.broker, version)
                if not done.wait(30):
                    raise TimeoutError(f"version {number} was not verified")
                seconds.append(seen.pop(version.served_name) - began)
                world.broker.compact(ADAPTERS.name)  # or the broker's own memory would be what is seen
                world.fake.asked.clear()
                if number % max(1, changes // 20) == 0:
                    memory.append(_memory_mb())
        finally:
            stop.set()
            runner.join()
            held, lives = len(world.cache.held()), len(bridge._lives)
            world.close()
    seconds.sort()
    return {
        "version_changes": changes,
        "committed_to_verified_p50_seconds": statistics.median(seconds),
        "committed_to_verified_p99_seconds": seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))],
        "memory_after_a_fifth_mb": memory[len(memory) // 5],
        "memory_at_the_end_mb": memory[-1],
        "directories_at_the_end": held,
        "versions_remembered_at_the_end": lives,
    }


def llamacpp_rows(engine: str, tokens: int) -> dict[str, float]:
    """Ask the real llama.cpp for tokens without and with an adapter, and time a version's way into it."""
    import os

    os.environ["DISCREET_TEST_LLAMACPP"] = engine
    with tempfile.TemporaryDirectory() as folder:
        world = World("real-llamacpp", Path(folder), capacity=4, gguf=bundled_file(REAL_BASE))
        try:
            version = world.version(LINES[0], 1)
            began = time.monotonic()
            world.publish(LINES[0], version)
            verified = time.monotonic() - began
            rows = {"published_to_verified_seconds": verified}
            http = world.servers[0].http
            for name, scale in (("base", 0.0), ("adapter", 1.0)):
                body = {
                    "prompt": "Write a long letter to a friend.",
                    "n_predict": tokens,
                    "ignore_eos": True,
                    "temperature": 0,
                    "cache_prompt": False,
                    "lora": [{"id": 0, "scale": scale}],
                }
                timings = http.ask("/completion", body).json()["timings"]
                rows[f"{name}_tokens_per_second"] = timings["predicted_per_second"]
            rows["adapter_share_of_base_speed"] = (
                rows["adapter_tokens_per_second"] / rows["base_tokens_per_second"]
            )
            rows["verified"] = float(world.current(LINES[0]) == version.served_name)
        finally:
            world.close()
    return rows


def vllm_rows(engine: str, versions: int, tokens: int) -> dict[str, float]:
    """Time versions' ways into the real vLLM, and ask it for tokens without and with the last of them."""
    import os

    os.environ[REAL_VLLM] = engine
    with tempfile.TemporaryDirectory() as folder:
        world = World("real-vllm", Path(folder), capacity=CAPACITY)
        try:
            seconds = []
            for number in range(1, versions + 1):
                version = world.version(LINES[0], number)
                began = time.monotonic()
                world.publish(LINES[0], version)
                seconds.append(time.monotonic() - began)
                if world.current(LINES[0]) != version.served_name:
                    raise RuntimeError(f"version {number} was not verified")
                world.now += 60
                world.catch_up()  # the one before leaves
            rows = {
                "start_seconds": real_vllm().starts[0],
                "versions": float(versions),
                "published_to_verified_first_seconds": seconds[0],
                "published_to_verified_median_seconds": statistics.median(seconds),
                "published_to_verified_longest_seconds": max(seconds),
            }
            for name, model in (("base", MODEL), ("adapter", version.served_name)):
                body = {"model": model, "prompt": [1, 2, 3], "max_tokens": tokens, "ignore_eos": True}
                began = time.monotonic()
                answer = real_vllm().http.ask("/v1/completions", body)
                took = time.monotonic() - began
                rows[f"{name}_tokens_per_second"] = answer.json()["usage"]["completion_tokens"] / took
        finally:
            world.close()
            real_vllm().kill()
    return rows


def main() -> None:
    """Measure and print, or write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=1_000)
    parser.add_argument("--llamacpp", default="", metavar="DIR")
    parser.add_argument("--vllm", default="", metavar="DIR")
    parser.add_argument("--versions", type=int, default=10, help="that the real vLLM loads")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    rows = {"bridge": bridge_rows(options.changes)}
    if options.llamacpp:
        rows["llamacpp"] = llamacpp_rows(options.llamacpp, options.tokens)
    if options.vllm:
        rows["vllm"] = vllm_rows(options.vllm, options.versions, options.tokens)
    text = json.dumps(rows, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
