"""A base model whose files changed is noticed; one that was only copied or touched is not."""

from __future__ import annotations

import os

import pytest

from personalization.training.base.directory import BaseDirectory
from tests.fakes.tiny_models import write_tiny_base


@pytest.fixture
def base(tmp_path):
    directory = tmp_path / "base"
    write_tiny_base(directory)
    return directory, BaseDirectory(directory)


def test_an_untouched_base_is_not_read_again(base, monkeypatch):
    _, known = base
    monkeypatch.setattr(
        "personalization.training.base.directory.fingerprint", lambda _: pytest.fail("it was read")
    )
    assert known.unchanged()


def test_the_same_bytes_under_another_time_are_the_same_base(base):
    directory, known = base
    os.utime(directory / "model.safetensors", ns=(1, 1))
    assert known.unchanged()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"]
)
def test_one_changed_byte_is_another_base(base, name):
    directory, known = base
    path = directory / name
    data = bytearray(path.read_bytes()) if path.is_file() else bytearray(b" ")
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert not known.unchanged()


def test_a_file_that_is_gone_counts_as_changed(base):
    directory, known = base
    (directory / "model.safetensors").unlink()
    assert not known.unchanged()
