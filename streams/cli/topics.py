"""``discreet topics``: create the topics of the contract, check them against it, describe them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kafka import KafkaAdminClient

    from streams.broker.topics import Finding

app = typer.Typer(help="Create, check and describe the Kafka topics.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
Bootstrap = Annotated[str, typer.Option(help="host:port of the broker; by default the one in the settings.")]
Replication = Annotated[int, typer.Option(min=1, help="Copies of each partition; use 3 beyond one machine.")]


def _admin(bootstrap: str) -> AbstractContextManager[KafkaAdminClient]:
    from streams.broker.clients import client_options
    from streams.broker.topics import open_admin
    from streams.settings import load_settings

    options = client_options(load_settings().broker)
    if bootstrap:
        options["bootstrap_servers"] = bootstrap.split(",")
    return open_admin(options)


@app.command()
def create(
    *,
    bootstrap: Bootstrap = "",
    replication: Replication = 1,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="For every topic, instead of what the contract recommends.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Also set retention and the like of existing topics right.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create the topics that are missing; existing ones are left as they are unless --repair is given."""
    from streams.broker.topics import create_topics, repair_settings

    with _admin(bootstrap) as admin:
        result = create_topics(admin, replication=replication, partitions=partitions)
        repaired = repair_settings(admin, replication=replication) if repair else ()
    if as_json:
        facts = {"created": result.created, "existing": result.existing, "repaired": repaired}
        typer.echo(json.dumps(facts))
        return
    for name in result.created:
        typer.echo(f"created   {name}")
    for name in result.existing:
        typer.echo(f"{'repaired' if name in repaired else 'existing':8}  {name}")


@app.command()
def check(*, bootstrap: Bootstrap = "", replication: Replication = 1, as_json: AsJson = False) -> None:
    """Compare the topics with the contract; exit status 3 when events could be lost or kept too long."""
    from streams.broker.topics import check_topics

    with _admin(bootstrap) as admin:
        findings = check_topics(admin, replication=replication)
    _report(findings, "Every topic is as the contract says.", as_json=as_json)


@app.command()
def describe(
    *,
    bootstrap: Bootstrap = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Show the contract only; ask no broker.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show each topic: key, policy, partitions, retention, who writes and reads it."""
    from streams.broker.topics import TopicState, describe_topics
    from streams.contracts.topics import TOPICS

    states: dict[str, TopicState] = {}
    if not offline:
        with _admin(bootstrap) as admin:
            states = describe_topics(admin)
    rows = []
    for topic in TOPICS:
        state = states.get(topic.name)
        rows.append(
            {
                "topic": topic.name,
                "key": topic.key.value,
                "cleanup": topic.cleanup.value,
                "retention_seconds": topic.retention_seconds,
                "partitions": topic.partitions if state is None else state.partitions,
                "replication": None if state is None else state.replication,
                "event_types": topic.event_types,
                "writers": topic.writers,
                "readers": topic.readers,
                "personal_data": topic.holds_personal_data,
                "what": topic.what,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{'topic':30} {'key':20} {'policy':8} {'partitions':>10}  what")
    for row in rows:
        typer.echo(
            f"{row['topic']:30} {row['key']:20} {row['cleanup']:8} {row['partitions']:>10}  {row['what']}"
        )


@app.command()
def access(
    *,
    product: Annotated[str, typer.Option(help="Principal of the product's back ends.")] = "User:product",
    worker: Annotated[str, typer.Option(help="Principal of workers and trainers.")] = "User:discreet",
    serving: Annotated[str, typer.Option(help="Principal of the serving systems.")] = "User:serving",
    gateway: Annotated[str, typer.Option(help="Principal of gateways.")] = "User:gateway",
    operator: Annotated[str, typer.Option(help="Principal of operators.")] = "User:operator",
    check: Annotated[
        bool, typer.Option("--check", help="Compare the broker's rules; exit 3 when one is missing.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Add the rules that the broker lacks.")] = False,
    bootstrap: Bootstrap = "",
    as_json: AsJson = False,
) -> None:
    """Print the access rules that the topics need (for Kafka's kafka-acls tool), check them or add them."""
    from streams.broker.access import apply_access, check_access, rules_for
    from streams.contracts.topics import Role
    from streams.settings import load_settings

    principals = {
        Role.PRODUCT: product,
        Role.WORKER: worker,
        Role.SERVING: serving,
        Role.GATEWAY: gateway,
        Role.OPERATOR: operator,
    }
    rules = rules_for(principals, group=load_settings().broker.group)
    if apply:
        with _admin(bootstrap) as admin:
            added = [rule.arguments() for rule in apply_access(admin, rules)]
        typer.echo(json.dumps({"added": added}) if as_json else f"{len(added)} rules were added.")
    elif check:
        with _admin(bootstrap) as admin:
            findings = check_access(admin, rules)
        _report(findings, "Every role may do what it needs, and nobody else.", as_json=as_json)
    else:
        lines = [rule.arguments() for rule in rules]
        typer.echo(json.dumps(lines) if as_json else "\n".join(lines))


def _report(findings: list[Finding], all_well: str, *, as_json: bool) -> None:
    """Write the findings; leave with exit status 3 when one is an error."""
    failed = any(each.severity.value == "error" for each in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [_document(each) for each in findings]}))
    else:
        for each in findings:
            typer.echo(f"{each.severity.value:8}  {each.sentence()}")
        if not findings:
            typer.echo(all_well)
    if failed:
        raise typer.Exit(3)


def _document(finding: Finding) -> dict[str, str]:
    return {
        "topic": finding.topic,
        "what": finding.what,
        "wanted": finding.wanted,
        "found": finding.found,
        "severity": finding.severity.value,
    }
