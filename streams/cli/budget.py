"""``discreet budget``: what was spent, what can be afforded, and proof of both."""

from __future__ import annotations

import json
import sys
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine
    from sqlmodel import Session


app = typer.Typer(help="Show, plan, verify and export privacy budgets.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


@app.command()
def show(
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]", help="All tenants if left out.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what was spent of the period's and the lifetime's budget."""
    from privacy.policy import versions as policies
    from privacy.reports import budgets

    now = datetime.now(UTC)
    with _session() as (session, _):
        names = [tenant] if tenant else [one.tenant_id for one in policies.list_tenants(session)]
        facts = [budgets.spend_document(session, name, now) for name in names]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    table = _table(
        "tenant", "period", "ε in\nperiod", "of", "ε for\nlife", "of", "δ", "filter\nused", "releases", "held"
    )
    for one in facts:
        held = {state: count for state, count in one["reservations"].items() if state != "committed"}
        table.add_row(
            one["tenant"],
            str(one["period_index"]) if one["period_index"] is not None else "",
            f"{one['period_epsilon']:.4g}",
            _number(one["period_cap"]),
            f"{one['lifetime_epsilon']:.4g}",
            _number(one["lifetime_cap"]),
            _number(one["delta"]),
            f"{one['lifetime_used']:.1%}",
            str(one["releases"]),
            ", ".join(f"{count} {state}" for state, count in held.items()),
        )
    _print(table)


@app.command()
def plan(
    tenant: TenantName,
    *,
    releases: Annotated[int | None, typer.Option(min=1, help="Wish: this many more releases.")] = None,
    per_period: Annotated[
        int | None, typer.Option(min=1, help="Wish: this many releases in a period.")
    ] = None,
    parameters: Annotated[
        int | None, typer.Option(min=1, help="Trained parameters d in S = N·ρ·μ/√d.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the burn-down to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a tenant can afford: releases left, noise for a wish, what a change would do, and S."""
    from privacy.accounting.calibration import release_mechanisms
    from privacy.accounting.composition import total_curve
    from privacy.accounting.forecast import DEFAULT_PARAMETERS, SMALLEST_CLARITY
    from privacy.reports import budgets
    from privacy.reports.burn_down import burn_down, draw

    now = datetime.now(UTC)
    with _session() as (session, _):
        rows = budgets.budget_plan(
            session, tenant, now=now, parameters=parameters, releases=releases, releases_per_period=per_period
        )
        if picture is not None and not isinstance(rows[0], tuple):
            policy = budgets.within_accounts_at(session, tenant, now)
            release = total_curve(release_mechanisms(policy, rows[0].noise_multiplier))
            draw(burn_down(session, tenant, policy, release=release, plan=rows[0], now=now), picture)
    if as_json:
        facts = budgets.plan_document(tenant, rows)
        typer.echo(json.dumps({**facts, "picture": str(picture) if picture else None}))
        return
    table = _table("what", "noise", "ε each", "left\nnow", "in a\nperiod", "left\never", "lasts\nuntil", "S")
    refused = []
    for row in rows:
        if isinstance(row, tuple):
            refused.append(f"{row[0]}: {row[1]}.")
            continue
        table.add_row(
            row.name,
            f"{row.noise_multiplier:.4g}",
            f"{row.release_epsilon:.3g}",
            str(row.releases_left_in_period),
            str(row.releases_per_period),
            str(row.releases_left),
            f"{row.exhausted_at:%Y-%m-%d}" if row.exhausted_at else "50 years on",
            f"{row.clarity:.3f}" + (" declines" if row.declines else ""),
        )
    _print(table)
    for sentence in refused:
        typer.echo(sentence)
    typer.echo(
        f"Below S = {SMALLEST_CLARITY:g} training is mostly noise: unless a vote on style makes the release, "
        f"nothing is trained and nothing is spent (d = {parameters or DEFAULT_PARAMETERS:,} trained parameters)."
    )
    if picture is not None:
        typer.echo(f"The burn-down is in {picture}.")


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="An exported ledger; the database if left out.")
    ] = None,
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's ledger in the database.")] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="TENANT=DIGEST", help="An entry digest that must still be there."),
    ] = None,
    manifests: Annotated[
        Path | None,
        typer.Option(
            help="Released manifests: a folder, a manifest.json or JSON lines; the registry if left out."
        ),
    ] = None,
    pld: Annotated[bool, typer.Option("--pld", help="Also compute every account by PLD (slow).")] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute a whole ledger, and what was released on it, from events, manifests and receipts.

    With FILE nothing but files is read. A copy of the manifests from elsewhere, such as a serving system's, shows a
    chain that was rebuilt.
    """
    from personalization.choices.rows import chosen_digests
    from personalization.drift.rows import released_digests
    from personalization.registry import queries as registry
    from privacy.errors import LedgerIntegrityError
    from privacy.ledger.export import export_ledger
    from privacy.ledger.verify import verify_export
    from privacy.storage.session import transaction

    if manifests is not None and not manifests.exists():
        raise typer.BadParameter(
            f"There is nothing at {str(manifests)!r}: --manifests is a folder with manifest.json files below it, such "
            "as an artifact store or a server's cache, one manifest.json, or a file with a manifest on each line."
        )
    if file is not None and not file.exists():
        raise typer.BadParameter(
            f"There is no file {str(file)!r}: FILE is a ledger that `discreet budget export` wrote; the name of a "
            "tenant goes into --tenant, and without FILE the database is read."
        )
    heads = {name: digest for name, _, digest in (one.partition("=") for one in head or ())}
    given = list(_manifests_in(manifests)) if manifests is not None else None
    if file is not None:
        with file.open(encoding="utf-8") as lines:
            report = verify_export(lines, expected_heads=heads, with_pld=pld, manifests=given or ())
    else:
        with _engine() as engine, closing(export_ledger(engine, [tenant] if tenant else None)) as lines_of:

            def registered() -> frozenset[str]:
                with transaction(engine) as session:
                    return registry.published_reservations(session)

            def readings() -> dict[str, str]:
                with transaction(engine) as session:
                    return {**released_digests(session, tenant), **chosen_digests(session, tenant)}

            # Read before the ledger is: what is released meanwhile has its entry there, and not the other way round.
            with transaction(engine) as session:
                stored = list(registry.manifest_documents(session, tenant))
            report = verify_export(
                lines_of,
                expected_heads=heads,
                with_pld=pld,
                manifests=stored if given is None else given,
                registered=registered,
                readings=readings,
            )
    if as_json:
        typer.echo(json.dumps(report.to_document()))
    else:
        table = _table("account", "ε", "of", "δ", "filter\nused", *(["ε by PLD"] if pld else []))
        for account in report.accounts:
            extra = [_number(account.get("pld_epsilon"))] if pld else []
            table.add_row(
                account["account_id"],
                _number(account["epsilon"]),
                f"{account['cap']:g}",
                f"{account['delta']:g}",
                f"{account['used']:.1%}",
                *extra,
            )
        _print(table)
        for finding in report.findings:
            place = f" (tenant {finding.tenant_id}, entry {finding.sequence})" if finding.tenant_id else ""
            typer.echo(f"{finding.code.value}: {finding.text}{place}")
    if not report.ok:
        raise LedgerIntegrityError(
            f"the ledger does not verify: {len(report.findings)} findings in {report.entries} entries of "
            f"{report.tenants} tenants; stop training and find out who changed it"
        )
    if not as_json:
        typer.echo(
            f"{report.entries} entries, {report.reservations} reservations and "
            f"{report.mechanisms} charged mechanisms of "
            f"{report.tenants} tenants verify, and {report.manifests} manifests with {report.receipts} receipts."
        )


def _manifests_in(path: Path) -> Iterator[Any]:
    """Yield the manifests below a folder, or those of a file: one, or one a line."""
    for file in sorted(path.rglob("manifest.json")) if path.is_dir() else [path]:
        text = file.read_text(encoding="utf-8")
        try:
            yield from ([json.loads(text)] if text.strip() else [])
        except ValueError:
            for line in text.splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    yield line  # no manifest: the check says so


@app.command()
def export(
    tenants: Annotated[
        list[str] | None, typer.Argument(metavar="[TENANT]...", help="All if left out.")
    ] = None,
    *,
    output: Annotated[Path | None, typer.Option(help="Write here instead of standard output.")] = None,
) -> None:
    """Export ledgers as JSON lines that `discreet budget verify` checks without a database."""
    from privacy.ledger.export import export_ledger

    stream = output.open("w", encoding="utf-8") if output else sys.stdout
    try:
        with _engine() as engine, closing(export_ledger(engine, tenants or None)) as lines:
            for line in lines:
                stream.write(line + "\n")
    finally:
        if output:
            stream.close()


@app.command()
def statement(
    tenant: TenantName,
    *,
    release: Annotated[str | None, typer.Option(help="Reservation id of one committed release.")] = None,
    registry: Annotated[
        bool, typer.Option("--registry", help="Write a record for the public deployments registry (YAML).")
    ] = False,
    curator: Annotated[str, typer.Option(help="With --registry: who publishes.")] = "Not stated",
    curator_type: Annotated[
        str, typer.Option(help="With --registry: Government, Industry, Nonprofit.")
    ] = "Industry",
    region: Annotated[
        str, typer.Option(help="With --registry: what region the data describe.")
    ] = "Not stated",
    author: Annotated[str, typer.Option(help="With --registry: who files the record.")] = "Not stated",
    as_json: AsJson = False,
) -> None:
    """Write the privacy statement of a tenant, or of one release, from the ledger."""
    from personalization.registry.queries import audits_of
    from privacy.policy import versions as policies
    from privacy.reports.registry_record import DeploymentDescription, registry_record
    from privacy.reports.statement import privacy_statement

    with _session() as (session, _):
        version = policies.current_policy(session, tenant)
        made = privacy_statement(
            session,
            tenant,
            now=datetime.now(UTC),
            policy=version.policy if version else None,
            reservation_id=release,
            audits=audits_of(session, tenant),
        )
    if registry:
        import yaml

        description = DeploymentDescription(
            curator=curator, curator_type=curator_type, region=region, author=author
        )
        record = registry_record(made, description)
        typer.echo(
            json.dumps(record) if as_json else yaml.safe_dump(record, sort_keys=False, allow_unicode=True),
            nl=as_json,
        )
        return
    typer.echo(json.dumps(made.to_document()) if as_json else made.to_text())


@contextmanager
def _engine() -> Iterator[Engine]:
    from streams.settings import load_settings
    from streams.storage.schema import open_current

    engine = open_current(load_settings().database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _session() -> Iterator[tuple[Session, Engine]]:
    from privacy.storage.session import transaction

    with _engine() as engine, transaction(engine) as session:
        yield session, engine


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False).print(table)
