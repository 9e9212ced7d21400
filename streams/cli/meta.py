"""``discreet meta``: build meta starts, bring them up to date, show which tenants stand behind each."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(help="Meta starts: what new tenants start from and are served.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]


class Method(StrEnum):
    """How a meta start is made."""

    AVERAGE = "average"
    MAML = "maml"


@app.command()
def refresh(*, as_json: AsJson = False) -> None:
    """Compute meta starts anew from opted-in tenants, withdraw stale ones, serve tenants that have none."""
    _average(as_json=as_json)


@app.command()
def build(
    *,
    method: Annotated[
        Method,
        typer.Option(help="average: of opted-in tenants' adapters; maml: first-order MAML on public data."),
    ] = Method.AVERAGE,
    outer_steps: Annotated[int, typer.Option(min=1, max=1000, help="maml: passes over all tasks.")] = 10,
    outer_rate: Annotated[float, typer.Option(min=1e-6, help="maml: length of one outer step.")] = 0.1,
    inner_steps: Annotated[int, typer.Option(min=1, max=1000, help="maml: steps on one task.")] = 4,
    inner_rate: Annotated[float, typer.Option(min=1e-6, help="maml: their learning rate.")] = 0.03,
    sampling: Annotated[
        str,
        typer.Option(help="maml: which tasks an outer step takes: uniform, loss, diversity or easy_first."),
    ] = "uniform",
    tasks_per_step: Annotated[
        int | None, typer.Option(min=1, help="maml: how many tasks an outer step takes; all by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build meta starts. One from public data serves until enough tenants share adapters; both cost no privacy."""
    if method is Method.AVERAGE:
        _average(as_json=as_json)
        return
    from personalization.training.jobs.recipes import MamlRecipe, TaskSampling
    from streams.processes.trainer import start_tools
    from streams.settings import load_settings

    if sampling not in list(TaskSampling):
        raise typer.BadParameter(f"sampling is {sampling}; allowed are {', '.join(TaskSampling)}")
    recipe = MamlRecipe(
        outer_steps=outer_steps,
        outer_rate=outer_rate,
        inner_steps=inner_steps,
        inner_rate=inner_rate,
        sampling=TaskSampling(sampling),
        tasks_per_step=tasks_per_step,
    )
    with start_tools(load_settings()) as tools:
        done = tools.public.build_maml(recipe, now=tools.shop.clock.now())
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(
        f"{len(done.published)} meta starts published, {done.kept} kept, {len(done.served_to)} tenants served."
    )


def _average(*, as_json: bool) -> None:
    from streams.processes.trainer import refresh_meta_starts, start_tools
    from streams.settings import load_settings

    with start_tools(load_settings()) as tools:
        done = refresh_meta_starts(tools)
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
    from personalization.starts.meta_versions import describe_meta_versions
    from privacy.storage.session import transaction
    from streams.settings import load_settings
    from streams.storage.schema import open_current

    engine = open_current(load_settings().database_url)
    with transaction(engine) as session:
        facts = describe_meta_versions(session)
    engine.dispose()
    if as_json:
        typer.echo(json.dumps(facts))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("served name", "domain", "made by", "state", "published", "contributors")
    for fact in facts:
        parts = ", ".join(f"{part['tenant']} ({part['weight']:.2f})" for part in fact["contributors"])
        table.add_row(
            fact["served_name"],
            fact["domain"],
            fact["mechanism"],
            fact["state"],
            fact["published_at"][:19],
            parts,
        )
    Console().print(table)


@app.command()
def statement(*, as_json: AsJson = False) -> None:
    """Show the ledger's statement of what meta starts reveal of a tenant as a whole, where settings protect that."""
    from datetime import UTC, datetime

    from privacy.guarantee import FLEET
    from privacy.reports.statement import privacy_statement
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        made = privacy_statement(session, FLEET, now=datetime.now(UTC))
    typer.echo(json.dumps(made.to_document()) if as_json else made.to_text())
