"""``discreet edge``: a version as a directory that runs offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make versions ready for machines without a network.")


@app.callback()
def root() -> None:
    """Name the group."""


@app.command("export")
def export(
    version: Annotated[str, typer.Argument(help="Served name of the version.")],
    gguf: Annotated[Path, typer.Option(help="Directory to make, for llama.cpp.")],
    *,
    base: Annotated[Path | None, typer.Option(help="Base model as GGUF; by default the bundled one.")] = None,
    engine: Annotated[str, typer.Option(help="Where llama.cpp is; by default DISCREET_BRIDGE__ENGINE.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a version, its base and its signed manifest into a directory, and prove there that llama.cpp applies it."""
    from streams.processes.edge import edge_export
    from streams.settings import load_settings

    done = edge_export(load_settings(), version, gguf, base=base, engine=engine)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "directory": str(done.directory),
                    "precision": done.precision,
                    "effect": done.measured.effect,
                    "error": done.measured.error,
                }
            )
        )
        return
    typer.echo(
        f"{version} is in {done.directory}, and llama.cpp applies it: {done.measured.effect:.3f} nats on average, "
        f"{done.measured.error:.3f} away from its manifest ({done.precision})."
    )
