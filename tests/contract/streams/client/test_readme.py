"""Every Python block of the client's README runs, in order, against a real broker."""

from __future__ import annotations

import re
import sys
import types
import uuid
from pathlib import Path

import streams.client
import streams.contracts
from streams.broker import topics
from streams.broker.embedded import EmbeddedBroker
from streams.client import routing as client_routing
from streams.client import testing as client_testing
from streams.contracts.topics import TOPICS

README = Path(streams.client.__file__).parent / "README.md"


def test_the_examples_run(monkeypatch, capsys):
    package = types.ModuleType("discreet")
    for name, module in {
        "discreet": package,
        "discreet.client": streams.client,
        "discreet.client.routing": client_routing,
        "discreet.client.testing": client_testing,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    assert len(blocks) == 8
    with EmbeddedBroker() as broker:
        with topics.open_admin({"bootstrap_servers": broker.bootstrap}) as admin:
            topics.create_topics(admin, partitions=2)
        namespace = {"__name__": f"readme_{uuid.uuid4().hex}"}
        for block in blocks:
            exec(compile(block.replace("127.0.0.1:9092", broker.bootstrap), str(README), "exec"), namespace)
        with topics.open_admin({"bootstrap_servers": broker.bootstrap}) as admin:
            assert set(admin.list_topics()) == {topic.name for topic in TOPICS}
    printed = capsys.readouterr().out
    for comment in re.findall(r"print\(.*\)  # (.*)", README.read_text("utf-8")):
        assert comment.lstrip("…") in printed
