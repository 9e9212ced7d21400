"""``discreet demo``: the whole path on this machine, with nothing to set up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="Replay the *.jsonl.gz files of this folder instead of the built-in companies."),
    ] = None,
    tenants: Annotated[str, typer.Option(help="Names to take, separated by commas.")] = "",
    max_users: Annotated[int, typer.Option(help="Users per tenant whose interactions are published.")] = 60,
    epsilon: Annotated[float, typer.Option(help="What each tenant's policy allows over all rounds.")] = 8.0,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Training rounds per tenant.")] = 1,
    base_model: Annotated[
        str | None,
        typer.Option(help="Directory of another base model than the one that ships with the demo."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep database, logs and adapters in this folder, which must be new.")
    ] = None,
) -> None:
    """Run broker, worker, trainer and server, learn from three tenants, and report what it cost.

    Everything listens on the loopback and is stopped at the end or by Ctrl-C. It takes some minutes on two
    CPU cores; the first run also converts the base model, which takes half a minute.
    """
    import signal
    import threading

    from rich.console import Console

    from streams.demo.report import show
    from streams.demo.run import DemoOptions, run_demo

    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
        signal.signal(number, ask_to_stop)
    console = Console()
    names = tuple(name for name in tenants.replace(" ", "").split(",") if name)
    options = DemoOptions(
        data=data,
        tenants=names,
        max_users=max_users,
        epsilon=epsilon,
        rounds=rounds,
        keep=keep,
        base_model=base_model or DemoOptions.base_model,
    )
    report = run_demo(options, console, stop_asked=stop.is_set)
    show(report, console)
    if json is not None:
        report.write(json)
        console.print(f"The report is in {json}.", highlight=False)
