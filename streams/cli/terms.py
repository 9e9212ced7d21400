"""``discreet terms``: what a line's users' vote found and what people wrote; use, add, propose, pin, remove."""

from __future__ import annotations

import csv
import getpass
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlmodel import Session

    from personalization.registry.announcements import Act
    from personalization.styles.card import StyleEntry
    from personalization.terms.values import TermList, TermPair

app = typer.Typer(
    help="A line's terms: those that its users' vote found, and those that people wrote.",
    no_args_is_help=True,
)
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")]
Entry = Annotated[
    str,
    typer.Argument(metavar="ENTRY", help="Handle of a found term, or the written side of one of your own."),
]
Domain = Annotated[str, typer.Option(help="Which line.")]
Reason = Annotated[str, typer.Option(help="Why, in one public sentence; auditors see it.")]
Actor = Annotated[str | None, typer.Option(help="Who decides; your login name by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of sentences.")]


@app.command("list")
def list_(tenant: Tenant, *, domain: Domain = "default", as_json: AsJson = False) -> None:
    """List a line's terms, where they come from, and what is done with them."""
    from privacy.policy import versions as policies
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        policies.tenant(session, tenant)
        facts = _facts(session, tenant, domain)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"Terms of {tenant} ({domain}) are used for: {facts['use']}.")
    for one in facts["terms"]:
        found = "" if one["share"] is None else f"  {one['share']:.0%} of voters, {one['sureness']:.1f} σ"
        struck = "  struck" if one["removed"] else ""
        typer.echo(
            f"  {one['handle'] or '-':<12}  {one['written']}  →  {one['meant']}  [{one['origin']}]{found}{struck}"
        )
    if facts["proposed"]:
        voting = (
            "vote" if facts["votes"] else "would vote, with terms=true in the policy and enough users for it,"
        )
        typer.echo(f"Users {voting} over {len(facts['proposed'])} proposed ones, and over nothing else:")
    for one in facts["proposed"]:
        typer.echo(f"  {one['written']}  →  {one['meant']}")


@app.command()
def use(
    tenant: Tenant,
    how: Annotated[
        str,
        typer.Argument(
            metavar="HOW",
            help="off, glossary (told in prompts), correct (answers), both, or favour (likelier, too).",
        ),
    ],
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Say what is done with a line's terms; gateways follow within seconds."""
    from personalization.registry.terming import using
    from personalization.terms.values import TermUse

    if how not in list(TermUse):
        raise typer.BadParameter(f"HOW is {how!r}; choose one of {', '.join(TermUse)}")
    _decide(tenant, domain, "use", lambda _, __: using(TermUse(how)), _act(actor, reason), as_json=as_json)


@app.command()
def add(
    tenant: Tenant,
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="WRITTEN=MEANT", help="Terms, as many as you like.")
    ] = None,
    *,
    reason: Reason,
    file: Annotated[
        Path | None, typer.Option(help="A CSV file of two columns: what is written, what is meant.")
    ] = None,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Add terms of your own, such as a glossary of the tenant; they cost no privacy."""
    from personalization.registry.terming import adding

    found = [*_written(pairs or []), *([] if file is None else _read(file))]
    _decide(tenant, domain, "add", lambda _, __: adding(found), _act(actor, reason), as_json=as_json)


@app.command()
def propose(
    tenant: Tenant,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A CSV file of two columns: what is written, what is meant."),
    ] = None,
    *,
    pair: Annotated[
        list[str] | None, typer.Option(metavar="WRITTEN=MEANT", help="One term; give it again for more.")
    ] = None,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """List public terms for users' edits to vote over: fewer users are needed, and no unlisted term can come out.

    List what stands in glossaries, product lists or manuals; what you read in users' texts is not public.
    """
    from personalization.registry.terming import proposing

    found = [*_written(pair or []), *([] if file is None else _read(file))]
    _decide(tenant, domain, "propose", lambda _, __: proposing(found), _act(actor, reason), as_json=as_json)


@app.command()
def pin(
    tenant: Tenant,
    entry: Entry,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Keep a found term, whatever later votes find."""
    from personalization.registry.terming import adding
    from personalization.terms.values import TermPair

    def change(session: Session, _: Act) -> Callable[[TermList], TermList]:
        one = _found(session, tenant, domain, entry)
        return adding([TermPair(written=one.key, meant=one.words)])

    _decide(tenant, domain, "pin", change, _act(actor, reason), as_json=as_json)


