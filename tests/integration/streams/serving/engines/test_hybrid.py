"""An edge that answers without a network, and whose events reach the cloud later, each with one effect.

On the real llama.cpp too where there is one; see ``test_engines.py``.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest

from personalization.signals.rows import SignalRow
from privacy.storage.session import open_engine
from streams.broker import topics
from streams.broker.embedded import EmbeddedBroker
from streams.client import ConsentPublisher, DiskQueue, InteractionPublisher
from streams.client.testing import InMemoryBroker
from streams.contracts.topics import CONSENT, INTERACTIONS
from streams.demo.environment import free_port
from streams.serving.engines import edge
from streams.serving.engines.install import llamacpp_command
from streams.serving.engines.llama_server import LlamaServer
from tests.fakes.bridged_engines import FakeLlama, FakeLlamaServer
from tests.fakes.bridges import LINES, REAL_LLAMACPP, World, kinds
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, FakeRecord
from tests.fakes.tiny_gguf import write_tiny_gguf

SOURCE = "/acme/edge-7"
PAGE = Path(edge.__file__).parents[2] / "docs" / "edge.md"


@pytest.fixture(params=[kind for kind in kinds() if "llamacpp" in kind])
def world(request, tmp_path, monkeypatch):
    world = World(request.param, tmp_path)
    world.gguf = tmp_path / "base-model.gguf"
    if world.real:
        write_tiny_gguf(world.base, world.gguf)
        world.command = llamacpp_command(os.environ[REAL_LLAMACPP])
    else:
        world.gguf.write_bytes(b"GGUF of a fake")
        world.command = ("llama-server",)
        base = world.engine._base
        monkeypatch.setattr(edge, "read_gguf_base", lambda _path: base)
        monkeypatch.setattr(edge, "LlamaServer", lambda *_a, **_k: FakeLlamaServer(FakeLlama()))
    yield world
    world.close()


@pytest.fixture
def cloud(sqlite_template, tmp_path):
    shutil.copyfile(sqlite_template, tmp_path / "cloud.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'cloud.db'}")
    yield IngestWorld(engine)
    engine.dispose()


def edge_server(world, directory):
    """Start llama.cpp from an exported directory and nothing else."""
    if world.real:
        command = [*world.command, "-m", str(directory / edge.BASE), "-c", "512", "-np", "1", "-t", "1"]
        server = LlamaServer(command, port=0, key="edge-key", log=directory.parent / "edge.log")
    else:
        server = FakeLlamaServer(FakeLlama())
    server.start({"edge": directory / edge.ADAPTER})
    return server


def asked(server, prompt, *, scale=1.0):
    body = {"prompt": prompt, "n_predict": 12, "temperature": 0, "lora": [{"id": 0, "scale": scale}]}
    answer = server.http.ask("/completion", body)
    assert answer.status == 200
    return str(answer.json()["content"])


def taken(cloud, broker):
    """Let the worker's handlers read everything that the broker holds."""
    effects = 0
    for topic, handler in ((CONSENT.name, cloud.consents), (INTERACTIONS.name, cloud.interactions)):
        records = [
            FakeRecord(one.value, one.key, tuple(one.headers), topic, one.partition, one.offset)
            for one in broker.records(topic)
        ]
        effects += cloud.take(handler, *records).effects if records else 0
    return effects


def test_an_edge_answers_offline_and_its_events_count_once_later(world, cloud, tmp_path, monkeypatch):
    version = world.version(LINES[0], 1)
    directory = edge.export(
        version, world.adapter(1), world.gguf, tmp_path / "edge", command=world.command
    ).directory
    broker = InMemoryBroker()
    broker.set_reachable(False)
    server, path = edge_server(world, directory), tmp_path / "edge-state" / "queue.db"
    try:
        queue = DiskQueue(path, broker)
        with ConsentPublisher(queue, source=SOURCE) as consents:
            consents.grant(tenant_id="acme", user_id="ann", notice_version="1", occurred_at=NOW)
        with InteractionPublisher(queue, source=SOURCE) as publisher:
            for number in range(3):
                prompt = f"question {number}"
                answer = asked(server, prompt)
                assert answer != asked(server, prompt, scale=0.0), "the adapter acts"
                event = {
                    "tenant_id": "acme",
                    "user_id": "ann",
                    "interaction_id": f"edge-{number}",
                    "prompt": prompt,
                    "completion": answer or "-",
                    "outcome": {"kind": "edited", "final_text": f"better {number}"},
                    "served_name": version.served_name,
                    "notice_version": "1",
                    "occurred_at": NOW,
                }
                publisher.publish(event).wait(10)
        assert queue.hand_over() == (0, 4), "there is no network"
        queue.close()

        queue = DiskQueue(path, broker)  # the machine was switched off meanwhile
        broker.set_reachable(True)
        removed = []
        monkeypatch.setattr(queue, "_remove", lambda *given: removed.append(given))
        queue.hand_over()  # and dies after the broker has confirmed, before that is noted
        assert removed
        queue.close()
        queue = DiskQueue(path, broker)
        assert queue.hand_over() == (4, 0)
        assert len(broker.records(INTERACTIONS.name)) == 6, "each was sent twice"
        assert taken(cloud, broker) == 4, "one consent, three interactions"
        assert taken(cloud, broker) == 0
        assert cloud.count(SignalRow) == 3
        (user,) = cloud.users()
        assert {example.completion for example in user.examples} == {f"better {n}" for n in range(3)}
        queue.close()
    finally:
        server.stop()

    successor = world.version(LINES[0], 2)  # the cloud trained; the edge gets what came of it
    second = edge.export(
        successor, world.adapter(2), world.gguf, tmp_path / "edge-2", command=world.command
    ).directory
    server = edge_server(world, second)
    try:
        assert asked(server, "question 0")
    finally:
        server.stop()


class Keyless(FakeLlama):
    """As the directory's README starts it."""

    def answer(self, path, body, keyed):
        return super().answer(path, body, True)


def test_the_page_of_the_edge_runs(world, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("CRITICAL", logger="kafka")  # records of the log would keep sockets
    if world.real:
        pytest.skip("the page is run once, on the fake")
    directory = edge.export(
        world.version(LINES[0], 1), world.adapter(1), world.gguf, tmp_path / "edge", command=world.command
    ).directory
    llama, port = FakeLlamaServer(Keyless()), free_port()
    llama.start({"edge": directory / edge.ADAPTER})
    offline, back = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    offline = offline.replace("http://127.0.0.1:8080", llama.engine.url)
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        with warnings.catch_warnings():  # kafka-python leaves sockets behind when nobody answers
            warnings.simplefilter("ignore", ResourceWarning)
            exec(compile(offline.replace("127.0.0.1:9092", f"127.0.0.1:{port}"), str(PAGE), "exec"), names)
            for _ in range(5):  # one pass frees coroutines, a later one their sockets
                gc.collect()
        with EmbeddedBroker(port=port) as broker:
            with topics.open_admin({"bootstrap_servers": broker.bootstrap}) as admin:
                topics.create_topics(admin, partitions=1)
            exec(compile(back, str(PAGE), "exec"), names)
    finally:
        llama.stop()
    printed = capsys.readouterr().out
    for told in re.findall(r"print\(.*\)  # (.*)", PAGE.read_text("utf-8")):
        assert told in printed
