"""``discreet bridge``: keep a serving engine at what the feed wants, and prove that it applies it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer


class EngineKind(StrEnum):
    """Engines that there is a bridge for."""

    VLLM = "vllm"
    LLAMACPP = "llamacpp"
    DIRECTORY = "directory"


def command(
    engine: EngineKind,
    install_engine: Path | None = typer.Option(
        None, help="Install the engine into an environment of its own in this directory, then end."
    ),
) -> None:
    """Run the bridge beside one engine, until stopped.

    Settings: DISCREET_BROKER__BOOTSTRAP and its login, DISCREET_SERVING__PUBLIC_KEYS and __SERVER_ID, and
    DISCREET_BRIDGE__TOKEN, __BASE_MODEL and what the engine needs.
    """
    import shlex
    import signal
    import threading

    from streams.processes.bridge import bridge, install
    from streams.settings import load_settings

    if install_engine is not None:
        typer.echo(shlex.join(install(engine.value, install_engine)))
        return
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def say(port: int) -> None:
        typer.echo(f"bridge to {engine.value} on 127.0.0.1:{port}", err=True)

    bridge(load_settings(), engine.value, stop=stop, on_ready=say)
