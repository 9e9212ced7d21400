"""``discreet prompts choose`` and ``choices``: users' answers choose among templates by one charged draw."""

from __future__ import annotations

import dataclasses
import getpass
import json
from datetime import UTC, datetime
from typing import Annotated

import typer

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")]
Domain = Annotated[str, typer.Option(help="Which line.")]
Reason = Annotated[str, typer.Option(help="Why, in one public sentence; servers and auditors see it.")]
Actor = Annotated[str | None, typer.Option(help="Who asks; your login name by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of sentences.")]


def choose(
    tenant: Tenant,
    *,
    candidates: Annotated[
        str, typer.Option(help="Versions to choose among, by number or name, with commas between: v1,v2,v3.")
    ],
    reason: Reason,
    epsilon: Annotated[
        float, typer.Option(help="What the choice may tell about any one user: 0.05 to 4.")
    ] = 0.5,
    percent: Annotated[
        float, typer.Option(help="Share of the users who then try what is chosen; 0 only registers it.")
    ] = 10.0,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Let users' own accepted answers choose among templates, by one charged draw.

    A trainer reserves the budget, has the base model say under which template each user's answers are likeliest (one
    vote a user), and draws one template, which becomes a signed version of origin selection. Votes are never shown.
    """
    from personalization.choices.asking import ask
    from personalization.choices.rows import facts_of
    from personalization.registry.announcements import Act
    from privacy.policy import versions as policies
    from privacy.storage.session import server_now
    from streams.processes.keys import trusted_keys
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    names = [name.strip() for name in candidates.split(",") if name.strip()]
    with current_session(settings.database_url) as session:
        policies.tenant(session, tenant)
        # It says which period pays and which signals are read, so the database's clock counts, not this machine's.
        now = server_now(session) or datetime.now(UTC)
        row, forecast = ask(
            session,
            tenant,
            domain,
            names,
            Act(actor=actor or getpass.getuser(), reason=reason, now=now),
            epsilon=epsilon,
            percent=percent,
            keys=trusted_keys(settings),
            ceilings=settings.ceilings.ceilings(),
        )
        facts = {"tenant": tenant, "domain": domain, **facts_of(row), **dataclasses.asdict(forecast)}
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(
        f"A trainer will take the choice among {', '.join(facts['candidates'])} (it needs {forecast.users_needed} "
        f"users; {forecast.declared_users} are declared). `discreet prompts choices {tenant}` tells how it ends."
    )
    if forecast.releases_before is not None and forecast.releases_after != forecast.releases_before:
        typer.echo(
            f"It takes budget that adapters would train on: {forecast.releases_after} more releases will fit, "
            f"{forecast.releases_before} without it."
        )


def choices(
    tenant: Tenant,
    *,
    domain: Domain = "default",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the choices that were asked for, what was chosen, and how the others ended."""
    from personalization.choices.rows import choices_of, facts_of
    from privacy.policy import versions as policies
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        policies.tenant(session, tenant)
        found = [facts_of(row) for row in choices_of(session, tenant, domain, limit=limit)]
    if as_json:
        typer.echo(json.dumps({"tenant": tenant, "domain": domain, "choices": found}))
        return
    for one in found:
        ended = one["outcome"] or one["state"]
        what = (
            "" if one["template"] is None else f" {one['template']} (candidate {one['drawn'] or 'unknown'})"
        )
        if one["damaged"]:
            what += " (damaged: what is stored of it cannot be read; run `discreet budget verify`)"
        typer.echo(
            f"{one['asked_at'][:19]}  {one['actor']}: {', '.join(one['candidates'])} at epsilon {one['epsilon']:g}: "
            f"{ended}{what}"
        )
