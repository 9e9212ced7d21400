"""``discreet topics``: create the topics of the contract, check them against it, describe them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kafka import KafkaAdminClient

    from streams.topics import Finding

app = typer.Typer(help="Create, check and describe the Kafka topics.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
Bootstrap = Annotated[str, typer.Option(help="host:port of the broker; by default the one in the settings.")]
Replication = Annotated[int, typer.Option(min=1, help="Copies of each partition; use 3 beyond one machine.")]


def _admin(bootstrap: str) -> AbstractContextManager[KafkaAdminClient]:
    from streams.broker import client_options
    from streams.settings import load_settings
    from streams.topics import open_admin

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
    from streams.topics import create_topics, repair_settings

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
    from streams.topics import Severity, check_topics

    with _admin(bootstrap) as admin:
        findings = check_topics(admin, replication=replication)
    failed = any(each.severity is Severity.ERROR for each in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [_document(each) for each in findings]}))
    else:
        for each in findings:
            typer.echo(f"{each.severity.value:8}  {each.sentence()}")
        if not findings:
            typer.echo("Every topic is as the contract says.")
    if failed:
        raise typer.Exit(3)


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
    from streams.contracts.topics import TOPICS
    from streams.topics import TopicState, describe_topics

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
    operator: Annotated[str, typer.Option(help="Principal of operators.")] = "User:operator",
    as_json: AsJson = False,
) -> None:
    """Print the access rules that the topics need, as arguments for Kafka's kafka-acls tool."""
    from streams.contracts.topics import TOPICS, Role
    from streams.settings import load_settings
    from streams.topics import access_rules

    principals = {
        Role.PRODUCT: product,
        Role.WORKER: worker,
        Role.SERVING: serving,
        Role.OPERATOR: operator,
    }
    group = load_settings().broker.group
    rules = [rule for topic in TOPICS for rule in access_rules(topic, principals, group=group)]
    unique = list(dict.fromkeys(rules))
    typer.echo(json.dumps(unique) if as_json else "\n".join(unique))


def _document(finding: Finding) -> dict[str, str]:
    return {
        "topic": finding.topic,
        "what": finding.what,
        "wanted": finding.wanted,
        "found": finding.found,
        "severity": finding.severity.value,
    }
