"""``discreet dlq``: look at what could not be accepted, and send it back once the cause is gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.ingest.resend import Letter

app = typer.Typer(help="Look at dead letters and send them back to their topics.", no_args_is_help=True)

Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only letters of this reason.")]
Topic = Annotated[str | None, typer.Option(help="Only letters that came from this topic.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", help="Only letters of this tenant, as the record's key names it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


@app.command("list")
def list_(
    *,
    reason: Reasons = None,
    tenant: Tenants = None,
    topic: Topic = None,
    limit: Annotated[int, typer.Option(min=1, help="Most letters to show.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters: when, why and where they came from; never a key or a payload."""
    from itertools import islice

    from streams.ingest.resend import letters
    from streams.settings import load_settings

    wanted = _wanted(reason, tenant, topic)
    found = ((entry, entry.letter) for entry in letters(load_settings().broker) if wanted(entry))
    shown = [
        {
            "at": letter.refused_at.isoformat(),
            "reason": letter.reason.value,
            "detail": letter.detail,
            "tenant": entry.tenant,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "attempts": letter.attempts,
        }
        for entry, letter in islice(found, limit)
        if letter is not None
    ]
    if as_json:
        typer.echo(json.dumps({"letters": shown}))
        return
    for line in shown:
        place = f"{line['topic']}[{line['partition']}]@{line['offset']}"
        typer.echo(f"{line['at']}  {line['reason']:<20} {place}  {line['detail']}")
    if not shown:
        typer.echo("There are no such dead letters.")


@app.command()
def replay(
    *,
    reason: Reasons = None,
    tenant: Tenants = None,
    topic: Topic = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Also letters sent back before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to their topics; events that had their effect have no second one."""
    from streams.ingest.resend import replay as send_back
    from streams.settings import load_settings

    wanted = _wanted(reason, tenant, topic)
    done = send_back(load_settings().broker, wanted, from_start=from_start, dry_run=dry_run)
    counts = done.letters
    if as_json:
        facts = {
            "sent": not dry_run,
            "letters": dict(counts),
            "tenants": dict(done.tenants),
            "passed_over": done.passed_over,
        }
        typer.echo(json.dumps(facts))
        return
    verb = "would be sent back" if dry_run else "were sent back"
    typer.echo(f"{counts.total()} dead letters {verb}.")
    for name, count in counts.most_common():
        typer.echo(f"  {name}: {count}")
    for name, count in done.tenants.most_common():
        typer.echo(f"  of {name or 'no tenant'}: {count}")
    if done.passed_over:
        typer.echo(f"{done.passed_over} others were passed over; --from-start looks at them again.")


def _wanted(
    reasons: list[str] | None, tenants: list[str] | None, topic: str | None
) -> Callable[[Letter], bool]:
    from streams.contracts.dead_letter import DeadLetterReason
    from streams.errors import DeadLetterError

    known = {reason.value for reason in DeadLetterReason}
    for name in reasons or ():
        if name not in known:
            raise DeadLetterError(f"there is no reason {name!r}; allowed are {', '.join(sorted(known))}")

    def wanted(entry: Letter) -> bool:
        letter = entry.letter
        return (
            letter is not None
            and (not reasons or letter.reason.value in reasons)
            and (not tenants or entry.tenant in tenants)
            and topic in (None, letter.topic)
        )

    return wanted
