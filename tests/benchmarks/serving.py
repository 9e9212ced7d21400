"""What serving costs: gateway, feed of many lines, bridge, and the real llama.cpp.

    python tests/benchmarks/serving.py --json serving.json
    … --litellm DIR      LiteLLM's proxy in the same run: DIR is a virtual environment with `litellm[proxy]`
    … --llamacpp DIR     tokens a second of the real llama.cpp: DIR is what `--install-engine` made
    … --vllm DIR         the same of the real vLLM, and how long versions take into both

Everything is a process of its own: the engine (``tests.fakes.engines``' vLLM, which answers at once), the gateway on a
broker in memory, the load. With two cores or more the gateway is bound to the last one and everything else to the
others. *Added* is the time through the gateway less the time straight to the engine, at the same pace and in turns, so
that what else the machine does falls on both alike; its percentile is the difference of the percentiles. *Held* is what
one gateway answers with many requests at once, wall time; its CPU seconds per request say what a free core would hold.
The cold start reads signed states of many lines from a broker in memory, checks each signature and holds the lines. The
rows of bridge and llama.cpp are those of ``engines.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import multiprocessing
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from streams.client import AdapterFeed, AdapterStateV1, AdapterVersionV1
from streams.client.signatures import key_id
from streams.client.testing import FakeLine, InMemoryBroker
from streams.contracts.codec import encode
from streams.contracts.envelope import new_envelope
from streams.contracts.manifest import signed_bytes
from streams.contracts.signed_record import KEY_ID_HEADER, SIGNATURE_HEADER
from streams.contracts.signed_record import signed_bytes as signed_record_bytes
from streams.contracts.topics import ADAPTER_STATE
from streams.gateway.desired import DesiredState
from tests.fakes.engines import BASE, EngineProcess

BODY = {"messages": [{"role": "user", "content": "Where is my parcel?"}], "max_tokens": 32}
WARM_UP = 300
PACE_SECONDS = 0.01
ADDED_LIMIT_MS, HELD_LIMIT, COLD_LIMIT_SECONDS = 5.0, 500.0, 10.0
VERIFIED_LIMIT_SECONDS, GROWTH_LIMIT = 1.0, 1.05


def gateway_process(engine_url: str, folder: str, ready, core: int | None) -> None:
    """Run one gateway with one tenant's adapter until it is told to end."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    from tests.fakes.gateways import GatewayThread

    with GatewayThread(Path(folder), url=engine_url, look_seconds=1.0) as gateway:
        token = gateway.token("acme")
        name = gateway.publish("acme")
        gateway.consent("acme", "u1")
        ready.send((gateway.url, token, name))
        ready.recv()


PEER_TOKEN = f"sk-{secrets.token_urlsafe(32)}"  # a weak one keeps LiteLLM from starting


def litellm_process(
    venv: Path, engine_url: str, folder: Path, core: int | None
) -> tuple[subprocess.Popen, str]:
    """Start LiteLLM's proxy in front of the engine and return it with its address."""
    from streams.demo.environment import free_port

    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": "discreet",
                        "litellm_params": {
                            "model": f"hosted_vllm/{BASE}",
                            "api_base": f"{engine_url}/v1",
                            "api_key": "none",
                        },
                    }
                ],
                "general_settings": {"master_key": PEER_TOKEN},
                "litellm_settings": {"telemetry": False},
            }
        )
    )
    command = [
        str(venv / "bin" / "litellm"),
        "--config",
        str(config),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    environment = {**os.environ, "PYTHONPATH": "", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    log = (folder / "litellm.log").open("wb")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log), f"http://127.0.0.1:{port}"


class Target:
    """Where requests go: an address, a token, and the model's name there."""

    def __init__(self, url: str, token: str, model: str, more: dict | None = None) -> None:
        self.url, self.token, self.model, self.more = url, token, model, more or {}
        self.seconds: list[float] = []

    async def ask(self, session: aiohttp.ClientSession) -> float:
        started = time.perf_counter()
        async with session.post(
            f"{self.url}/v1/chat/completions",
            json={**BODY, "model": self.model, **self.more},
            headers={"Authorization": f"Bearer {self.token}"},
        ) as answer:
            content = await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {content[:200]!r}")
        return time.perf_counter() - started

    async def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    await self.ask(session)
                except (aiohttp.ClientError, RuntimeError):
                    if time.monotonic() > end:
                        raise
                    await asyncio.sleep(0.5)
                else:
                    return


async def in_turns(targets: list[Target], requests: int) -> None:
    """Ask each target in turn, one request at a time, at a steady pace."""
    async with aiohttp.ClientSession() as session:
        for target in targets:
            for _ in range(WARM_UP):
                await target.ask(session)
        for _ in range(requests):
            for target in targets:
                target.seconds.append(await target.ask(session))
                await asyncio.sleep(PACE_SECONDS / len(targets))


async def at_once(target: Target, requests: int, width: int) -> float:
    """Return requests per second with ``width`` of them at a time."""
    numbers = iter(range(requests))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=width)) as session:

        async def one_after_another() -> None:
            for _ in numbers:
                await target.ask(session)

        started = time.perf_counter()
        await asyncio.gather(*(one_after_another() for _ in range(width)))
        return requests / (time.perf_counter() - started)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used, with its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        name: 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))]
        for name, share in {"p50": 0.5, "p90": 0.9, "p99": 0.99}.items()
    }


