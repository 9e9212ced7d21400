"""``discreet memory``: approve, remove and look up the documents that a tenant's questions are answered from.

Longer than 400 lines because it has a command for each act, each of them but options, one call and what is printed.
"""

from __future__ import annotations

import getpass
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import memory_candidates
from streams.cli.memory_candidates import (
    AcceptMarked,
    Actor,
    AsJson,
    Collection,
    DocumentId,
    Reason,
    Source,
    TenantName,
    Title,
    ValidUntil,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.engine import Engine

    from personalization.memory.documents import Added, Place
    from streams.outbox.events import OutboxAdapterEvents

app = typer.Typer(
    help="Approve, remove and look up the documents that a tenant's questions are answered from.",
    no_args_is_help=True,
)
Number = Annotated[int, typer.Argument(min=1, help="A version, as `versions` shows it.")]
_FILE_WIDTH = 200  # where no terminal says how wide it is


@app.command()
def add(
    tenant: TenantName,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", help="Text files, folders of .md and .txt files, or - for standard input."
        ),
    ],
    *,
    collection: Collection = "default",
    document_id: DocumentId = None,
    title: Title = None,
    source: Source = None,
    domain: Annotated[
        str | None,
        typer.Option(help="Look the collection up for this domain alone; by default for every one."),
    ] = None,
    valid_until: ValidUntil = None,
    accept_marked: AcceptMarked = False,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Approve documents: each becomes the live version of its name; the one before is kept for a roll-back alone."""
    from personalization.memory import documents
    from personalization.memory.files import drafts_of
    from personalization.memory.scrubbing import scrubbed
    from personalization.registry import remembering
    from streams.processes.keys import memory_keys
    from streams.processes.memory import embedder_of
    from streams.settings import load_settings

    until = None if valid_until is None else valid_until.replace(tzinfo=UTC)
    drafts = drafts_of(
        paths, document_id=document_id, title=title, source=source, until=until, accept_marked=accept_marked
    )
    settings = load_settings()
    place = place_of(tenant, collection, actor, domain, reason)
    with database() as engine:
        cut = documents.prepared(drafts, embedder_of(settings))
        with scrubbed(engine) as session:
            done = remembering.add(session, events(), memory_keys(settings), place, cut)
    facts = [added_facts(one) for one in done]
    if as_json:
        typer.echo(json.dumps({"tenant": tenant, "collection": collection, "documents": facts}))
        return
    for one in done:
        more = f"; the same words as {one.same_as}" if one.same_as else ""
        typer.echo(
            f"{one.document_id} version {one.version}: {one.fate.value}, {_passages(one.chunks)}{more}"
        )
        if one.marked and not one.sent:
            typer.echo(
                f"  {_passages(one.marked)} of it look like orders to a model and will not be sent; read them with "
                f"`discreet memory list {tenant} --marked`, then `discreet memory accept {tenant} {one.document_id}`"
            )


app.command("try")(memory_candidates.try_)
app.command()(memory_candidates.promote)
app.command()(memory_candidates.abandon)


@app.command()
def remove(
    tenant: TenantName,
    document_ids: Annotated[
        list[str], typer.Argument(metavar="ID…", help="Documents, as `list` shows them.")
    ],
    *,
    collection: Collection = "default",
    earlier: Annotated[
        bool, typer.Option("--earlier", help="What is kept of earlier versions; the live one stays.")
    ] = False,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Remove documents for good, from candidates too: all that they ever said is deleted; nothing brings it back."""
    from personalization.memory.scrubbing import scrubbed
    from personalization.registry import remembering
    from streams.processes.keys import memory_keys
    from streams.settings import load_settings

    keys = memory_keys(load_settings())
    place = place_of(tenant, collection, actor, None, reason)
    with database() as engine, scrubbed(engine) as session:
        gone = remembering.remove(session, events(), keys, place, document_ids, earlier=earlier)
    if as_json:
        removed = [{"id": one.document_id, "version": one.version} for one in gone]
        typer.echo(json.dumps({"tenant": tenant, "collection": collection, "removed": removed}))
        return
    for one in gone:
        typer.echo(f"{one.document_id} version {one.version}: removed, {_passages(one.chunks)}")


