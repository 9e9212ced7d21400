"""``discreet adapters``: list, show, evaluate, warm-start, steer rollouts, roll back, withdraw, announce, show the key.

Longer than 400 lines, because every verb of versions and rollouts stands here with its own help text, and no logic.
"""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalization.rollouts.values import Flag, Mode
from streams.cli import compose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.registry.tables import AdapterVersionRow
    from personalization.rollouts.values import Rollout
    from streams.outbox.events import OutboxAdapterEvents
    from streams.settings import Settings

app = typer.Typer(
    help="List adapter versions, show one, steer rollouts, roll back, withdraw.", no_args_is_help=True
)
app.command("compose")(compose.compose)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
Actor = Annotated[str | None, typer.Option(help="Who asks; your login name by default.")]
Reason = Annotated[str, typer.Option(help="Why, in one public sentence; servers and auditors see it.")]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")]
Domain = Annotated[str, typer.Option(help="Which line.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Served name or version id.")]


@app.command("list")
def list_(
    *, tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: AsJson = False
) -> None:
    """List adapter versions with state and budget."""
    from personalization.registry import queries as registry
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        facts = [_facts(row) for row in registry.list_versions(session, tenant_id=tenant)]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("tenant", "domain")
    for name in ("served name", "state", "ε release", "ε in all"):
        table.add_column(name, no_wrap=True)
    table.add_column("published")
    for row in facts:
        table.add_row(
            row["tenant"],
            row["domain"],
            row["served_name"],
            row["state"],
            f"{row['release_epsilon']:.3f}",
            f"{row['cumulative_epsilon']:.3f} of {row['target_epsilon']:g}",
            row["published_at"][:19],
        )
    Console().print(table)


@app.command()
def show(name: Name, *, as_json: AsJson = False) -> None:
    """Show one version: manifest, address, signature, state, and how the line moved with it."""
    from personalization.gates.drift import drift_document
    from personalization.registry import queries as registry
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        row = registry.find_version(session, name)
        version = registry.read_version(row)
    facts = {
        **_facts(row),
        "drift": drift_document(version.manifest),
        "uri": version.uri,
        "signature": version.signature.to_document(),
        "left_reason": row.left_reason,
        "manifest": version.manifest.to_document(),
    }
    typer.echo(json.dumps(facts) if as_json else json.dumps(facts, indent=2, ensure_ascii=False))


