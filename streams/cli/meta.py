"""``discreet meta``: bring the meta starts up to date, and show which tenants stand behind each."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(
    help="Meta starts: averages of released adapters that new tenants start from.", no_args_is_help=True
)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]


@app.command()
def refresh(*, as_json: AsJson = False) -> None:
    """Compute meta starts anew from opted-in tenants, withdraw stale ones, serve tenants that have none."""
    from streams.bootstrap import SystemClock
    from streams.settings import load_settings
    from streams.trainer_process import meta_starts_of, refresh_meta_starts

    with meta_starts_of(load_settings()) as (engine, meta):
        done = refresh_meta_starts(engine, meta, SystemClock())
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(
        f"{len(done.published)} meta starts published, {len(done.withdrawn)} versions withdrawn, "
        f"{len(done.served_to)} tenants served."
    )
    for owner, tenants in done.waiting.items():
        typer.echo(f"{owner}: {tenants} tenants so far, too few.")


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List meta versions with their state and the tenants and versions they were computed from."""
    from personalization.services.meta_versions import describe_meta_versions
    from privacy.storage.session import transaction
    from streams.database import open_current
    from streams.settings import load_settings

    engine = open_current(load_settings().database_url)
    with transaction(engine) as session:
        facts = describe_meta_versions(session)
    engine.dispose()
    if as_json:
        typer.echo(json.dumps(facts))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("served name", "domain", "state", "published", "contributors")
    for fact in facts:
        parts = ", ".join(f"{part['tenant']} ({part['weight']:.2f})" for part in fact["contributors"])
        table.add_row(fact["served_name"], fact["domain"], fact["state"], fact["published_at"][:19], parts)
    Console().print(table)
