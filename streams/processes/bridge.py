"""Wire a bridge from the settings: feed, cache, engine, HTTP side."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.planning.model_shape import read_shape
from personalization.training.base.directory import bundled_file, resolve_base
from streams.broker.clients import client_broker
from streams.client import AdapterCache, AdapterFeed
from streams.errors import SettingsError
from streams.processes.public_keys import required_keys
from streams.processes.server import served_base
from streams.serving.engines.bridge import Bridge
from streams.serving.engines.folder import FolderEngine
from streams.serving.engines.gguf_lora import read_gguf_base
from streams.serving.engines.install import install_llamacpp, install_vllm, llamacpp_command
from streams.serving.engines.llama_server import LlamaServer
from streams.serving.engines.llamacpp import LlamaCppEngine
from streams.serving.engines.metrics import BridgeMetrics
from streams.serving.engines.shapes import checked_pairs
from streams.serving.engines.vllm import VllmEngine
from streams.serving.engines.web import BridgeWeb
from streams.serving.engines.wire import EngineHttp
from streams.serving.fetching import fetchers
from streams.telemetry import logs

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from streams.serving.engines.engine import Engine
    from streams.settings import BridgeSettings, Settings

BUNDLED = "smollm2-135m-instruct"


def bridge(settings: Settings, kind: str, *, stop: threading.Event, on_ready: Callable[[int], None]) -> None:
    """Run the bridge beside an engine of this kind until ``stop`` is set.

    Args:
        settings: of the process.
        kind: ``vllm``, ``llamacpp`` or ``directory``.
        stop: ends it.
        on_ready: gets the port once it answers.

    Raises:
        SettingsError: no token, key, base or engine is set.
        BaseModelError: the base cannot be read.
        BrokerUnreachableError: no broker answers.
    """
    logs.configure(settings.log)
    own = settings.bridge
    if own.token is None:
        raise SettingsError("no token is set; put a random one into DISCREET_BRIDGE__TOKEN")
    if not own.base_model:
        raise SettingsError(
            "no base model is set; put the one that the engine serves into DISCREET_BRIDGE__BASE_MODEL"
        )
    keys = required_keys(settings.serving)
    base = resolve_base(own.base_model, settings.state / "models")
    shape, metrics = read_shape(base), BridgeMetrics()
    state = settings.state / f"bridge-{kind}"
    cache = AdapterCache(state, trusted_keys=keys, base=served_base(base), fetchers=fetchers())
    with (
        closing(engine_of(own, kind, state)) as engine,
        AdapterFeed(
            client_broker(settings.broker),
            trusted_keys=keys,
            server_id=settings.serving.server_id,
            engine=kind,
        ) as feed,
    ):
        one = Bridge(
            feed,
            engine,
            cache,
            check=lambda directory: checked_pairs(directory, shape, most_rank=own.most_rank),
            metrics=metrics,
            linger_seconds=own.linger_seconds,
        )
        with BridgeWeb(
            port=own.port, token=own.token.get_secret_value(), routes=one.routes, metrics=metrics
        ) as web:
            on_ready(web.port)
            one.run(stop)


def install(kind: str, target: Path) -> tuple[str, ...]:
    """Install an engine into an environment of its own in ``target``; return the command that starts it.

    Raises:
        SettingsError: there is none to install, or it could not be installed.
    """
    if kind == "directory":
        raise SettingsError("a directory needs no engine; --install-engine is for vllm and llamacpp")
    return install_vllm(target) if kind == "vllm" else install_llamacpp(target)


def engine_of(own: BridgeSettings, kind: str, state: Path) -> Engine:
    """Return the engine that the settings name.

    Raises:
        SettingsError: what it needs is not set.
    """
    key = "" if own.engine_key is None else own.engine_key.get_secret_value()
    if kind == "vllm":
        if not own.engine_model:
            raise SettingsError(
                "no name of the base in vLLM is set; put it into DISCREET_BRIDGE__ENGINE_MODEL"
            )
        http = EngineHttp(own.engine_url, key)
        return VllmEngine(http, model=own.engine_model, capacity=own.capacity, precision=own.precision)
    if kind == "directory":
        if not own.directory:
            raise SettingsError("no directory is set; put one into DISCREET_BRIDGE__DIRECTORY")
        return FolderEngine(Path(own.directory), capacity=own.capacity)
    if kind != "llamacpp":
        raise SettingsError(f"there is no bridge for {kind!r}; there are vllm, llamacpp and directory")
    gguf = Path(own.gguf) if own.gguf else bundled_file(BUNDLED)
    command = [
        *llamacpp_command(own.engine), "-m", str(gguf), "-c", str(own.context), "-np", str(own.slots),
        "-t", str(own.threads),
    ]  # fmt: skip
    return LlamaCppEngine(
        LlamaServer(command, port=own.engine_port, key=key, log=state / "llamacpp.log"),
        LlamaServer(command, port=0, key=key, log=state / "llamacpp-trial.log"),
        base=read_gguf_base(gguf),
        folder=state / "gguf",
        capacity=own.capacity,
    )
