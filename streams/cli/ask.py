"""``discreet ask``: one prompt, answered by the base model and with a tenant's adapter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streams.demo.serving_client import ServingClient
    from streams.settings import Settings

_LOOK_SECONDS = 0.5


def command(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose adapter answers.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What is asked.")],
    *,
    wanted: Annotated[
        str | None, typer.Option(help="A wanted answer: also say how much it surprises each model.")
    ] = None,
    domain: Annotated[str, typer.Option(help="Which adapter line.")] = "default",
    template: Annotated[
        bool, typer.Option("--template", help="Put the line's prompt template around the prompt.")
    ] = False,
    tokens: Annotated[int, typer.Option(min=1, max=256, help="Longest answer.")] = 48,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until the server holds the newest version.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of text.")] = False,
) -> None:
    """Ask the server on this machine (``discreet serve``), without an adapter and with the tenant's newest.

    A loss is the mean surprise per token of the wanted answer, in nats; lower is better. Settings:
    DISCREET_DATABASE__URL, DISCREET_SERVING__PORT and __TOKEN.
    """
    from streams.demo.serving_client import ServingClient
    from streams.errors import SettingsError
    from streams.settings import load_settings

    settings = load_settings()
    token = settings.serving.token
    if token is None:
        raise SettingsError("no token is set; put the server's into DISCREET_SERVING__TOKEN")
    client = ServingClient(settings.serving.port, token.get_secret_value())
    line_ref, newest = _newest(settings, tenant, domain)
    adapter = _held(client, line_ref, newest, seconds=wait)
    answers: list[dict[str, Any]] = []
    for model in (None, adapter):
        loss = None if wanted is None else client.losses([(prompt, wanted)], model)[0]
        (text,) = client.answers(
            [prompt], model, max_new_tokens=tokens, template=line_ref if template else None
        )
        answers.append({"model": model, "answer": text, "loss": loss})
    if as_json:
        typer.echo(json.dumps({"tenant": tenant, "domain": domain, "answers": answers}))
        return
    for one in answers:
        surprise = "" if one["loss"] is None else f" (loss {one['loss']:.3f})"
        typer.echo(f"{one['model'] or 'base model'}{surprise}: {one['answer']}")


def _newest(settings: Settings, tenant: str, domain: str) -> tuple[str, str]:
    """Return the line of a tenant's domain and the served name of the version that it serves."""
    from personalization.errors import VersionNotFoundError
    from personalization.registry import queries as registry
    from privacy.policy import versions as policies
    from streams.storage.schema import current_session

    with current_session(settings.database_url) as session:
        policies.tenant(session, tenant)  # which says so when there is no such tenant
        version = registry.current_version(session, registry.find_line(session, tenant, domain))
        if version is None:
            raise VersionNotFoundError(
                f"tenant {tenant!r} has no adapter for domain {domain!r} yet; open a round and run a trainer"
            )
        return version.line_ref, version.served_name


def _held(client: ServingClient, line_ref: str, name: str, *, seconds: float) -> str:
    """Return ``name`` once the server holds it as the line's version; it may still be starting."""
    import time

    from streams.errors import ServingUnavailableError

    give_up = time.monotonic() + seconds
    while True:
        answers = client.is_up()
        current, failures = client.current() if answers else ({}, {})
        if current.get(line_ref) == name:
            return name
        if name in failures:
            raise ServingUnavailableError(f"the server refused the adapter {name} ({failures[name]})")
        if time.monotonic() >= give_up:
            missing = f"the server does not hold {name}" if answers else "no server answers"
            raise ServingUnavailableError(
                f"{missing} after {seconds:g} seconds; check that discreet serve and discreet worker run"
            )
        time.sleep(_LOOK_SECONDS)
