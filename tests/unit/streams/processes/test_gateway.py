"""How the gateway is wired: its engines by the settings, and readers that go on after whatever failed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from streams.client import BrokerUnreachableError
from streams.errors import SettingsError
from streams.gateway.example_server import ExampleServerUpstream
from streams.gateway.llamacpp_server import LlamaCppUpstream
from streams.gateway.upstreams import OpenAIUpstream
from streams.gateway.vllm_server import VllmUpstream
from streams.processes import gateway
from streams.settings import Settings


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        ("vllm", VllmUpstream),
        ("llamacpp", LlamaCppUpstream),
        ("discreet", ExampleServerUpstream),
        ("openai", OpenAIUpstream),
    ],
)
def test_the_engine_is_the_one_of_the_settings(engine, kind):
    made = gateway.engine_of(Settings(gateway={"engine": engine, "url": "http://127.0.0.1:9/v1/"}))
    assert type(made) is kind
    assert made._url == "http://127.0.0.1:9"
    assert made.model == "discreet"


def test_the_example_server_is_asked_with_its_own_token_unless_another_is_set():
    serving = {"token": "t0"}
    assert gateway.engine_of(Settings(serving=serving))._headers == {"Authorization": "Bearer t0"}
    other = Settings(serving=serving, gateway={"engine_token": "t1"})
    assert gateway.engine_of(other)._headers == {"Authorization": "Bearer t1"}
    assert gateway.engine_of(Settings(serving=serving, gateway={"engine": "vllm"}))._headers == {}


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(SettingsError, match="http"):
        gateway.engine_of(Settings(gateway={"url": "file:///etc/passwd"}))


def test_the_fallback_takes_the_models_name_of_the_engine():
    assert gateway.fallback_of(Settings().gateway) is None
    given = Settings(gateway={"fallback_url": "https://models.example/v1", "engine_model": "base"}).gateway
    assert gateway.fallback_of(given).model == "base"
    assert not gateway.fallback_of(given).applies_adapters


def test_readers_go_on_after_whatever_failed(monkeypatch):
    monkeypatch.setattr(gateway, "PAUSE_SECONDS", 0.01)
    failures = [BrokerUnreachableError("away"), RuntimeError("a secret"), KeyError("another")]
    went_on = threading.Event()

    def run(stop):
        if failures:
            raise failures.pop(0)
        went_on.set()
        stop.wait(10)

    with gateway._reading({"one": run}):
        assert went_on.wait(10)
    assert "gateway-one" not in {thread.name for thread in threading.enumerate()}


def test_what_is_asked_again_and_again_is_asked_on_after_whatever_failed(monkeypatch):
    monkeypatch.setattr(gateway, "PAUSE_SECONDS", 0.0)
    left = [AttributeError("a list has no get"), OSError("gone"), None]

    async def work():
        error = left.pop(0)
        if error is not None:
            raise error

    asyncio.run(asyncio.wait_for(gateway._going_on(work), 10))
    assert left == []
