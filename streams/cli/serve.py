"""``discreet serve``: the small serving process, for one machine and as the model of a larger one."""

from __future__ import annotations

import typer


def command() -> None:
    """Serve the base model with the adapters that the event feed announces, until stopped.

    Settings: DISCREET_BROKER__BOOTSTRAP and its login, DISCREET_TRAINER__BASE_MODEL and DISCREET_SERVING__PORT,
    __TOKEN, __PUBLIC_KEYS and __SERVER_ID.
    """
    import signal
    import threading

    from streams.processes.server import serve
    from streams.settings import load_settings

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def say(port: int) -> None:
        typer.echo(f"serving on 127.0.0.1:{port}", err=True)

    serve(load_settings(), stop=stop, on_ready=say)
