"""A version exported for llama.cpp runs from its directory alone; on the real engine where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from streams.client.errors import AdapterUnprovenError
from streams.contracts.manifest import SignatureV1, manifest_digest
from streams.errors import SettingsError
from streams.serving.engines import edge
from streams.serving.engines.install import llamacpp_command
from tests.fakes.bridged_engines import FakeLlama, FakeLlamaServer
from tests.fakes.bridges import LINES, REAL_LLAMACPP, World, kinds


@pytest.fixture(params=[kind for kind in kinds() if "llamacpp" in kind])
def world(request, tmp_path, monkeypatch):
    real = request.param.startswith("real-")
    file = tmp_path / "base-model.gguf"
    if real:
        from personalization.training.base.directory import bundled_file

        shutil.copyfile(bundled_file("smollm2-135m-instruct"), file)
    world = World(request.param, tmp_path, gguf=file if real else None)
    world.gguf = file
    if real:
        world.command = llamacpp_command(os.environ[REAL_LLAMACPP])
    else:
        world.gguf.write_bytes(b"GGUF of a fake")
        world.command = ("llama-server",)
        base = world.engine._base
        monkeypatch.setattr(edge, "read_gguf_base", lambda _path: base)
        monkeypatch.setattr(edge, "LlamaServer", lambda *_a, **_k: FakeLlamaServer(FakeLlama()))
    yield world
    world.close()


def made(world, version, adapter, target):
    return edge.export(version, adapter, world.gguf, target, command=world.command)


def test_an_exported_version_holds_all_it_needs_and_was_proved_there(world, tmp_path):
    version, target = world.version(LINES[0], 1), tmp_path / "edge"
    done = made(world, version, world.adapter(1), target)
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md", "adapter.gguf", "base.gguf", "manifest.json", "measured.json", "signature.json",
    ]  # fmt: skip
    assert manifest_digest((target / "manifest.json").read_bytes()) == version.version_id
    assert SignatureV1.model_validate_json((target / "signature.json").read_text()) == version.signature
    assert json.loads((target / "measured.json").read_text())["proof"] == "proved"
    assert done.measured.effect > 0.1
    text = (target / "README.md").read_text()
    assert version.served_name in text
    (asked,) = re.findall(r"-d '(.*?)'", text, re.DOTALL)
    assert json.loads(asked)["presence_penalty"] == 1.5
    assert str(tmp_path) not in text, "no path of this machine"
    with pytest.raises(SettingsError, match="there already"):
        made(world, version, world.adapter(1), target)


def test_what_llamacpp_does_not_apply_is_not_exported(world, tmp_path):
    version = world.version(LINES[0], 1, proof_of=world.adapter(2))
    with pytest.raises(AdapterUnprovenError):
        made(world, version, world.adapter(1), tmp_path / "edge")
    assert not (tmp_path / "edge").exists()
    assert [path for path in Path(tmp_path).iterdir() if path.name.endswith(".part")] == []
