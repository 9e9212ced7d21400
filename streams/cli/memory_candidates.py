"""``discreet memory try``, ``promote`` and ``abandon``: changed documents are tried on a share of the users first."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Whose memory.")]
Collection = Annotated[str, typer.Option(help="Which list of documents.")]
Actor = Annotated[str | None, typer.Option("--approved-by", help="Who decides; your login name by default.")]
Reason = Annotated[str, typer.Option(help="Why, in one public sentence; auditors see it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")]
DocumentId = Annotated[
    str | None,
    typer.Option("--id", help="Name of the one document; by default the file's, without its ending."),
]
Title = Annotated[
    str | None, typer.Option(help="Title of the one document; by default its first heading, or its name.")
]
Source = Annotated[str | None, typer.Option(help="Where it comes from; by default the file's name.")]
ValidUntil = Annotated[
    datetime | None,
    typer.Option(
        help="From then on (UTC) nothing of it is found.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]
    ),
]
AcceptMarked = Annotated[
    bool,
    typer.Option(
        "--accept-marked", help="Send passages too that look like orders to a model; you read them."
    ),
]


def try_(
    tenant: TenantName,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH…]",
            help="Text files, folders of .md and .txt files, or - for standard input; none to change the share.",
        ),
    ] = None,
    *,
    percent: Annotated[
        float | None,
        typer.Option(help="Share of the users, above 0 and below 100; by default what it is already."),
    ] = None,
    collection: Collection = "default",
    document_id: DocumentId = None,
    title: Title = None,
    source: Source = None,
    valid_until: ValidUntil = None,
    accept_marked: AcceptMarked = False,
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Try changed or new documents on a share of the users; the others are answered from what is live.

    The same user is always drawn alike, and requests without a user are never drawn. Further documents join what is
    tried already; --percent alone makes the share larger or smaller.
    """
    from personalization.memory import documents
    from personalization.memory.files import drafts_of
    from personalization.memory.scrubbing import scrubbed
    from personalization.memory.values import Fate
    from personalization.registry import remembering
    from streams.cli.memory import added_facts, database, events, place_of
    from streams.processes.keys import memory_keys
    from streams.processes.memory import embedder_of
    from streams.settings import load_settings

    until = None if valid_until is None else valid_until.replace(tzinfo=UTC)
    drafts = []
    if paths:
        drafts = drafts_of(
            paths,
            document_id=document_id,
            title=title,
            source=source,
            until=until,
            accept_marked=accept_marked,
        )
    settings = load_settings()
    place = place_of(tenant, collection, actor, None, reason)
    with database() as engine:
        cut = documents.prepared(drafts, embedder_of(settings)) if drafts else []
        with scrubbed(engine) as session:
            done = remembering.attempt(session, events(), memory_keys(settings), place, cut, percent)
    candidate = done.candidate
    if as_json:
        told = {"candidate": candidate.number, "percent": candidate.percent, "changes": candidate.documents}
        given = [added_facts(one) for one in done.documents]
        typer.echo(json.dumps({"tenant": tenant, "collection": collection, **told, "documents": given}))
        return
    for one in done.documents:
        # A changed document has the fate "superseded", which nobody is yet: the live one stays.
        fate = one.fate.value if one.fate is Fate.UNCHANGED else "tried"
        typer.echo(f"{one.document_id} version {one.version}: {fate}")
        if one.marked and not one.sent:
            typer.echo(
                f"  {one.marked} of its {one.chunks} passages look like orders to a model and will not be sent; read "
                f"them with `discreet memory list {tenant} --marked`, then try it again with --accept-marked"
            )
    typer.echo(
        f"{candidate.percent:g} % of the users are answered from candidate {candidate.name}, which changes "
        f"{candidate.documents} document{'' if candidate.documents == 1 else 's'}."
    )


def promote(
    tenant: TenantName,
    *,
    collection: Collection = "default",
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Answer everybody from what is tried: a new version of the collection, from which one can go back."""
    from personalization.registry import remembering
    from privacy.storage.session import transaction
    from streams.cli.memory import database, events, overwrite, place_of
    from streams.processes.keys import memory_keys
    from streams.settings import load_settings

    keys = memory_keys(load_settings())
    place = place_of(tenant, collection, actor, None, reason)
    with database() as engine:
        with transaction(engine) as session:
            done = remembering.promote(session, events(), keys, place)
        overwrite(engine)
    if as_json:
        typer.echo(json.dumps({"tenant": tenant, **done.to_document()}))
        return
    typer.echo(f"{collection} version {done.version} has candidate {done.candidate}'s documents.")
    for said, names in (("live now", done.documents), ("live no more", done.replaced)):
        if names:
            typer.echo(f"  {said}: {', '.join(names)}")


def abandon(
    tenant: TenantName,
    *,
    collection: Collection = "default",
    reason: Reason = "",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Answer nobody from what is tried any more, and delete what it said; the live version stays as it is."""
    from personalization.memory.scrubbing import scrubbed
    from personalization.registry import remembering
    from streams.cli.memory import database, events, place_of

    place = place_of(tenant, collection, actor, None, reason)
    with database() as engine, scrubbed(engine) as session:
        gone = remembering.abandon(session, events(), place)
    facts: dict[str, Any] = {"tenant": tenant, "collection": collection, "abandoned": gone.number}
    typer.echo(
        json.dumps(facts)
        if as_json
        else f"Candidate {gone.name} is abandoned; everybody is answered from what is live."
    )
