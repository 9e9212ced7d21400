"""``discreet recipes``: seven jobs that people really have, end to end on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Run jobs that people really have, end to end on this machine.")
ALL = "all"


@app.callback()
def root() -> None:
    """Name the group."""


@app.command("list")
def list_recipes(
    *, as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of lines.")] = False
) -> None:
    """List the recipes."""
    import json as codec

    from streams.demo.recipes.catalogue import RECIPES

    if as_json:
        facts = [
            {"name": one.name, "title": one.title, "product": one.product, "takes_data": one.takes_data}
            for one in RECIPES.values()
        ]
        typer.echo(codec.dumps(facts))
        return
    for one in RECIPES.values():
        typer.echo(f"{one.name:<10} {one.title} (as {one.product}); streams/docs/recipes/{one.name}.md")


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="Of one recipe, or all.")],
    *,
    quick: Annotated[bool, typer.Option(help="Fewer users and lines: a first look.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Recorded interactions instead of the recipe's own people (code).")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also write what was found to this file.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep database, logs, adapters and the picture in this folder, which must be new."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Directory of another base model than the bundled one.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Folder of llama.cpp (edge); by default DISCREET_BRIDGE__ENGINE.")
    ] = "",
) -> None:
    """Run a recipe, or all of them one after the other; one that fails does not keep the others from running.

    Everything listens on the loopback and is stopped at the end or by Ctrl-C.
    """
    import json as codec
    import signal
    import threading

    from rich.console import Console

    from streams.cli.failures import describe
    from streams.demo.recipes.catalogue import RECIPES
    from streams.demo.recipes.report import show, show_all
    from streams.demo.recipes.run import run_recipe
    from streams.demo.recipes.values import RecipeOptions

    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us with SIGINT ignored
        signal.signal(number, ask_to_stop)
    console = Console()
    many = name == ALL
    names = list(RECIPES) if many else [name]
    reports, failed = [], {}
    for one in names:
        options = RecipeOptions(
            quick=quick,
            data=None if many else data,
            keep=keep / one if keep is not None and many else keep,
            base_model=base_model or RecipeOptions.base_model,
            engine=engine,
        )
        try:
            report = run_recipe(one, options, console, stop_asked=stop.is_set)
        except Exception as error:
            if not many:
                raise
            sentence, code, _ = describe(error)
            failed[one] = f"{sentence} [{code}]"
            console.print(f"{one} did not run: {failed[one]}", highlight=False, markup=False)
        else:
            show(report, console)
            reports.append(report)
        if json is not None:  # after each, so that what was found is not lost with what comes
            found = {"recipes": [each.to_document() for each in reports], "failed": failed}
            json.write_text(
                codec.dumps(found if many else reports[0].to_document(), indent=1) + "\n", "utf-8"
            )
    if many:
        show_all(reports, failed, console)
    if failed:
        raise typer.Exit(1)