@app.command()
def evaluate(
    name: Name,
    *,
    depth: Annotated[str, typer.Option(help="quick or full.")] = "full",
    plot: Annotated[Path | None, typer.Option(help="Draw a picture into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a version the public suites again, beside its base and the version before; costs no privacy."""
    from personalization.errors import ArtifactError
    from personalization.gates.evaluating import draw
    from personalization.gates.evaluating import evaluate as ask_again
    from personalization.registry import queries as registry
    from personalization.suites.values import SuiteDepth
    from personalization.suites.verdict import SuiteTerms
    from personalization.training.child.parent import run_job
    from privacy.policy import versions as policies
    from streams.processes.trainer import flags_of, start_tools
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    if depth not in (SuiteDepth.QUICK, SuiteDepth.FULL):
        raise typer.BadParameter(f"depth is {depth!r}; choose quick or full")
    settings = load_settings()
    with current_session(settings.database_url) as session:
        row = registry.find_version(session, name)
        version, policy = registry.read_version(row), policies.current_policy(session, row.tenant_id)
    limits = SuiteTerms() if policy is None else SuiteTerms.of_policy(policy.policy.suites)
    with start_tools(settings) as tools:
        before = version.manifest.lineage.supersedes
        if before is not None:
            try:
                tools.shop.artifacts.open(before)
            except ArtifactError:  # withdrawn, or of another store: the base alone is compared with
                before = None
        found = ask_again(
            version.version_id,
            version.manifest,
            files=tools.shop.artifacts,
            before_id=before,
            base_model=tools.shop.base.directory(),
            terms=SuiteTerms(depth=SuiteDepth(depth), margins=limits.margins),
            flags=flags_of(settings),
            run=run_job,
        )
    if plot is not None:
        draw(found, plot)
    if as_json:
        typer.echo(json.dumps(found.to_document()))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("suite", "against", "items", "score", "worse by (95 %)", "limit", "verdict"):
        table.add_column(column, no_wrap=column in {"suite", "verdict"})
    for one in found.findings:
        table.add_row(
            one.axis.value,
            one.against,
            str(one.items),
            f"{one.reference:.3f} → {one.candidate:.3f}",
            f"{one.loss:+.3f} [{one.low:+.3f}, {one.high:+.3f}]",
            f"{one.margin:g}",
            one.verdict.value,
        )
    Console().print(table)
    typer.echo(f"Loss on public text: {found.public_text_change:+.2%} against the base.")
    if found.as_published is not None:
        typer.echo(
            "The answers are those in the manifest."
            if found.as_published
            else "The answers differ from the manifest's."
        )


@app.command("roll-back")
def roll_back_(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")],
    *,
    reason: Reason,
    domain: Annotated[str, typer.Option(help="Which line.")] = "default",
    to: Annotated[int | None, typer.Option(help="Number of the version; the one before by default.")] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Leave the line's candidate, or return to an earlier version; servers follow, the budget stays spent."""
    from personalization.registry.announcements import Act
    from personalization.registry.rollback import roll_back
    from personalization.registry.steering import roll_back_newest
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    act = Act(actor=actor or getpass.getuser(), reason=reason, now=datetime.now(UTC))
    with current_session(settings.database_url) as session:
        if to is None:
            version = roll_back_newest(session, _events(settings), tenant, domain, act)
        else:
            version = roll_back(session, _events(settings), tenant, domain, act, to_version=to)
    facts = {"served_name": version.served_name, "version": version.version}
    typer.echo(json.dumps(facts) if as_json else f"The line serves {version.served_name}.")


@app.command()
def promote(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Give the line's candidate to everybody now, whatever its step."""
    from personalization.registry.steering import promote as verb

    _steer(verb, tenant, domain, reason, actor, as_json=as_json)


@app.command()
def hold(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Keep the line's candidate at its share until somebody decides; time alone never moves it forward."""
    from personalization.registry.steering import hold as verb

    _steer(verb, tenant, domain, reason, actor, as_json=as_json)


@app.command()
def pin(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Have the line serve its version to everybody, and no candidate to anybody, until it is resumed."""
    _steer(_mode(Mode.PINNED), tenant, domain, reason, actor, as_json=as_json)


@app.command()
def freeze(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Let nothing on the line move forward until it is resumed; a breached guard still rolls back."""
    _steer(_mode(Mode.FROZEN), tenant, domain, reason, actor, as_json=as_json)


@app.command()
def resume(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Let a held, pinned or frozen line move again; its candidate bakes anew at its step."""
    _steer(_mode(Mode.FREE), tenant, domain, reason, actor, as_json=as_json)


@app.command()
def flag(
    tenant: Tenant,
    value: Annotated[Flag, typer.Argument(metavar="FLAG", help="off, shadow, canary_only or on.")],
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Say what the line may show: off (the base model answers), shadow, canary_only, on."""
    from personalization.registry.steering import set_flag

    _steer(
        lambda session, events, tenant_id, name, act: set_flag(session, events, tenant_id, name, value, act),
        tenant,
        domain,
        reason,
        actor,
        as_json=as_json,
    )


@app.command()
def rollouts(
    *, tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: AsJson = False
) -> None:
    """List how the rollouts of lines stand."""
    from personalization.registry.facts import rollout_facts
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        facts = rollout_facts(session, tenant)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("tenant", "domain", "stage", "%", "mode", "flag", "candidate", "since", "reactions"):
        whole = column in {"stage", "mode", "flag"}
        table.add_column(column, no_wrap=whole, overflow="ellipsis" if whole else "fold")
    for row in facts:
        table.add_row(*(str(row[name] if row[name] is not None else "") for name in (
            "tenant", "domain", "stage", "percent", "mode", "flag", "candidate", "entered_at", "verdict",
        )))  # fmt: skip
    Console().print(table)


def _mode(mode: Mode) -> Callable[..., Rollout]:
    from personalization.registry.steering import set_mode

    return lambda session, events, tenant_id, domain, act: set_mode(
        session, events, tenant_id, domain, mode, act
    )


def _steer(
    verb: Callable[..., Rollout],
    tenant: str,
    domain: str,
    reason: str,
    actor: str | None,
    *,
    as_json: bool,
) -> None:
    """Do what a person decided about a rollout, and say how it stands then."""
    from personalization.registry.announcements import Act
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    act = Act(actor=actor or getpass.getuser(), reason=reason, now=datetime.now(UTC))
    with current_session(settings.database_url) as session:
        stands = verb(session, _events(settings), tenant, domain, act)
    facts = {
        "stage": stands.stage.value,
        "percent": stands.percent,
        "mode": stands.mode.value,
        "flag": stands.flag.value,
        "candidate": stands.candidate,
    }
    typer.echo(
        json.dumps(facts)
        if as_json
        else f"The rollout is {stands.stage.value} at {stands.percent:g} %; the line is {stands.mode.value}, its flag "
        f"{stands.flag.value}."
    )


@app.command()
def withdraw(name: Name, *, reason: Reason, actor: Actor = None, as_json: AsJson = False) -> None:
    """Withdraw a version and all trained from it; servers unload them, their weights are deleted."""
    from personalization.registry.announcements import Act
    from personalization.registry.withdrawal import withdraw_version
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    act = Act(actor=actor or getpass.getuser(), reason=reason, now=datetime.now(UTC))
    with current_session(settings.database_url) as session:
        names = withdraw_version(session, _events(settings), name, act)
    _say_withdrawn(settings, names, as_json=as_json)


@app.command()
def announce(
    tenant: Annotated[
        str | None, typer.Argument(metavar="[TENANT]", help="Only this tenant's lines.")
    ] = None,
    *,
    reason: Reason = "the topic of desired states was lost",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Send the desired state of all lines again, from the registry: after their topic was lost or made anew."""
    from collections import Counter

    from personalization.registry import queries as registry
    from personalization.registry.announcements import Act, DesiredChange
    from personalization.registry.restating import restate_line
    from privacy.storage.session import transaction
    from streams.settings import load_settings
    from streams.storage.schema import open_current

    settings = load_settings()
    engine, events = open_current(settings.database_url), _events(settings)
    told: Counter[DesiredChange] = Counter()
    act = Act(actor=actor or getpass.getuser(), reason=reason, now=datetime.now(UTC))
    try:
        with transaction(engine) as session:
            lines = sorted(
                line.line_ref for line in registry.list_lines(session) if tenant in (None, line.tenant_id)
            )
        for line_ref in lines:  # one transaction each: trainers and workers go on meanwhile
            with transaction(engine) as session:
                told[restate_line(session, events, line_ref, act)] += 1
    finally:
        engine.dispose()
    facts = {
        "set": told[DesiredChange.SET],
        "cleared": told[DesiredChange.CLEAR],
        "left_out": told[DesiredChange.UNCHANGED],
    }
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo(
            f"Sent again: {facts['set']} lines that serve a version, {facts['cleared']} that serve the base model; "
            f"{facts['left_out']} have nothing to tell yet. The worker's relay sends them."
        )


@app.command("withdraw-line")
def withdraw_line_(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")],
    *,
    reason: Reason,
    domain: Annotated[str, typer.Option(help="Which line.")] = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw all versions of a line, as when a tenant leaves; servers serve the base model, weights are deleted."""
    from personalization.registry.announcements import Act
    from personalization.registry.withdrawal import withdraw_line
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    act = Act(actor=actor or getpass.getuser(), reason=reason, now=datetime.now(UTC))
    with current_session(settings.database_url) as session:
        names = withdraw_line(session, _events(settings), tenant, domain, act)
    _say_withdrawn(settings, names, as_json=as_json)


def _say_withdrawn(settings: Settings, names: Sequence[str], *, as_json: bool) -> None:
    """Delete the weights now that servers were told, and say which versions were withdrawn."""
    from personalization.artifacts.opening import open_store
    from personalization.registry.withdrawal import remove_withdrawn_weights
    from streams.storage.schema import current_session

    with current_session(settings.database_url) as session:
        artifacts = open_store(settings.artifact_address, settings.artifact_copies)
        remove_withdrawn_weights(session, artifacts)
    if as_json:
        typer.echo(json.dumps({"withdrawn": list(names)}))
    else:
        typer.echo(f"Withdrawn: {', '.join(names)}." if names else "Nothing was left to withdraw.")


@app.command("warm-start")
def warm_start(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")],
    *,
    style_guide: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSON: instruction, examples of prompt and answer, prompts, pattern. Everything in it is public.",
        ),
    ],
    domain: Annotated[str, typer.Option(help="Which line.")] = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Start a line from synthetic interactions under a public style guide; no user is read, nothing is charged."""
    from personalization.training.errors import JobInvalidError
    from personalization.training.jobs.recipes import StyleGuide
    from streams.processes.trainer import start_tools
    from streams.settings import load_settings

    try:
        guide = StyleGuide.from_document(json.loads(style_guide.read_text("utf-8")))
    except (ValueError, UnicodeDecodeError) as error:
        raise JobInvalidError("the style guide is not JSON in UTF-8; write a JSON object") from error
    with start_tools(load_settings()) as tools:
        name = tools.public.warm_start(
            tenant, domain, guide, actor=actor or getpass.getuser(), now=tools.shop.clock.now()
        )
    typer.echo(
        json.dumps({"served_name": name}) if as_json else f"The line serves {name}; it cost no privacy."
    )


@app.command()
def replay(*, as_json: AsJson = False) -> None:
    """Tell from the events on the broker alone how every line's rollouts went, and compare that with the database.

    Events about versions that this installation did not sign are left out and counted. The status is 1 where a story
    cannot be, or is not the database's; events that still wait in the outbox are no difference.
    """
    from streams.broker.clients import client_broker
    from streams.client.signatures import TrustedKeys
    from streams.outbox.stories import read_events, retell
    from streams.processes.keys import adapter_signer, earlier_public_keys
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    keys = [adapter_signer(settings).public_key, *map(bytes.fromhex, earlier_public_keys(settings).values())]
    events = read_events(client_broker(settings.broker), TrustedKeys(keys))
    with current_session(settings.database_url) as session:
        told = retell(session, events)
    if as_json:
        rows = [
            {
                "line_ref": one.line_ref, "events": one.events, "waiting": one.waiting, "problem": one.problem,
                "serving": None if one.story is None else one.story.serving,
                "versions": {} if one.story is None else one.story.states,
                "stage": None if one.story is None or one.story.rollout is None else one.story.rollout.stage.value,
            }
            for one in told
        ]  # fmt: skip
        typer.echo(json.dumps({"lines": rows, "refused": events.refused}))
    else:
        for one in told:
            serving = "" if one.story is None else f"serves {one.story.serving or 'the base model'}; "
            waits = f", {one.waiting} more wait in the outbox" if one.waiting else ""
            typer.echo(
                f"{one.line_ref}: {serving}{one.problem or 'as the database says'} ({one.events} events{waits})"
            )
        typer.echo(
            f"Told by {sum(one.events for one in told)} events; {events.refused} records were refused."
        )
    if any(one.problem for one in told):
        raise typer.Exit(1)


@app.command("public-key")
def public_key(*, as_json: AsJson = False) -> None:
    """Show the public key that serving systems need to check adapters (raw Ed25519, hexadecimal).

    Where versions signed with an earlier key are to be loaded too, servers need that one beside it: --json lists both.
    """
    from personalization.adapters.signing import key_id
    from streams.processes.keys import adapter_signer, earlier_public_keys
    from streams.settings import load_settings

    settings = load_settings()
    key = adapter_signer(settings).public_key
    facts = {
        "public_key": key.hex(),
        "key_id": key_id(key),
        "earlier": [
            {"public_key": public, "key_id": name} for name, public in earlier_public_keys(settings).items()
        ],
    }
    typer.echo(json.dumps(facts) if as_json else key.hex())


def _events(settings: Settings) -> OutboxAdapterEvents:
    """Return where changes of lines are told, signed with the key that adapters are signed with."""
    from streams.outbox.events import OutboxAdapterEvents
    from streams.processes.keys import adapter_signer

    return OutboxAdapterEvents(adapter_signer(settings))


def _facts(row: AdapterVersionRow) -> dict[str, Any]:
    privacy = json.loads(row.manifest_json)["privacy"]
    return {
        "tenant": row.tenant_id,
        "domain": row.domain,
        "line": row.line_ref,
        "version": row.version,
        "version_id": row.version_id,
        "served_name": row.served_name,
        "state": row.state,
        "release_epsilon": privacy["release_epsilon"],
        "cumulative_epsilon": privacy["cumulative_epsilon"],
        "target_epsilon": privacy["target_epsilon"],
        "delta": privacy["delta"],
        "empirical_epsilon": (privacy.get("audit") or {}).get("empirical_epsilon"),
        "ledger_entry_hash": row.ledger_entry_hash,
        "round_id": row.round_id,
        "published_at": row.published_at.isoformat(),
    }
