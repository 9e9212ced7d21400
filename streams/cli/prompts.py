"""``discreet prompts``: prompt templates of a line: add, compare, try, use, have users choose, roll back, stop."""

from __future__ import annotations

import difflib
import getpass
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import prompt_choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlmodel import Session

    from personalization.prompts.rows import Move
    from personalization.prompts.tables import PromptTemplateRow
    from personalization.prompts.values import PromptTemplate
    from personalization.registry.announcements import Act
    from streams.outbox.events import OutboxAdapterEvents

app = typer.Typer(
    help="Prompt templates of a tenant's line: add, list, show, compare, use, roll back.",
    no_args_is_help=True,
)
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Number, name or digest of a version.")]
Domain = Annotated[str, typer.Option(help="Which line.")]
Reason = Annotated[str, typer.Option(help="Why, in one public sentence; servers and auditors see it.")]
Actor = Annotated[str | None, typer.Option(help="Who decides; your login name by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of sentences.")]


@app.command()
def add(
    tenant: Tenant,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The template; - reads standard input.")
    ] = None,
    *,
    reason: Reason,
    text: Annotated[str | None, typer.Option(help="The template itself, instead of a file.")] = None,
    from_card: Annotated[
        bool, typer.Option("--from-card", help="The template of the line's newest style card.")
    ] = False,
    variables: Annotated[
        str,
        typer.Option(help="Declared variables as a JSON object: name to default, or to a list of choices."),
    ] = "{}",
    when: Annotated[str, typer.Option(help="always, or base: where no adapter answers.")] = "always",
    use_it: Annotated[bool, typer.Option("--use", help="Give it to everybody at once.")] = False,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Register a template. Its placeholders are {{ prompt }}, once or twice, and declared variables.

    Nobody gets it before it is used. A version is its content: what was added never changes.
    """
    from personalization.prompts.values import name_of
    from personalization.registry import prompting
    from privacy.policy import versions as policies
    from streams.processes.keys import adapter_signer
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    if sum((file is not None, text is not None, from_card)) != 1:
        raise typer.BadParameter("give the template as a FILE, with --text, or with --from-card")
    settings = load_settings()
    act = _act(actor, reason)
    with current_session(settings.database_url) as session:
        policies.tenant(session, tenant)
        template = (
            _card_template(session, tenant, domain) if from_card else _written(file, text, variables, when)
        )
        row = prompting.add(session, adapter_signer(settings), tenant, domain, template, act)
        if use_it:
            prompting.use(session, _events(settings), tenant, domain, row.version_id, act)
        facts = {**_facts(row), "used": use_it}
    said = "everybody gets it" if use_it else "nobody gets it until it is used"
    typer.echo(
        json.dumps(facts) if as_json else f"Template {name_of(row.version_id)} (v{facts['number']}): {said}."
    )


@app.command("list")
def list_(tenant: Tenant, *, domain: Domain = "default", as_json: AsJson = False) -> None:
    """List a line's templates, which of them is used, and what was decided."""
    from personalization.prompts import rows
    from personalization.registry import prompting
    from personalization.registry import queries as registry
    from privacy.policy import versions as policies
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        policies.tenant(session, tenant)
        line = registry.find_line(session, tenant, domain)
        stands = prompting.stands(session, tenant, domain)
        ref = "" if line is None else line.line_ref
        templates = [_facts(row) for row in rows.versions_of(session, ref)]
        moves = [_move_facts(row) for row in rows.moves_of(session, ref)]
    current = None if stands.current is None else stands.current.template.name
    candidate = None if stands.candidate is None else stands.candidate.template.name
    facts = {
        "tenant": tenant,
        "domain": domain,
        "current": current,
        "candidate": candidate,
        "candidate_percent": stands.candidate_percent,
        "templates": templates,
        "moves": moves,
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for one in templates:
        mark = "used" if one["name"] == current else ""
        if one["name"] == candidate:
            mark = f"tried on {stands.candidate_percent:g} %"
        typer.echo(
            f"v{one['number']:<4} {one['name']}  {one['origin']:<9} {one['at'][:19]}  {one['actor']}: {one['reason']}"
            + (f"  ← {mark}" if mark else "")
        )
    for move in moves:
        what = move["candidate"] or move["current"] or "none"
        typer.echo(f"  {move['at'][:19]}  {move['actor']}: {move['decision']} {what}: {move['reason']}")


@app.command()
def show(
    tenant: Tenant,
    name: Name,
    *,
    domain: Domain = "default",
    prompt: Annotated[str | None, typer.Option(help="Also show what this prompt becomes.")] = None,
    values: Annotated[str, typer.Option(help="Values of its variables, as a JSON object.")] = "{}",
    as_json: AsJson = False,
) -> None:
    """Show one template, and what a prompt becomes with it."""
    from personalization.prompts.rendering import rendering_of
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        row, template = _find(session, tenant, domain, name)
        facts = {**_facts(row), "template": template.to_document(), "signed_by": row.key_id}
    if prompt is not None:
        said = {str(one): str(value) for one, value in _object(values, "values").items()}
        facts["rendered"] = rendering_of(template).render(prompt, values=said)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(facts["rendered"] if prompt is not None else template.source)


@app.command()
def diff(
    tenant: Tenant,
    before: Name,
    after: Annotated[str, typer.Argument(metavar="OTHER", help="The other version.")],
    *,
    domain: Domain = "default",
    as_json: AsJson = False,
) -> None:
    """Show what changes from one template to another: text, variables, and when it is used."""
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        one, other = (_find(session, tenant, domain, name)[1] for name in (before, after))
    lines = list(
        difflib.unified_diff(_told(one), _told(other), fromfile=one.name, tofile=other.name, lineterm="")
    )
    if as_json:
        typer.echo(json.dumps({"before": one.name, "after": other.name, "diff": lines}))
        return
    typer.echo("\n".join(lines) if lines else "The two are the same.")


@app.command()
def use(
    tenant: Tenant,
    name: Name,
    *,
    reason: Reason,
    percent: Annotated[
        float, typer.Option(help="Share of the users who get it; the others keep what they have.")
    ] = 100.0,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Give a template to everybody, or to a share of the users first; gateways follow within seconds."""
    from personalization.registry import prompting

    def decide(session: Session, events: OutboxAdapterEvents, act: Act) -> Move:
        return prompting.use(session, events, tenant, domain, name, act, percent=percent)

    _decide(actor, reason, decide, as_json=as_json)


@app.command("roll-back")
def roll_back(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Leave the template that is tried, or go back to the one that was used before."""
    from personalization.registry import prompting

    _decide(
        actor, reason, lambda session, events, act: prompting.roll_back(session, events, tenant, domain, act),
        as_json=as_json,
    )  # fmt: skip


@app.command()
def stop(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Use no operator's template any more."""
    from personalization.registry import prompting

    _decide(
        actor, reason, lambda session, events, act: prompting.stop(session, events, tenant, domain, act),
        as_json=as_json,
    )  # fmt: skip


app.command()(prompt_choices.choose)
app.command()(prompt_choices.choices)


def _decide(
    actor: str | None,
    reason: str,
    decide: Callable[[Session, OutboxAdapterEvents, Act], Move],
    *,
    as_json: bool,
) -> None:
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    with current_session(settings.database_url) as session:
        facts = _move_facts(decide(session, _events(settings), _act(actor, reason)))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    tried = f"; {facts['candidate_percent']:g} % get {facts['candidate']}" if facts["candidate"] else ""
    typer.echo(f"The line uses {facts['current'] or 'no template'}{tried}.")


def _written(file: Path | None, text: str | None, variables: str, when: str) -> PromptTemplate:
    from personalization.prompts.values import PromptTemplate, When, read_variables

    if when not in list(When):
        raise typer.BadParameter(f"--when is {when!r}; choose {' or '.join(When)}")
    if file is not None:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    declared = read_variables(_object(variables, "variables"))
    return PromptTemplate(source=text or "", variables=declared, when=When(when))


def _card_template(session: Session, tenant: str, domain: str) -> PromptTemplate:
    from personalization.errors import StyleCardNotFoundError
    from personalization.prompts.values import Origin, PromptTemplate, When
    from personalization.registry import queries as registry

    version = registry.newest_with_style(session, tenant, domain)
    style = None if version is None else version.manifest.style
    if style is None:
        raise StyleCardNotFoundError(
            f"no version of tenant {tenant!r}, domain {domain!r}, carries a style card; write a template instead"
        )
    return PromptTemplate(source=style.prompt, when=When.BASE, origin=Origin.CARD)


def _find(session: Session, tenant: str, domain: str, name: str) -> tuple[PromptTemplateRow, PromptTemplate]:
    from personalization.prompts import rows
    from personalization.registry import queries as registry

    line = registry.require_line(session, tenant, domain)
    row = rows.find(session, line.line_ref, name)
    return row, rows.read_signed(row).template


def _told(template: PromptTemplate) -> list[str]:
    told = [f"when: {template.when.value}"]
    for one in template.variables:
        choices = f" ({', '.join(one.choices)})" if one.choices else ""
        told.append(f"variable {one.name}: {one.default}{choices}")
    return [*told, *template.source.splitlines()]


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"--{what} is no JSON object")
    return found


def _act(actor: str | None, reason: str) -> Act:
    from personalization.registry.announcements import Act

    return Act(actor=actor or getpass.getuser(), reason=reason, now=datetime.now(UTC))


def _events(settings: Any) -> OutboxAdapterEvents:
    from streams.outbox.events import OutboxAdapterEvents
    from streams.processes.keys import adapter_signer

    return OutboxAdapterEvents(adapter_signer(settings))


def _facts(row: PromptTemplateRow) -> dict[str, Any]:
    from personalization.prompts.values import name_of

    return {
        "number": row.number,
        "name": name_of(row.version_id),
        "version_id": row.version_id,
        "origin": json.loads(row.document)["origin"],
        "actor": row.actor,
        "reason": row.reason,
        "at": row.at.isoformat(),
    }


def _move_facts(move: Move) -> dict[str, Any]:
    from personalization.prompts.values import name_of

    return {
        "decision": move.decision.value,
        "current": None if move.current is None else name_of(move.current),
        "candidate": None if move.candidate is None else name_of(move.candidate),
        "candidate_percent": move.candidate_percent,
        "actor": move.actor,
        "reason": move.reason,
        "at": move.at.isoformat(),
    }
