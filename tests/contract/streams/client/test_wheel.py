"""The small wheel: it builds, imports alone, pulls in nothing heavy, and exports what it promises."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import streams.client
from streams.client import errors
from streams.client import testing as client_testing

SOURCE = Path(streams.client.__file__).parent
BLOCKED = (
    "torch",
    "faust",
    "sqlmodel",
    "sqlalchemy",
    "streams",
    "personalization",
    "privacy",
    "cryptography",
    "orjson",
)
ALLOWED = {
    "discreet",
    "kafka",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
}
PROGRAM = """
import importlib.abc, json, sys, sysconfig
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
sys.path.insert(0, {wheel!r})
import discreet.client, discreet.client.testing, discreet.contracts.codec
from discreet.client import InteractionPublisher
from discreet.client.testing import FakeLine, InMemoryBroker
import pathlib, tempfile
broker, line = InMemoryBroker(), FakeLine(pathlib.Path(tempfile.mkdtemp()))
line.publish(broker, line.version(1))
with discreet.client.AdapterFeed(broker, trusted_keys=[line.signer.public_key]) as feed:
    assert len(feed.snapshot()) == 1
standard = set(sys.stdlib_module_names) | set(sys.builtin_module_names)
tops = {{name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}}
print(json.dumps(sorted(tops - standard - {{"__main__", "sitecustomize", "usercustomize"}})))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(target)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.split()[-1]


def test_the_wheel_holds_client_and_contracts_and_needs_two_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    required = {
        line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line
    }
    assert required == {"Requires-Dist: kafka-python>=3.0.11", "Requires-Dist: pydantic>=2.10"}
    assert {name.split("/")[0] for name in names} == {"discreet", "discreet_client-0.1.0.dist-info"}
    for folder in ("client", "contracts"):
        here = {path.name for path in (SOURCE.parent / folder).glob("*.py")}
        assert {f"discreet/{folder}/{name}" for name in (*here, "py.typed", "README.md")} <= names
    assert {
        f"discreet/client/routing/{name}" for name in ("__init__.py", "router.py", "questions.json")
    } <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_imports_alone_and_light(wheel, tmp_path):
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    program = PROGRAM.format(blocked=BLOCKED, wheel=str(unpacked))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    import json

    assert (
        set(json.loads(done.stdout)) - ALLOWED - {name for name in json.loads(done.stdout) if name[0] == "_"}
        == set()
    )


def test_the_island_imports_relatively():
    for folder in ("client", "contracts"):
        for path in (SOURCE.parent / folder).glob("*.py"):
            text = path.read_text("utf-8")
            assert "from streams" not in text, path.name
            assert "import streams" not in text, path.name


def test_exported_names_are_those_we_promise():
    assert streams.client.__all__ == sorted(streams.client.__all__)
    assert set(streams.client.__all__) == {
        *(
            "AdapterInactiveError",
            "AdapterUnprovenError",
            "Measured",
            "Proof",
            "PromptTemplateV1",
            "Reading",
            "WrongAdapterError",
        ),
        *("compare", "readings"),
        *("Accepted", "AckPublisher", "AckStatus", "AdapterCache", "AdapterFeed", "AdapterRefusedError"),
        *("AdapterStateV1", "AdapterUpdate", "AdapterVersionV1", "ArtifactFetchError"),
        *(
            "AsyncInteractionPublisher",
            "BrokerUnreachableError",
            "BufferFullError",
            "ClientError",
            "ClosedError",
        ),
        *("ConsentPublisher", "ConsentV1", "Correction", "Delivery", "DeliveryError", "DigestMismatchError"),
        *("DiskQueue", "HandedOver"),
        *("Edited", "ErasureCertificateV1", "ErasureCompletedV1", "ErasurePublisher", "ErasureReason"),
        *(
            "ErasureRequestedV1",
            "EventPublisher",
            "EventRefusedError",
            "FilePositions",
            "InteractionPublisher",
        ),
        *(
            "InteractionV1",
            "KafkaBroker",
            "ManifestV1",
            "Outcome",
            "PositionError",
            "PrototypeError",
            "RewoundLineError",
            "ConsentPurpose",
            "Rating",
        ),
        *(
            "Refusal",
            "Rejected",
            "RewoundLineError",
            "Security",
            "ServingAckV1",
            "SignatureInvalidError",
            "UnsafeArtifactError",
        ),
        "UpdateKind",
    }
    assert all(hasattr(streams.client, name) for name in streams.client.__all__)
    assert client_testing.__all__ == [
        "FakeLine",
        "FakeSigner",
        "InMemoryBroker",
        "InMemorySink",
        "InMemorySource",
    ]


def test_every_error_is_exported_and_has_a_code_of_its_own():
    classes = [
        value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)
    ]
    assert {each.__name__ for each in classes} <= set(streams.client.__all__)
    codes = [each.code for each in classes]
    assert len(set(codes)) == len(codes)
    for each in classes:
        assert each.__name__ in errors.__doc__
        assert (
            "(retryable)"
            in next(line for line in errors.__doc__.splitlines() if f" {each.__name__} " in line + " ")
        ) is each.retryable
