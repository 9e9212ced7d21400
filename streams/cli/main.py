"""The command ``discreet``: commands are loaded by name, and every error leaves as one sentence.

A command lives in ``streams/cli/<name>.py`` as a typer object ``app`` (several verbs) or a function
``command`` (one). Only the module that is asked for is imported, so ``discreet --help`` answers without
torch, Faust or SQL.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import traceback
from typing import Annotated, cast

import typer
from typer.core import TyperCommand, TyperGroup

from streams.cli.failures import describe

# name → what it is for; the only list of commands (a test compares it with the files beside this one)
COMMANDS = {
    "demo": "Run everything on this machine: broker, worker, trainer, server, three tenants, a report.",
    "recipes": "Run jobs that people really have, end to end on this machine, with numbers.",
    "tenants": "Register tenants and set their privacy policies.",
    "budget": "Show what was spent of each tenant's privacy budget.",
    "adapters": "List adapter versions and show one.",
    "explain": "Tell the story of one version on one page, with what proves it offline.",
    "keys": "Show, rotate and reconcile the keys that texts are encrypted with.",
    "drift": "Show whether what a tenant's users ask has changed, and what it cost to know.",
    "styles": "Show a tenant's style card; strike or fix entries of it.",
    "terms": "List, add, keep and strike a line's terms; put a text right.",
    "memory": "Approve, remove and look up the documents that a tenant's questions are answered from.",
    "prompts": "Add, compare, use and roll back a line's prompt templates.",
    "meta": "Build meta starts, bring them up to date and list them.",
    "bench": "Measure what private adapters are worth on users never trained on.",
    "rounds": "Open a training round by hand and list rounds.",
    "worker": "Ingest events, open due rounds, relay adapter events (long-running).",
    "trainer": "Train due rounds (long-running).",
    "serve": "Serve a base model with the adapters that the event feed announces (long-running).",
    "gateway": "Answer OpenAI's API in front of an engine, each tenant with its own adapter (long-running).",
    "bridge": "Keep vLLM, llama.cpp or a directory at what the event feed announces (long-running).",
    "edge": "Export a version as a directory that runs offline with llama.cpp.",
    "ask": "Ask a prompt of the base model and of a tenant's adapter, side by side.",
    "broker": "Run a broker on this machine to try things out; it forgets everything (long-running).",
    "topics": "Create and describe the Kafka topics.",
    "tokens": "Make, list and revoke tokens of the operator API.",
    "dlq": "Look at dead letters and send them back to their topics.",
    "restore": "Reconcile a database that was restored from a backup with what is anchored outside it.",
    "db": "Bring the database to the newest schema and check it.",
}


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and help texts, and imports a command only to run it."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002  # base class
        """Return every command's name, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override]  # noqa: ARG002
        """Return a stand-in that carries the help text; ``resolve_command`` loads the real one."""
        help_text = COMMANDS.get(cmd_name)
        return None if help_text is None else TyperCommand(cmd_name, help=help_text)

    def resolve_command(self, ctx: typer.Context, args: list[str]):  # type: ignore[no-untyped-def,override]  # noqa: ANN201
        """Return the real command for the first of ``args``."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, (None if stand_in is None else load_command(str(name))), rest


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import ``streams.cli.<name>`` and return its command object."""
    module = importlib.import_module(f"streams.cli.{name}")
    commands = getattr(module, "app", None)
    if commands is None:
        commands = typer.Typer(add_completion=False)
        commands.command(name=name)(module.command)
    loaded = cast("TyperCommand | TyperGroup", typer.main.get_command(commands))
    loaded.name = name
    loaded.help = loaded.help or COMMANDS[name]
    return loaded


def _show_version(asked: bool) -> None:  # typer calls it with the option's value
    if asked:
        typer.echo(importlib.metadata.version("discreet"))
        raise typer.Exit


app = typer.Typer(name="discreet", cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(
    help="Event-driven personalization of language models with user-level differential privacy.",
    epilog="Settings come from the environment (DISCREET_…). Start with: discreet demo",
)
def root(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Name the options that stand before a command; ``main`` reads ``--debug`` from anywhere on the line."""
    del debug, version


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status; an error leaves as one sentence on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    try:
        status = app(words, prog_name="discreet", standalone_mode=False)
    except Exception as error:  # noqa: BLE001  # the one place where errors become sentences
        if "--debug" in given:
            traceback.print_exception(error)
        sentence, code, status = describe(error)
        typer.echo(f"discreet: {sentence} [{code}]", err=True)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