@app.command()
def accept(
    tenant: TenantName,
    document_id: Annotated[
        str, typer.Argument(metavar="ID", help="Document whose marked passages you have read.")
    ],
    *,
    collection: Collection = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Let passages be sent that look like orders to a model; who accepts them has read them."""
    from personalization.memory.scrubbing import scrubbed
    from personalization.registry import remembering
    from streams.processes.keys import memory_keys
    from streams.settings import load_settings

    keys = memory_keys(load_settings())
    place = place_of(tenant, collection, actor)
    with database() as engine, scrubbed(engine) as session:
        remembering.accept(session, events(), keys, place, document_id)
    typer.echo(
        json.dumps({"id": document_id, "accepted": True})
        if as_json
        else f"{document_id}: its marked passages are sent."
    )


@app.command("list")
def show(
    tenant: TenantName,
    *,
    collection: Annotated[str | None, typer.Option(help="Which list of documents; by default all.")] = None,
    ended: Annotated[
        bool, typer.Option("--all", help="Versions too that were superseded or removed.")
    ] = False,
    marked: Annotated[
        bool, typer.Option("--marked", help="Only passages that look like orders to a model.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the documents, those of candidates too: version, who approved it, from where, how long it counts."""
    from personalization.memory import queries
    from privacy.policy import versions as policies
    from streams.processes.keys import memory_keys
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    keys = memory_keys(settings)
    facts: list[dict[str, Any]] = []
    with current_session(settings.database_url) as session:
        policies.tenant(session, tenant)
        for row in queries.listed(session, tenant, collection, tried=True, ended=ended):
            known = None if row.sealed is None else queries.opened(row, keys)
            odd = [one for one in known.chunks if one.marks] if known is not None else []
            if odd or not marked:
                told = [{"marks": list(one.marks), "text": one.text} for one in odd] if marked else []
                facts.append({**queries.facts_of(row, known), "marked_passages": told})
    if as_json:
        typer.echo(json.dumps(facts))
        return
    columns = (
        "collection", "id", "version", "state", "approved_by", "added_at", "valid_until", "passages", "marked",
        "source",
    )  # fmt: skip
    _table(columns, [tuple(str(one[name] or "")[:40] for name in columns) for one in facts])
    for one in facts:
        for odd in one["marked_passages"]:
            typer.echo(f"\n{one['id']} ({', '.join(odd['marks'])}):\n{odd['text']}")


@app.command("versions")
def show_versions(
    tenant: TenantName,
    *,
    collection: Collection = "default",
    number: Annotated[
        int | None, typer.Option("--version", min=1, help="Show what stands in this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the versions of a collection: who made each, why, whether its signature holds, and what stands in it.

    What was tried is listed beside them, by whom and on which share of the users.
    """
    from personalization.errors import MemoryNotFoundError
    from personalization.memory import candidates, histories
    from personalization.memory.versions import oldest_kept
    from privacy.policy import versions as policies
    from streams.processes.keys import memory_keys
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    keys = memory_keys(settings)
    with current_session(settings.database_url) as session:
        policies.tenant(session, tenant)
        rows = histories.versions_of(session, tenant, collection)
        if number is not None:
            rows = [histories.require(session, tenant, collection, number)]
        elif not rows:
            raise MemoryNotFoundError(
                f"the collection {collection[:80]!r} has no version yet; `discreet memory status` shows the collections"
            )
        oldest = oldest_kept(session, tenant, collection)
        facts = [histories.facts_of(session, keys, row, kept=row.number >= oldest) for row in rows]
        moves = [] if number is not None else candidates.moves_of(session, tenant, collection)
        tried = candidates.facts_of(session, keys, tenant, collection, moves)
    if as_json:
        public = {name: key.hex() for name, key in keys.public_keys.items()}
        about = {"tenant": tenant, "collection": collection, "public_keys": public}
        typer.echo(json.dumps({**about, "versions": facts, "candidates": tried}))
        return
    columns = (
        "version",
        "at",
        "decision",
        "restores",
        "documents",
        "approved_by",
        "reason",
        "signature_holds",
    )
    _table(
        columns,
        [tuple(str("" if one[name] is None else one[name])[:40] for name in columns) for one in facts],
    )
    if tried:
        typer.echo("\ntried on a share of the users:")
        of_tried = ("candidate", "percent", *(one for one in columns if one not in {"version", "restores"}))
        _table(
            of_tried,
            [tuple(str("" if one[name] is None else one[name])[:40] for name in of_tried) for one in tried],
        )
    if number is not None:
        names = ("id", "version", "sha256", "approved_by", "valid_from", "valid_until", "kept")
        sources = facts[0]["sources"]
        _table(names, [tuple(str(one[name] or "")[:25] for name in names) for one in sources])


@app.command()
def diff(
    tenant: TenantName,
    before: Number,
    after: Annotated[int, typer.Argument(metavar="OTHER", min=1, help="The other version.")],
    *,
    collection: Collection = "default",
    as_json: AsJson = False,
) -> None:
    """Show which documents come, go and are replaced from one version of a collection to another."""
    from dataclasses import asdict

    from personalization.memory import histories
    from privacy.policy import versions as policies
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        policies.tenant(session, tenant)
        found = histories.difference(session, tenant, collection, before, after)
    if as_json:
        typer.echo(json.dumps({"before": before, "after": after, **asdict(found)}))
        return
    lines = [
        *(f"- {one}" for one in found.removed),
        *(f"+ {one}" for one in found.added),
        *(f"~ {one} becomes {other}" for one, other in found.replaced),
        *(f"! {one}: its marked passages are sent in one of the two alone" for one in found.accepted),
    ]
    if found.domain is not None:
        lines.append(f"! looked up for the domain {found.domain[0]}, then for {found.domain[1]}")
    typer.echo("\n".join(lines) if lines else "The two are the same.")


@app.command("roll-back")
def roll_back(
    tenant: TenantName,
    *,
    to: Annotated[
        int | None,
        typer.Option(min=1, help="Which version; by default the one before, and one further back each time."),
    ] = None,
    collection: Collection = "default",
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Make the documents of an earlier version live again, as a new version; what was removed does not come back.

    What is tried is abandoned.
    """
    from personalization.registry import remembering
    from privacy.storage.session import transaction
    from streams.processes.keys import memory_keys
    from streams.settings import load_settings

    keys = memory_keys(load_settings())
    place = place_of(tenant, collection, actor, None, reason)
    with database() as engine:
        with transaction(engine) as session:
            done = remembering.roll_back(session, events(), keys, place, to)
        overwrite(engine)
    if as_json:
        typer.echo(json.dumps({"tenant": tenant, **done.to_document()}))
        return
    typer.echo(f"{collection} version {done.version} holds what version {done.restores} held.")
    if done.abandoned is not None:
        typer.echo(f"  abandoned: candidate {collection}@{done.abandoned}")
    for said, names in (
        ("live again", done.brought_back),
        ("live no more", done.set_aside),
        ("removed, and not brought back", done.removed),
        ("no longer kept, and not brought back", done.not_kept),
    ):
        if names:
            typer.echo(f"  {said}: {', '.join(names)}")


@app.command()
def search(
    tenant: TenantName,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="As a user would ask it.")],
    *,
    domain: Annotated[str, typer.Option(help="For which line.")] = "default",
    most: Annotated[int, typer.Option(min=1, max=50, help="Passages.")] = 3,
    candidate: Annotated[
        bool, typer.Option("--candidate", help="As for the users on whom something is tried.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look a question up as the gateway does: what would be sent, or that nothing was found."""
    from privacy.policy import versions as policies
    from privacy.storage.session import reading
    from streams.processes.memory import open_search
    from streams.settings import load_settings

    with database() as engine:
        with reading(engine) as session:
            policies.tenant(session, tenant)
        found = open_search(load_settings(), engine).find(
            tenant,
            domain,
            question,
            datetime.now(UTC),
            most=most,
            within=(lambda *_: True) if candidate else None,
        )
    if as_json:
        typer.echo(json.dumps(found.to_document()))
        return
    if not found.by_meaning:
        typer.echo("Words alone were compared; install discreet[memory] to find by meaning too.", err=True)
    if candidate and not found.candidates:
        typer.echo(
            "No candidate was looked in: nothing is tried for this domain, or what is tried is not what was signed "
            f"(`discreet memory versions {tenant}` says so).",
            err=True,
        )
    if not found.passages:
        typer.echo("Nothing found." if found.outcome.value == "nothing_found" else "There are no documents.")
    for one in found.passages:
        near = "" if one.similarity is None else f", similarity {one.similarity:.2f}"
        typer.echo(
            f"{one.citation}{near}\n  {one.document.title}{': ' + one.chunk.section if one.chunk.section else ''}"
        )
        typer.echo(f"  {one.chunk.text}")


@app.command()
def status(
    tenant: TenantName,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the collections: version, what is tried, size, age, and whether they are found by meaning."""
    from personalization.memory import candidates, queries
    from privacy.policy import versions as policies
    from streams.processes.memory import embedder_of
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    settings = load_settings()
    embedder = embedder_of(settings)
    with current_session(settings.database_url) as session:
        policies.tenant(session, tenant)
        opens = {one.collection: one for one in candidates.opens(session, tenant)}
        facts = [
            {
                "collection": row.collection,
                "version": row.version,
                "candidate": one.number if (one := opens.get(row.collection)) else None,
                "candidate_percent": one.percent if one else None,
                "domain": row.domain or "*",
                "changed_at": row.changed_at.isoformat(),
                **queries.size_of(session, tenant, row.collection, datetime.now(UTC)),
            }
            for row in queries.collections(session, tenant)
        ]
    model = None if embedder is None else embedder.name
    if as_json:
        typer.echo(json.dumps({"tenant": tenant, "embedder": model, "collections": facts}))
        return
    typer.echo(f"found by {'words alone' if model is None else f'words and by meaning ({model})'}")
    columns = (
        "collection",
        "version",
        "candidate",
        "candidate_percent",
        "domain",
        "documents",
        "passages",
        "marked",
        "expired",
        "oldest",
        "changed_at",
    )
    _table(columns, [tuple(str(one[name] or "")[:25] for name in columns) for one in facts])


@app.command()
def prepare(*, as_json: AsJson = False) -> None:
    """Let PostgreSQL compare meanings itself: make the extension's table and fill it (DISCREET_MEMORY__VECTORS)."""
    from personalization.memory.embedding import bundled_embedder
    from personalization.memory.pgvector import prepare as fill
    from streams.processes.keys import memory_keys
    from streams.settings import load_settings

    with database() as engine:
        written = fill(engine, memory_keys(load_settings()), bundled_embedder())
    typer.echo(json.dumps({"passages": written}) if as_json else f"{_passages(written)} were written.")


@app.command()
def forget(
    tenant: TenantName,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it nothing is done.")] = False,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Remove everything that a tenant's memory ever held, names and numbers too, as when a tenant leaves."""
    from personalization.errors import MemoryDocumentError
    from personalization.memory import documents
    from personalization.memory.scrubbing import scrubbed

    if not yes:
        raise MemoryDocumentError("everything of the tenant's memory would be removed; say --yes to do it")
    with database() as engine, scrubbed(engine) as session:
        live = documents.forget_tenant(
            session, tenant, actor=actor or getpass.getuser(), now=datetime.now(UTC)
        )
    typer.echo(
        json.dumps({"tenant": tenant, "forgotten": live}) if as_json else f"{live} documents were forgotten."
    )


@contextmanager
def database() -> Iterator[Engine]:
    """Open the database of the settings."""
    from streams.settings import load_settings
    from streams.storage.schema import open_current

    engine = open_current(load_settings().database_url)
    try:
        yield engine
    finally:
        engine.dispose()


def overwrite(engine: Engine) -> None:
    """Overwrite in the files what an act gave up that is done and would be another one if it were repeated."""
    from personalization.memory.scrubbing import scrub
    from privacy.errors import StorageError

    try:
        scrub(engine)
    except StorageError:
        typer.echo(
            "what was given up is found no more, but the database did not overwrite it in its files; the next "
            "`discreet memory add` or `remove` does",
            err=True,
        )


def events() -> OutboxAdapterEvents:
    """Return where events of memory go."""
    from streams.outbox.events import OutboxAdapterEvents

    return OutboxAdapterEvents()  # no desired state goes with these events, so nothing is signed for servers


def place_of(
    tenant: str, collection: str, actor: str | None, domain: str | None = None, reason: str = ""
) -> Place:
    """Return where, by whom, when and why something is decided."""
    from personalization.memory.documents import Place

    return Place(
        tenant_id=tenant,
        collection=collection,
        actor=actor or getpass.getuser(),
        now=datetime.now(UTC),
        domain=domain,
        reason=reason,
    )


def added_facts(one: Added) -> dict[str, Any]:
    """Return what became of a document, as JSON has it."""
    return {
        "id": one.document_id,
        "version": one.version,
        "fate": one.fate.value,
        "passages": one.chunks,
        "marked": one.marked,
        "marked_accepted": one.sent,
        "same_as": one.same_as,
    }


def _passages(count: int) -> str:
    return f"{count} passage{'' if count == 1 else 's'}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    screen = Console()
    (screen if screen.is_terminal else Console(width=_FILE_WIDTH)).print(table)