def cold_start(lines: int) -> dict[str, float]:
    """Return how long it takes to read, check and hold the states of many lines."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    broker = InMemoryBroker()
    sink = broker.open_sink()
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        template = json.loads(FakeLine(Path(folder)).version(1).manifest.canonical_bytes())
    template["style"] = {
        "card": {"entries": [{"feature": "opening", "key": f"frame {n}", "share": 0.1} for n in range(20)]},
        "card_digest": "sha256:" + 64 * "0",
        "prompt": "Answers usually open nicely.\n" * 12 + "Prompt: {{ prompt }}\nAnswer:",
        "pattern": "(?:a|b)+" * 20,
        "grammar": "root ::= [ab]+\n" * 20,
    }
    for number in range(lines):
        line_ref = f"{number:012x}"
        document = {**template, "line_ref": line_ref, "served_name": f"a-{line_ref}-v1"}
        manifest = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        version = AdapterVersionV1.from_manifest_bytes(
            manifest,
            uri=f"file:///adapters/{hashlib.sha256(manifest).hexdigest()}",
            key_id=key_id(public),
            signature=base64.b64encode(key.sign(signed_bytes(manifest))).decode(),
        )
        state = AdapterStateV1(line_ref=line_ref, epoch=1, adapter=version, updated_at=now)
        envelope = new_envelope(
            event_id=f"e{number}", source="/bench", event_type=ADAPTER_STATE, time=now, sequence=1
        )
        record = encode(state, envelope)
        signed = base64.b64encode(
            key.sign(signed_record_bytes(record.topic, record.key, record.headers, record.value))
        )
        named = [(KEY_ID_HEADER, key_id(public).encode()), (SIGNATURE_HEADER, signed)]
        sink.send(record._replace(headers=[*record.headers, *named]), lambda _: None)
    desired = DesiredState(lambda: AdapterFeed(broker, trusted_keys=[public]), most_seconds=600.0)
    stop = threading.Event()
    started, used = time.perf_counter(), time.process_time()
    reader = threading.Thread(target=desired.run, args=(stop,))
    reader.start()
    while not desired.caught_up and reader.is_alive():
        time.sleep(0.005)
    found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}
    stop.set()
    reader.join()
    if len(desired) != lines:
        raise RuntimeError(f"{len(desired)} of {lines} lines were read")
    return {"lines": lines, **found}


def measure(given: argparse.Namespace) -> dict:
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1] if len(cores) > 1 else None
    if core is not None:
        os.sched_setaffinity(0, set(cores[:-1]))
    result: dict = {
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
            "gateway_core": core,
        },
        "requests": given.requests,
        "cold_start": cold_start(given.lines),
    }
    engine = EngineProcess("vllm")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    proxy = None
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=gateway_process, args=(engine.url, folder, theirs, core))
        process.start()
        try:
            url, token, name = ours.recv()
            engine.control(names=[name])
            straight = Target(engine.url, "none", name, {"cache_salt": 64 * "0"})
            targets = {"engine": straight, "gateway": Target(url, token, "discreet", {"user": "u1"})}
            if given.litellm:
                proxy, address = litellm_process(given.litellm, engine.url, Path(folder), core)
                targets["litellm"] = Target(address, PEER_TOKEN, "discreet", {"cache_salt": 64 * "0"})
                asyncio.run(targets["litellm"].wait(180.0))
            asyncio.run(targets["gateway"].wait(60.0))
            asyncio.run(in_turns(list(targets.values()), given.requests))
            result["latency_ms"] = {name: percentiles(one.seconds) for name, one in targets.items()}
            pids = {"gateway": process.pid, "litellm": proxy.pid if proxy else None}
            result["added_ms"] = {
                name: {
                    key: result["latency_ms"][name][key] - result["latency_ms"]["engine"][key]
                    for key in ("p50", "p90", "p99")
                }
                for name in targets
                if name != "engine"
            }
            result["held"] = {}
            for name, target in targets.items():
                runs, used = [], 0.0
                for _ in range(3):
                    before = cpu_seconds(pids[name]) if pids.get(name) else 0.0
                    runs.append(asyncio.run(at_once(target, given.requests, given.width)))
                    used += (cpu_seconds(pids[name]) if pids.get(name) else 0.0) - before
                result["held"][name] = {
                    "per_second": statistics.median(runs),
                    "best_per_second": max(runs),
                    **({"cpu_ms_per_request": 1000 * used / (3 * given.requests)} if pids.get(name) else {}),
                }
            ours.send(None)
            process.join(30)
        finally:
            process.kill()
            engine.kill()
            if proxy is not None:
                proxy.kill()
                proxy.wait()
    return result


def engine_rows(given: argparse.Namespace, folder: Path) -> dict:
    """Return what ``engines.py`` measures, in a process of its own: torch and its memory stay out of this one."""
    target = folder / "engines.json"
    command = [sys.executable, str(Path(__file__).with_name("engines.py")), "--json", str(target)]
    command += ["--changes", str(given.changes)]
    if given.llamacpp:
        command += ["--llamacpp", str(given.llamacpp)]
    if given.vllm:
        command += ["--vllm", str(given.vllm)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(target.read_text(encoding="utf-8"))


def rows_of(result: dict) -> list[dict]:
    """Return every figure as a row, with what it must be where it must be something."""
    rows: list[dict] = []

    def row(name: str, value: float, unit: str, must: str | None = None, ok: bool = True) -> None:
        rows.append({"name": name, "value": round(value, 3), "unit": unit, "must": must, "ok": bool(ok)})

    bridge, cold = result["engines"]["bridge"], result["cold_start"]
    p99 = bridge["committed_to_verified_p99_seconds"]
    row("committed to verified, fake engine, p50", bridge["committed_to_verified_p50_seconds"], "s")
    row(
        "committed to verified, fake engine, p99",
        p99,
        "s",
        f"<= {VERIFIED_LIMIT_SECONDS:g}",
        p99 <= VERIFIED_LIMIT_SECONDS,
    )
    first, last = bridge["memory_after_a_fifth_mb"], bridge["memory_at_the_end_mb"]
    row(f"bridge memory after a fifth of {bridge['version_changes']:,} changes", first, "MB")
    row(
        "bridge memory at their end ÷ that",
        last / first,
        "×",
        f"<= {GROWTH_LIMIT:g}",
        last / first <= GROWTH_LIMIT,
    )
    row(
        f"cold start of {cold['lines']:,} lines",
        cold["seconds"],
        "s",
        f"<= {COLD_LIMIT_SECONDS:g}",
        cold["seconds"] <= COLD_LIMIT_SECONDS,
    )
    row("the same, processor time", cold["cpu_seconds"], "s")
    for name, added in result["added_ms"].items():
        ours = name == "gateway"
        row(f"{name} adds, p50", added["p50"], "ms")
        row(
            f"{name} adds, p99",
            added["p99"],
            "ms",
            f"<= {ADDED_LIMIT_MS:g}" if ours else None,
            not ours or added["p99"] <= ADDED_LIMIT_MS,
        )
    for name, held in result["held"].items():
        ours = name == "gateway"
        row(
            f"{name} holds",
            held["per_second"],
            "requests/s",
            f">= {HELD_LIMIT:g}" if ours else None,
            not ours or held["per_second"] >= HELD_LIMIT,
        )
        if "cpu_ms_per_request" in held:
            row(f"{name}, processor time of a request", held["cpu_ms_per_request"], "ms")
    for engine, title in (("llamacpp", "llama.cpp"), ("vllm", "vLLM")):
        for name, value in result["engines"].get(engine, {}).items():
            unit = {"second": "tokens/s", "seconds": "s", "speed": "×"}.get(name.rpartition("_")[2], "")
            row(f"{title}: {name.replace('_', ' ')}", value, unit)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--width", type=int, default=32, help="requests at once")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument(
        "--changes", type=int, default=1_000, help="versions that the bridge brings into service"
    )
    parser.add_argument("--litellm", type=Path, help="virtual environment with litellm[proxy]")
    parser.add_argument("--llamacpp", type=Path, help="where the real llama.cpp was installed")
    parser.add_argument("--vllm", type=Path, help="where the real vLLM was installed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engines = engine_rows(given, Path(folder))
    measured = {**measure(given), "engines": engines}
    rows = rows_of(measured)
    for one in rows:
        must = f" (must {one['must']}: {'yes' if one['ok'] else 'NO'})" if one["must"] else ""
        print(f"{one['name']}: {one['value']:g} {one['unit']}{must}")
    if given.json:
        settings = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()
        }
        document = {
            "machine": measured.pop("machine"),
            "settings": settings,
            "rows": rows,
            "measured": measured,
        }
        given.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(one["ok"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
