"""``discreet tenants``: register tenants, set their privacy policies, and read who set what, when and why."""

from __future__ import annotations

import getpass
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlmodel import Session

    from privacy.policy.ceilings import PolicyCeilings
    from privacy.policy.versions import PolicyVersion, Tenant

app = typer.Typer(help="Register tenants and set their privacy policies.", no_args_is_help=True)

_LISTS = ("purposes", "domains", "rollout.steps")
_MAPPINGS = {"rollout.guards"}  # NAME:NUMBER,…
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant: a-z, 0-9 and -.")]
Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIELD=VALUE]...", help="Such as declared_users=500 or schedule.every_seconds=86400."
    ),
]
Actor = Annotated[str | None, typer.Option(help="Who makes the change; your login name by default.")]
Reason = Annotated[str, typer.Option(help="Why the policy changes; kept with the version.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


@app.command()
def add(
    tenant: TenantName,
    pairs: Pairs = None,
    *,
    actor: Actor = None,
    reason: Reason = "first policy",
    as_json: AsJson = False,
) -> None:
    """Register a tenant, with a policy when fields are given; without one it is never trained."""
    from privacy.ledger import populations
    from privacy.policy import versions as policies

    changes = _changes(pairs or ())
    who, now = actor or getpass.getuser(), datetime.now(UTC)
    with _transaction() as session:
        policies.register_tenant(session, tenant, actor=who, now=now)
        if changes:
            populations.set_policy(
                session, tenant, changes, actor=who, reason=reason, now=now, ceilings=_ceilings()
            )
        registered = policies.tenant(session, tenant)
    _show(registered, (), as_json=as_json)


@app.command("set")
def set_(
    tenant: TenantName,
    pairs: Pairs = None,
    *,
    reason: Reason = "set on the command line",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Change fields of a tenant's policy; the change is a new version, and the old one is kept."""
    from privacy.errors import PolicyError
    from privacy.ledger import populations
    from privacy.policy import versions as policies

    changes = _changes(pairs or ())
    if not changes:
        raise PolicyError("no field is given; allowed are pairs such as declared_users=500")
    with _transaction() as session:
        populations.set_policy(
            session,
            tenant,
            changes,
            actor=actor or getpass.getuser(),
            reason=reason,
            now=datetime.now(UTC),
            ceilings=_ceilings(),
        )
        changed = policies.tenant(session, tenant)
    _show(changed, (), as_json=as_json)


@app.command()
def show(
    tenant: TenantName,
    *,
    history: Annotated[bool, typer.Option("--history", help="Also list every earlier version.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a tenant's policy, and with --history who changed it when and why."""
    from privacy.ledger import populations
    from privacy.policy import versions as policies

    with _transaction() as session:
        found = policies.tenant(session, tenant)
        versions = policies.policy_history(session, tenant) if history else []
        joined = sorted(populations.memberships(session, tenant))
    _show(found, versions, joined, as_json=as_json)


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List all tenants with the main numbers of their policies."""
    from privacy.policy import versions as policies

    with _transaction() as session:
        tenants = policies.list_tenants(session)
    if as_json:
        typer.echo(json.dumps([_document(tenant) for tenant in tenants]))
        return
    table = _table(
        "tenant", "policy", "users declared", "ε per period", "ε lifetime", "δ lifetime", "releases planned"
    )
    for tenant in tenants:
        if tenant.policy is None:
            table.add_row(tenant.tenant_id, "none: never trained", *[""] * 5)
            continue
        policy = tenant.policy.policy
        table.add_row(
            tenant.tenant_id,
            f"version {tenant.policy.version}",
            f"{policy.declared_users:,}",
            f"{policy.period_epsilon:g}",
            f"{policy.lifetime_epsilon:g}",
            f"{policy.lifetime_delta:g}",
            f"{policy.planned_releases:,}",
        )
    _print(table)


def _changes(pairs: Sequence[str]) -> dict[str, Any]:
    """Return ``field=value`` pairs as changes; the policy itself checks the values."""
    from privacy.errors import PolicyError

    changes: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise PolicyError(
                f"{pair[:80]!r} is not a change; allowed is field=value, such as declared_users=500"
            )
        if name in _LISTS:
            changes[name] = [item for item in value.split(",") if item]
        elif name in _MAPPINGS:
            changes[name] = dict(item.partition(":")[::2] for item in value.split(",") if item)
        else:
            changes[name] = value
    return changes


def _ceilings() -> PolicyCeilings:
    from streams.settings import load_settings

    return load_settings().ceilings.ceilings()


@contextmanager
def _transaction() -> Iterator[Session]:
    from privacy.storage.session import transaction
    from streams.settings import load_settings
    from streams.storage.schema import open_current

    engine = open_current(load_settings().database_url)
    try:
        with transaction(engine) as session:
            yield session
    finally:
        engine.dispose()


def _document(tenant: Tenant) -> dict[str, Any]:
    return {
        "tenant": tenant.tenant_id,
        "registered_at": tenant.registered_at.isoformat(),
        "registered_by": tenant.registered_by,
        "policy": tenant.policy.to_document() if tenant.policy is not None else None,
    }


def _show(
    tenant: Tenant, history: Sequence[PolicyVersion], joined: Sequence[str] = (), *, as_json: bool
) -> None:
    declined = _declined(tenant)
    if as_json:
        document = _document(tenant)
        if tenant.policy is not None:
            document["no_release_fits"] = declined
        if joined:
            document["populations"] = list(joined)
        if tenant.policy is not None:
            document["above_ceilings"] = list(_ceilings().exceeded(tenant.policy.policy))
        if history:
            document["history"] = [version.to_document() for version in history]
        typer.echo(json.dumps(document))
        return
    if tenant.policy is None:
        typer.echo(f"{tenant.tenant_id} has no policy: it is ingested and never trained.")
        return
    version = tenant.policy
    table = _table("field", "value", "allowed", title=f"{tenant.tenant_id}: policy version {version.version}")
    ranges = version.policy.allowed_ranges()
    for name, value in version.policy.to_document().items():
        if isinstance(value, dict):
            inner = getattr(version.policy, name).allowed_ranges()
            for part, held in value.items():
                table.add_row(f"{name}.{part}", str(held), inner[part])
        else:
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            table.add_row(name, shown, ranges[name])
    _print(table)
    typer.echo(f"Set by {version.set_by} at {version.set_at:%Y-%m-%d %H:%M:%S} UTC: {version.reason}")
    for text in _ceilings().exceeded(version.policy):
        typer.echo(f"Not trained until changed: {text}.")
    if joined:
        typer.echo(f"Shares a lifetime budget for good with the populations: {', '.join(joined)}")
    _show_history(history)


def _declined(tenant: Tenant) -> str | None:
    """Say on standard error, and return, why no release fits a tenant's policy; ``None`` where one does.

    It is no error: users, a larger budget or fewer planned releases may come after the policy.
    """
    from personalization.planning.planner import decline_of

    declined = None if tenant.policy is None else decline_of(tenant.policy.policy)
    if declined is not None:
        typer.echo(f"No release fits this policy, so nothing is trained under it: {declined}", err=True)
    return declined


def _show_history(history: Sequence[PolicyVersion]) -> None:
    if history:
        past = _table("version", "set at (UTC)", "by", "reason", "digest")
        for entry in history:
            past.add_row(
                str(entry.version),
                f"{entry.set_at:%Y-%m-%d %H:%M:%S}",
                entry.set_by,
                entry.reason,
                entry.digest[:19],
            )
        _print(past)


def _table(*columns: str, title: str | None = None) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False).print(table)
