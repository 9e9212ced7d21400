"""The training process finds no secret of its parent's: not in its environment, nor among its open files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from personalization.training.child import process
from personalization.training.child.process import environment_of_child

SECRETS = {
    "DISCREET_MASTER_KEY": "s1", "DISCREET_SIGNING__ADAPTER_KEY": "s2", "DISCREET_DATABASE__URL": "postgresql://u:s3@h/d",
    "DISCREET_KEYS__TRANSIT_TOKEN": "s4", "DISCREET_BROKER__SASL_PASSWORD": "s5", "DISCREET_HTTP__TOKEN": "s6",
    "HF_TOKEN": "s7", "AWS_SECRET_ACCESS_KEY": "s8", "VAULT_TOKEN": "s9", "PGPASSWORD": "s10",
}  # fmt: skip
ASKED = """
import json, os, sys
from multiprocessing.connection import Connection

def file(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:  # that of the listing itself
        return ""

said = {
    "environment": open("/proc/self/environ").read(),
    "files": [file(number) for number in os.listdir("/proc/self/fd")],
    "threads": os.environ.get("OMP_NUM_THREADS"),
}
Connection(int(sys.argv[1])).send_bytes(json.dumps(said).encode())
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")
def test_a_child_has_neither_the_secrets_nor_the_open_files_of_its_parent(tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "asked_of_child.py").write_text(ASKED)
    monkeypatch.syspath_prepend(str(tmp_path))
    secret_file = tmp_path / "keys.sqlite3"
    secret_file.write_text("a key")
    with secret_file.open() as held:
        os.set_inheritable(held.fileno(), True)
        child, ours = process.start("asked_of_child")
        try:
            assert ours.poll(60)
            said = json.loads(ours.recv_bytes())
        finally:
            ours.close()
            process.end(child, 10)
    assert child.returncode == 0
    assert [name for name in SECRETS if name in said["environment"]] == []
    assert [value for value in SECRETS.values() if f"={value}" in said["environment"]] == []
    assert not any(secret_file.name in file for file in said["files"])
    assert said["threads"] == "1"


def test_what_a_child_is_given_is_named_and_everything_else_left_out():
    given = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "2",
        "LC_ALL": "C",
        **SECRETS,
        "X": "y",
    }
    assert environment_of_child(given) == {
        "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "2", "LC_ALL": "C",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }  # fmt: skip
