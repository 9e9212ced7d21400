"""Which public keys a process trusts, and that asking for them makes no private one."""

from __future__ import annotations

import pytest

from streams.errors import SettingsError
from streams.processes.keys import adapter_signer, known_public_keys
from streams.settings import load_settings

TOLD = bytes(range(32))


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_MASTER_KEY", "K" * 43 + "=")
    return load_settings


def test_a_worker_without_a_signing_key_trusts_what_it_is_told_and_makes_none(settings, monkeypatch):
    assert known_public_keys(settings()) == []
    monkeypatch.setenv("DISCREET_SERVING__PUBLIC_KEYS", TOLD.hex())
    assert known_public_keys(settings())[0] == TOLD
    assert not settings().adapter_key_file.exists()
    monkeypatch.setenv("DISCREET_SERVING__PUBLIC_KEYS", "no key")
    with pytest.raises(SettingsError, match="64 hexadecimal digits"):
        known_public_keys(settings())


def test_a_machine_with_the_signing_key_trusts_it_as_well(settings, monkeypatch):
    own = adapter_signer(settings()).public_key
    assert known_public_keys(settings())[0] == own
    monkeypatch.setenv("DISCREET_SERVING__PUBLIC_KEYS", TOLD.hex())
    assert known_public_keys(settings())[:2] == [own, TOLD]
