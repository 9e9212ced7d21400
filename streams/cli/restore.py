"""``discreet restore``: reconcile a database that was restored from a backup with what is anchored outside it."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from typing import Annotated

import typer


def command(
    *,
    reason: Annotated[str, typer.Option(help="Why, in one public sentence; servers and auditors see it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what lies below the anchor.")] = False,
    accept_lost_anchor: Annotated[
        bool,
        typer.Option(
            "--accept-lost-anchor",
            help="The anchor is gone or forged and this database is the newest: write it anew from here.",
        ),
    ] = False,
    actor: Annotated[str | None, typer.Option(help="Who asks; your login name by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of sentences.")] = False,
) -> None:
    """Reconcile a restored database with its anchor; stop all workers and trainers first.

    What was spent since the backup is forfeited, who was erased since is erased again, withdrawn consents and versions
    are withdrawn again, the workers read again what the backup lacks, and adapter lines get epochs above those that
    servers have seen. Running it again does no harm.
    """
    from streams.processes import restore, wiring
    from streams.settings import load_settings
    from streams.storage.schema import open_current

    settings = load_settings()
    open_current(settings.database_url).dispose()
    services = wiring.build(settings)
    try:
        if dry_run:
            found = restore.behind(services)
            sentences = [f"{owner}: {what}." if owner else f"{what}." for owner, what in found.items()]
            _say(
                sentences or ["The database is the newest; nothing is to do."],
                {"behind": found},
                as_json=as_json,
            )
            return
        done = restore.restore(
            services,
            actor=actor or getpass.getuser(),
            reason=reason,
            accept_lost_anchor=accept_lost_anchor,
        )
    finally:
        services.close()
    if done is None:
        _say(["The database is the newest; nothing was done."], {"restored": False}, as_json=as_json)
        return
    what = done.reconciled
    sentences = [
        f"Timeline {what.timeline} begins: {len(what.behind)} owners lay below the anchor.",
        f"{sum(map(len, what.charged.values()))} accounts of {len(what.charged)} tenants forfeit what was spent since.",
        f"{done.erased} users were erased again; {sum(done.replayed.values())} erasures and consents were read on.",
        f"{done.set_back} events are read again; {len(what.lines)} lines are announced above their old epochs.",
        *(f"{owner} is not registered any more: register it again." for owner in what.unregistered),
        *(f"{owner} had policy version {one}: set it again." for owner, one in what.policies.items()),
    ]
    _say(sentences, {"restored": True, **asdict(done)}, as_json=as_json)


def _say(sentences: list[str], facts: dict[str, object], *, as_json: bool) -> None:
    typer.echo(json.dumps(facts) if as_json else "\n".join(sentences))
