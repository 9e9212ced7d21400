"""``discreet tokens``: who may use the operator API, what for, and until when."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streams.storage.operator_tokens import TokenFacts

app = typer.Typer(help="Make, list and revoke tokens of the operator API.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
Actor = Annotated[str | None, typer.Option(help="Who does it; your login name by default.")]


@app.command()
def create(
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="[TENANT]", help="The tenant that it reaches; left out: the platform."),
    ] = None,
    *,
    name: Annotated[str, typer.Option(help="Who uses it; changes are audited under this name.")],
    role: Annotated[
        str,
        typer.Option(
            help="reader; server (tells guards' readings); administrator (of a tenant); operator (of the platform)."
        ),
    ] = "reader",
    days: Annotated[int, typer.Option(min=1, help="How long it is good, at most 366.")] = 90,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Make a token; it is shown this once and kept nowhere."""
    from privacy.errors import PolicyError
    from streams.settings import load_settings
    from streams.storage.operator_tokens import Role, new_token
    from streams.storage.schema import current_session

    if role not in set(Role):
        raise PolicyError(f"role is {role[:40]!r}; allowed are {', '.join(Role)}")
    with current_session(load_settings().database_url) as session:
        token, facts = new_token(
            session,
            tenant,
            name,
            role=Role(role),
            days=days,
            actor=actor or getpass.getuser(),
            now=datetime.now(UTC),
        )
    if as_json:
        typer.echo(json.dumps({**facts.to_document(), "token": token}))
        return
    typer.echo(token)
    typer.echo(f"Token {facts.token_id} of {facts.name}: {_reach(facts)}; it is not shown again.", err=True)


@app.command("list")
def list_(
    tenant: Annotated[
        str | None, typer.Argument(metavar="[TENANT]", help="Only those of this tenant.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that ended or were revoked.")] = False,
    as_json: AsJson = False,
) -> None:
    """List tokens, the newest first; never the tokens themselves."""
    from streams.settings import load_settings
    from streams.storage.operator_tokens import list_tokens
    from streams.storage.schema import current_session

    now = datetime.now(UTC)
    with current_session(load_settings().database_url) as session:
        found = list_tokens(session, tenant_id=tenant, good_at=None if every else now)
    if as_json:
        typer.echo(json.dumps([facts.to_document() for facts in found]))
        return
    for facts in found:
        typer.echo(f"{facts.token_id}  {facts.name}: {_reach(facts)}")
    if not found:
        typer.echo("There are no such tokens.")


@app.command()
def revoke(
    token_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, as `discreet tokens list` shows it.")
    ],
    *,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Revoke one token for good."""
    from streams.settings import load_settings
    from streams.storage.operator_tokens import revoke_token
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        facts = revoke_token(session, token_id, actor=actor or getpass.getuser(), now=datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(facts.to_document()))
    else:
        typer.echo(f"Token {facts.token_id} of {facts.name} opens nothing any more.")


def _reach(facts: TokenFacts) -> str:
    where = "the platform" if facts.tenant_id is None else facts.tenant_id
    until = "without an end" if facts.expires_at is None else f"until {facts.expires_at:%Y-%m-%d %H:%M} UTC"
    revoked = "" if facts.revoked_at is None else f", revoked at {facts.revoked_at:%Y-%m-%d %H:%M} UTC"
    return f"{facts.role.value} of {where} {until}{revoked}"
