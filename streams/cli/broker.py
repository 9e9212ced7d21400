"""``discreet broker``: the embedded broker on this machine, to try things out without Kafka."""

from __future__ import annotations

from typing import Annotated

import typer

_LOOK_SECONDS = 0.2


def command(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Where to listen on 127.0.0.1; 0 picks a free port.")
    ] = 9092,
) -> None:
    """Run the embedded broker on 127.0.0.1 until Ctrl-C or SIGTERM; nothing it holds survives its end.

    It is for trying things out on one machine; anything else needs Apache Kafka. Start workers with
    DISCREET_BROKER__EMBEDDED=true, because it assigns a group's partitions late.
    """
    import signal
    import time

    from streams.broker.embedded import EmbeddedBroker
    from streams.errors import BrokerUnavailableError

    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
        signal.signal(number, lambda received, _frame: asked.append(received))
    with EmbeddedBroker(port=port) as broker:
        typer.echo(f"A broker listens on {broker.bootstrap} until Ctrl-C; nothing it holds survives that.")
        typer.echo(
            "Settings for the others: "
            f"DISCREET_BROKER__BOOTSTRAP={broker.bootstrap} DISCREET_BROKER__EMBEDDED=true"
        )
        while not asked:
            time.sleep(_LOOK_SECONDS)
            if not broker.running:
                raise BrokerUnavailableError("the embedded broker ended by itself; start it again")
    typer.echo("The broker has stopped.")
