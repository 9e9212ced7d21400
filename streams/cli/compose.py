"""``discreet adapters compose``: a line for requests that are about two of a tenant's domains."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from typing import Annotated

import typer


def compose(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose lines.")],
    one: Annotated[str, typer.Argument(metavar="LINE_A", help="Domain of one line.")],
    other: Annotated[str, typer.Argument(metavar="LINE_B", help="Domain of the other.")],
    *,
    actor: Annotated[str | None, typer.Option(help="Who does it; your login name by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")] = False,
) -> None:
    """Publish the mean of what two lines serve, as a version of a line named after both; it costs no privacy.

    The router takes it where a prompt fits both lines alike. Compose again when either has a new version.
    """
    from personalization.starts.composing import Compositions
    from personalization.training.child.parent import run_job
    from streams.processes.trainer import flags_of, start_tools
    from streams.settings import load_settings

    settings = load_settings()
    with start_tools(settings) as tools:
        compositions = Compositions(
            tools.shop,
            run=run_job,
            flags=flags_of(settings),
            limit=settings.trainer.max_public_text_change,
        )
        made = compositions.compose(
            tenant, one, other, actor=actor or getpass.getuser(), now=tools.shop.clock.now()
        )
    if as_json:
        typer.echo(json.dumps(asdict(made)))
        return
    typer.echo(f"{made.domain} serves {made.served_name}, the mean of {' and '.join(made.parts)}.")
