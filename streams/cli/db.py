"""``discreet db``: bring the database to the newest schema, say where it stands, compare it with the code."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="Bring the database to the newest schema and check it.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a sentence.")]


def _url() -> str:
    from streams.settings import load_settings

    settings = load_settings()
    if not settings.database.url:  # the default is a file in the state directory, which may not exist yet
        settings.state.mkdir(parents=True, exist_ok=True)
    return settings.database_url


def _say(sentence: str, facts: dict[str, object], *, as_json: bool) -> None:
    typer.echo(json.dumps(facts) if as_json else sentence)


@app.command()
def upgrade(
    *,
    revision: Annotated[str, typer.Option(help="Where to go; the newest by default.")] = "head",
    as_json: AsJson = False,
) -> None:
    """Apply every migration that is missing, and prepare the key store; safe to run from many machines at once.

    Keys that still lie in the database are moved into the key store.
    """
    from streams.processes.keys import open_key_store
    from streams.settings import load_settings
    from streams.storage import schema as database

    store = open_key_store(load_settings())
    try:
        reached = database.upgrade(_url(), revision)
        facts: dict[str, object] = {"revision": reached}
        sentence = f"The database is at revision {reached}."
        if reached == database.head():
            facts["keys_moved"] = moved = database.move_keys_out(_url(), store)
            sentence += f" {moved} users' keys were moved into the key store." if moved else ""
    finally:
        store.engine.dispose()
    _say(sentence, facts, as_json=as_json)


@app.command()
def current(*, as_json: AsJson = False) -> None:
    """Show the revision of the database and the newest that this version knows."""
    from streams.storage import schema as database

    revision, newest = database.current(_url()), database.head()
    sentence = f"The database is at revision {revision or 'none'}; the newest is {newest}."
    _say(sentence, {"revision": revision, "newest": newest}, as_json=as_json)


@app.command()
def check(*, as_json: AsJson = False) -> None:
    """Compare the database with the tables in the code; an error when they differ."""
    from streams.storage import schema as database

    database.check(_url())
    _say("The database matches the code.", {"matches": True}, as_json=as_json)
