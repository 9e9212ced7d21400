"""``discreet gateway``: the OpenAI-compatible front door of one engine, and the tokens that let programs in."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated

import typer

app = typer.Typer(invoke_without_command=True)
tokens = typer.Typer(help="Tokens of tenants' programs.", no_args_is_help=True)
app.add_typer(tokens, name="tokens")

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Whose program uses the token.")]
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Who uses the token.")]
Actor = Annotated[str | None, typer.Option(help="Who makes the change; your login name by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]


@app.callback()
def command(context: typer.Context) -> None:
    """Answer OpenAI's API in front of one engine, each tenant with its own adapter (long-running).

    Settings: DISCREET_GATEWAY__ENGINE, __URL, __MODEL and others, DISCREET_DATABASE__URL, DISCREET_BROKER__BOOTSTRAP
    and its login, DISCREET_SERVING__PUBLIC_KEYS.
    """
    if context.invoked_subcommand is not None:
        return
    import signal
    import threading

    from streams.processes.gateway import run_gateway
    from streams.settings import load_settings

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    settings = load_settings()

    def say(port: int) -> None:
        typer.echo(f"answering on {settings.gateway.host}:{port}", err=True)

    run_gateway(settings, stop=stop, on_ready=say)


@tokens.command()
def create(
    tenant: TenantName,
    name: TokenName,
    *,
    rights: Annotated[
        list[str] | None,
        typer.Option(
            "--right",
            help="chat, feedback or users (to say which user asks: for back ends); by default all three.",
        ),
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and show it, this once; only its digest is kept."""
    from privacy.errors import PolicyError
    from streams.gateway.callers import Right
    from streams.gateway.tokens import new_gateway_token
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    known = {right.value: right for right in Right}
    unknown = [word for word in rights or () if word not in known]
    if unknown:
        raise PolicyError(f"{unknown[0]!r} is no right; allowed are {', '.join(known)}")
    wanted = [known[word] for word in rights or known]
    with current_session(load_settings().database_url) as session:
        token = new_gateway_token(
            session,
            tenant,
            name,
            rights=wanted,
            actor=actor or getpass.getuser(),
            now=datetime.now(UTC),
        )
    typer.echo(json.dumps({"tenant": tenant, "name": name, "token": token}) if as_json else token)


@tokens.command()
def revoke(tenant: TenantName, name: TokenName, *, actor: Actor = None, as_json: AsJson = False) -> None:
    """Revoke every token of that name."""
    from streams.gateway.tokens import revoke_gateway_tokens
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        count = revoke_gateway_tokens(
            session, tenant, name, actor=actor or getpass.getuser(), now=datetime.now(UTC)
        )
    typer.echo(json.dumps({"revoked": count}) if as_json else f"{count} tokens were revoked.")


@tokens.command("list")
def show(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]", help="By default all.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the tokens in force: whose, and what they allow."""
    from streams.gateway.tokens import list_gateway_tokens
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        rows = [
            {"tenant": row.tenant_id, "name": row.name, "rights": row.rights.split()}
            for row in list_gateway_tokens(session, tenant)
        ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['tenant']:24} {row['name']:32} {' '.join(row['rights'])}")
