"""``discreet rounds``: open a training round by hand, and list rounds."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from personalization.rounds.tables import RoundRow

app = typer.Typer(help="Open a training round by hand and list rounds.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


@app.command("open")
def open_(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose adapter line is trained.")],
    *,
    domain: Annotated[str, typer.Option(help="Which adapter line.")] = "default",
    actor: Annotated[str | None, typer.Option(help="Who opens it; your login name by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Open one round now; a trainer takes it, and its budget is charged as for a scheduled one."""
    from personalization.rounds.queries import open_round
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        row = open_round(session, tenant, domain, actor=actor or getpass.getuser(), now=datetime.now(UTC))
        facts = _facts(row)
    typer.echo(json.dumps(facts) if as_json else f"Round {row.round_id} of {tenant}/{domain} is due.")


@app.command("list")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's rounds.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List rounds, newest first: state, who opened them, how they ended."""
    from personalization.rounds.queries import list_rounds
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        facts = [_facts(row) for row in list_rounds(session, tenant_id=tenant, limit=limit)]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("tenant", "domain", "period", "nr", "opened", "by", "state")
    table.add_column("outcome", no_wrap=True)
    for row in facts:
        table.add_row(
            row["tenant"],
            row["domain"],
            str(row["period_index"]),
            str(row["sequence"]),
            row["opened_at"][:19],
            row["opened_by"],
            row["state"],
            row["outcome_code"] or "",
        )
    Console().print(table)


def _facts(row: RoundRow) -> dict[str, Any]:
    return {
        "round_id": row.round_id,
        "tenant": row.tenant_id,
        "domain": row.domain,
        "period_index": row.period_index,
        "sequence": row.sequence,
        "state": row.state,
        "epoch": row.epoch,
        "opened_by": row.opened_by,
        "opened_at": row.opened_at.isoformat(),
        "closed_at": row.closed_at.isoformat() if row.closed_at else None,
        "noisy_cohort": row.noisy_cohort,
        "outcome_code": row.outcome_code,
        "outcome": row.outcome,
        "version_id": row.version_id,
    }
