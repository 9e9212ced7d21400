"""Which public keys a process trusts, and that asking for them makes no private one."""

from __future__ import annotations

import pytest

from streams.cli import main as command_line
from streams.errors import SettingsError
from streams.processes.keys import adapter_signer, known_public_keys
from streams.processes.public_keys import required_keys
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


def test_a_machine_with_the_signing_key_trusts_it_as_well(settings, monkeypatch):
    own = adapter_signer(settings()).public_key
    assert known_public_keys(settings())[0] == own
    monkeypatch.setenv("DISCREET_SERVING__PUBLIC_KEYS", TOLD.hex())
    assert known_public_keys(settings())[:2] == [own, TOLD]


@pytest.mark.parametrize("section", ["SERVING", "GATEWAY"])
def test_what_is_no_public_key_is_refused_and_the_variable_and_the_form_are_named(
    settings, monkeypatch, section
):
    for wrong in ("no key", "00ff", f"{TOLD.hex()},zz", ",", " "):
        monkeypatch.setenv(f"DISCREET_{section}__PUBLIC_KEYS", wrong)
        with pytest.raises(SettingsError, match="64 hexadecimal digits per key, separated by commas") as told:
            settings()
        assert f"the setting DISCREET_{section}__PUBLIC_KEYS is not allowed" in str(told.value)


@pytest.mark.parametrize(
    ("command", "begins"),
    [("worker", "wiring.build"), ("serve", "server.serve"), ("gateway", "gateway.run_gateway")],
)
def test_no_process_starts_with_one(settings, monkeypatch, capsys, command, begins):
    monkeypatch.setattr(f"streams.processes.{begins}", lambda *_, **__: pytest.fail("it started"))
    monkeypatch.setenv("DISCREET_SERVING__PUBLIC_KEYS", "no key")
    assert command_line.main([command]) == SettingsError.exit_status
    assert "DISCREET_SERVING__PUBLIC_KEYS" in capsys.readouterr().err


def test_a_server_needs_a_key_and_a_gateway_takes_its_own_before_the_servers(settings, monkeypatch):
    with pytest.raises(SettingsError, match="no public key is set; put what"):
        required_keys(settings().gateway, settings().serving)
    monkeypatch.setenv("DISCREET_SERVING__PUBLIC_KEYS", f"{TOLD.hex()}, {TOLD.hex()},")
    assert required_keys(settings().gateway, settings().serving) == [TOLD, TOLD]
    monkeypatch.setenv("DISCREET_GATEWAY__PUBLIC_KEYS", bytes(32).hex())
    assert required_keys(settings().gateway, settings().serving) == [bytes(32)]