@app.command()
def remove(
    tenant: Tenant,
    entry: Entry,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Strike a found term, now and from every later card, or take one of your own, or a proposed one, out."""
    from personalization.errors import StyleEntryNotFoundError
    from personalization.styles.decisions import StyleAct, strike

    def change(session: Session, act: Act) -> Callable[[TermList], TermList]:
        try:
            one = _found(session, tenant, domain, entry)
        except StyleEntryNotFoundError:
            return lambda terms: terms.without(entry)
        told = StyleAct(tenant_id=tenant, domain=domain, actor=act.actor, reason=act.reason, now=act.now)
        strike(session, told, one)
        return lambda terms: terms.striking(one.handle)

    _decide(tenant, domain, "remove", change, _act(actor, reason), as_json=as_json)


@app.command("roll-back")
def roll_back(
    tenant: Tenant,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the terms, and their use, before the last decision."""
    from personalization.registry.terming import going_back

    _decide(
        tenant, domain, "roll_back", lambda session, _: going_back(session, tenant, domain), _act(actor, reason),
        as_json=as_json,
    )  # fmt: skip


@app.command()
def correct(
    tenant: Tenant,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A text, such as a transcript; standard input without."),
    ] = None,
    *,
    domain: Domain = "default",
    as_json: AsJson = False,
) -> None:
    """Put a text's terms right, whatever they are used for; whole words alone, nothing in code or addresses."""
    from streams.client.terms import Terms
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    text = sys.stdin.read() if file is None else file.read_text("utf-8")
    with current_session(load_settings().database_url) as session:
        terms = [one for one in _facts(session, tenant, domain)["terms"] if not one["removed"]]
    done = Terms([(one["written"], one["meant"]) for one in terms]).correct(text)
    changes = [
        {"at": one.start, "was": one.before, "is": done.text[one.start : one.end]} for one in done.corrections
    ]
    if as_json:
        typer.echo(json.dumps({"text": done.text, "corrections": changes}, ensure_ascii=False))
        return
    typer.echo(done.text, nl=not done.text.endswith("\n"))


def _decide(
    tenant: str,
    domain: str,
    decision: str,
    change: Callable[[Session, Act], Callable[[TermList], TermList]],
    act: Act,
    *,
    as_json: bool,
) -> None:
    from personalization.registry.terming import decide
    from privacy.policy import versions as policies
    from streams.outbox.events import OutboxAdapterEvents
    from streams.processes.keys import adapter_signer
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    with current_session(settings.database_url) as session:
        policies.tenant(session, tenant)
        signer = adapter_signer(settings)
        decide(
            session, OutboxAdapterEvents(signer), signer, tenant, domain, decision, change(session, act), act
        )
        facts = _facts(session, tenant, domain)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    count = sum(not one["removed"] for one in facts["terms"])
    typer.echo(f"The line has {count} {'term' if count == 1 else 'terms'}, used for: {facts['use']}.")
    if decision == "propose":
        when = (
            "at the next release"
            if facts["votes"]
            else "once the policy has terms=true and enough users for it"
        )
        typer.echo(f"Users' edits vote over {len(facts['proposed'])} proposed ones {when}.")


def _facts(session: Session, tenant: str, domain: str) -> dict[str, Any]:
    from personalization.registry import queries as registry
    from personalization.terms import rows
    from personalization.terms.values import TermList
    from privacy.accounting.calibration import asks_for_terms
    from privacy.policy import versions as policies

    line = registry.find_line(session, tenant, domain)
    terms = TermList() if line is None else rows.newest(session, line.line_ref)
    own = {one.key for one in terms.pairs}
    told = [_fact(one, None) for one in terms.pairs]
    told += [
        {**_fact(None, one), "removed": one.handle in terms.removed}
        for one in _all_found(session, tenant, domain)
        if " ".join(one.key.casefold().split()) not in own
    ]
    policy = policies.current_policy(session, tenant)
    return {
        "tenant": tenant,
        "domain": domain,
        "version": terms.name,
        "use": terms.use.value,
        "terms": told,
        "votes": policy is not None and asks_for_terms(policy.policy),
        "proposed": [{"written": one.written, "meant": one.meant} for one in terms.proposed],
    }


def _fact(pair: TermPair | None, found: StyleEntry | None) -> dict[str, Any]:
    if found is None and pair is not None:
        return {
            "handle": "",
            "written": pair.written,
            "meant": pair.meant,
            "origin": "operator",
            "share": None,
            "sureness": None,
            "removed": False,
        }
    assert found is not None
    return {
        "handle": found.handle,
        "written": found.key,
        "meant": found.words,
        "origin": "vote",
        "share": found.share,
        "sureness": found.sureness,
        "removed": False,
    }


def _all_found(session: Session, tenant: str, domain: str) -> list[StyleEntry]:
    """Return the terms that the card of the version that the line serves tells."""
    from personalization.registry import queries as registry
    from personalization.styles.card import StyleCard
    from personalization.styles.families import Feature

    row = registry.current_version(session, registry.find_line(session, tenant, domain))
    style = None if row is None else registry.read_version(row).manifest.style
    return [] if style is None else list(StyleCard.from_document(style.card).of(Feature.TERM))


def _found(session: Session, tenant: str, domain: str, given: str) -> StyleEntry:
    from personalization.errors import StyleEntryNotFoundError

    for one in _all_found(session, tenant, domain):
        if given in {one.handle, one.key}:
            return one
    raise StyleEntryNotFoundError(f"no found term is {given[:80]!r}; list the terms and copy a handle")


def _written(pairs: list[str]) -> list[TermPair]:
    from personalization.terms.values import TermPair

    found = []
    for pair in pairs:
        written, equals, meant = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair[:80]!r} is no WRITTEN=MEANT")
        found.append(TermPair(written=written.strip(), meant=meant.strip()))
    return found


def _read(file: Path) -> list[TermPair]:
    from personalization.terms.values import TermPair

    with file.open(encoding="utf-8", newline="") as rows:
        told = [row for row in csv.reader(rows) if row]
    if any(len(row) != 2 for row in told):  # what is written, what is meant
        raise typer.BadParameter(f"{file.name} has a row that is not two columns")
    return [TermPair(written=row[0].strip(), meant=row[1].strip()) for row in told]


def _act(actor: str | None, reason: str) -> Act:
    from personalization.registry.announcements import Act

    return Act(actor=actor or getpass.getuser(), reason=reason, now=datetime.now(UTC))
