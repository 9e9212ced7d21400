"""``discreet styles``: show what a vote of a tenant's users found out about its answers; strike or fix an entry."""

from __future__ import annotations

import getpass
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table
    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion
    from personalization.styles.card import StyleCard, StyleEntry
    from personalization.styles.decisions import StyleAct
    from personalization.styles.tables import StyleEditRow
    from personalization.styles.wording import Bar

app = typer.Typer(help="Show a tenant's style card; strike or fix entries of it.", no_args_is_help=True)
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Whose card.")]
Domain = Annotated[str, typer.Option(help="Which line.")]
Entry = Annotated[
    str, typer.Argument(metavar="ENTRY", help="Handle of the entry, as shown, or its whole name.")
]
Reason = Annotated[str, typer.Option(help="Why, in one public sentence; auditors see it.")]
Actor = Annotated[str | None, typer.Option(help="Who decides; your login name by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of sentences and a picture.")]
_BAR_WIDTH = 24


@app.command()
def show(
    tenant: TenantName,
    *,
    domain: Domain = "default",
    as_json: AsJson = False,
) -> None:
    """Show what was found, how sure it is, what it cost, and what people decided about it."""
    from personalization.styles import decisions, wording
    from privacy.mechanisms.partition_selection import PartitionSelection
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        version, card = _newest(session, tenant, domain)
        earlier = _earlier_entries(session, version, card)
        acts = [_act_facts(row) for row in decisions.history(session, tenant, domain)]
    vote = PartitionSelection(noise_multiplier=card.noise_multiplier, delta=card.delta, unknown_keys=1)
    said = [*wording.sentences(card), wording.cost_sentence(vote, version.manifest.privacy.delta)]
    style = version.manifest.style
    part = style.public_part if style else None
    remembered = part.get("remembered", 0) + (part["pairs"] == 0) if part else 0
    if remembered:
        said.append(wording.remembered_sentence(remembered))
    if part and part.get("scaled", 0):
        said.append(wording.scaled_sentence(part["scaled"]))
    facts: dict[str, Any] = {
        "tenant": tenant,
        "domain": domain,
        "served_name": version.manifest.served_name,
        "card_digest": card.digest(),
        "sentences": said,
        "frames": [_bar_facts(bar) for bar in wording.frame_bars(card)],
        "entries": [_bar_facts(bar) for bar in wording.entry_bars(card)],
        "earlier_entries": [_bar_facts(bar) for bar in earlier],
        "card": card.to_document(),
        "prompt": style.prompt if style else "",
        "pattern": style.pattern if style else "",
        "grammar": style.grammar if style else "",
        "public_part": part,
        "decisions": acts,
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    _print(tenant, domain, facts, wording.frame_bars(card), wording.entry_bars(card), earlier)


@app.command()
def remove(
    tenant: TenantName,
    entry: Entry,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Strike an entry: from the next version on no card holds it, however many users have it.

    A version that is out already goes on as it is. Of a line that remembers, what was made of cards begins anew.
    """
    from personalization.styles.decisions import strike

    _decide(
        tenant, domain, actor, reason, as_json=as_json,
        said="is left out of every card from the next version on; what is served now goes on as it is until then",
        decide=lambda session, act: _on_entry(session, act, entry, strike),
    )  # fmt: skip


@app.command()
def pin(
    tenant: TenantName,
    entry: Entry,
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Fix an entry: later cards hold it with the share it has now, found again or not."""
    from personalization.styles.decisions import pin as fix

    _decide(
        tenant, domain, actor, reason, as_json=as_json, said="stands in every card from the next version on",
        decide=lambda session, act: _on_entry(session, act, entry, fix),
    )  # fmt: skip


@app.command()
def undo(
    tenant: TenantName,
    handle: Annotated[
        str, typer.Argument(metavar="HANDLE", help="Handle of an entry that was struck or fixed.")
    ],
    *,
    reason: Reason,
    domain: Domain = "default",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Take back what was decided about an entry: the vote alone says again whether it is there."""
    from personalization.styles import decisions

    def decide(session: Session, act: StyleAct) -> str:
        decisions.undo(session, act, handle)
        return handle

    _decide(tenant, domain, actor, reason, as_json=as_json, said="is left to the vote again", decide=decide)


def _decide(
    tenant: str,
    domain: str,
    actor: str | None,
    reason: str,
    *,
    as_json: bool,
    said: str,
    decide: Callable[[Session, StyleAct], str],
) -> None:
    from personalization.styles.decisions import StyleAct, current_edits
    from privacy.policy import versions as policies
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    act = StyleAct(
        tenant_id=tenant,
        domain=domain,
        actor=actor or getpass.getuser(),
        reason=reason,
        now=datetime.now(UTC),
    )
    with current_session(load_settings().database_url) as session:
        policies.tenant(session, tenant)
        handle = decide(session, act)
        edits = current_edits(session, tenant, domain)
    facts = {"entry": handle, "removed": list(edits.removed), "pinned": [one.handle for one in edits.pinned]}
    typer.echo(json.dumps(facts) if as_json else f"Entry {handle} {said}.")


def _on_entry(session: Session, act: StyleAct, given: str, decide: Callable[..., None]) -> str:
    from personalization.errors import StyleEntryNotFoundError
    from personalization.styles.decisions import find_entry

    version, card = _newest(session, act.tenant_id, act.domain)
    try:
        entry = find_entry(card, given)
    except StyleEntryNotFoundError:
        # Of a line that remembers, what was made of earlier cards is in the adapter too.
        known = [one for one in _earlier(session, version, card) if given in {one.handle, one.name}]
        if not known:
            raise
        entry = known[0]
    decide(session, act, entry)
    return entry.handle


def _earlier(session: Session, version: AdapterVersion, card: StyleCard) -> list[StyleEntry]:
    """Return entries of earlier cards that the version's adapter still has something of, and its own card lacks."""
    from personalization.releases.style import cards_in

    known = {one.handle for one in card.entries}
    found: dict[str, StyleEntry] = {}
    for earlier in cards_in(session, version.manifest.version_id()):
        for one in earlier.entries:
            if one.handle not in known:
                found.setdefault(one.handle, one)
    return list(found.values())


def _earlier_entries(session: Session, version: AdapterVersion, card: StyleCard) -> list[Bar]:
    from personalization.styles.wording import entry_bars

    entries = _earlier(session, version, card)
    return list(entry_bars(replace(card, entries=tuple(entries)))) if entries else []


def _newest(session: Session, tenant: str, domain: str) -> tuple[AdapterVersion, StyleCard]:
    """Return the newest version of a line that carries a style card, and the card."""
    from personalization.errors import StyleCardNotFoundError
    from personalization.registry import queries as registry
    from personalization.styles.card import StyleCard

    version = registry.newest_with_style(session, tenant, domain)
    style = None if version is None else version.manifest.style
    if version is None or style is None:
        raise StyleCardNotFoundError(
            f"no version of tenant {tenant!r}, domain {domain!r}, carries a style card; one is made by the first round "
            "that votes on style"
        )
    return version, StyleCard.from_document(style.card)


def _print(
    tenant: str,
    domain: str,
    facts: dict[str, Any],
    frames: Sequence[Bar],
    entries: Sequence[Bar],
    earlier: Sequence[Bar],
) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text(f"Style of {tenant} ({domain}), as {facts['served_name']} carries it", style="bold"))
    for one in facts["sentences"]:
        console.print(Text(f"  {one}"))
    console.print()
    console.print(_picture(frames, with_handles=False))
    console.print(_picture(entries, with_handles=True))
    if earlier:
        console.print(Text("Of earlier cards, still in the adapter:", style="bold"))
        console.print(_picture(earlier, with_handles=True))
    for one in facts["decisions"]:
        what = f"{one['decision']} {one['handle']} ({one['feature']})"
        console.print(Text(f"  {one['at'][:19]}  {one['actor']}: {what}: {one['reason']}"))


def _picture(bars: Sequence[Bar], *, with_handles: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    from personalization.styles.wording import drawn

    table = Table(
        "", "", "of answers", "", "sure (σ)", *(["entry"] if with_handles else []), box=None, pad_edge=False
    )
    group = ""
    for bar in bars:
        sure = "fixed" if bar.pinned else "" if bar.sureness is None else f"{bar.sureness:.1f}"
        cells = [
            bar.group if bar.group != group else "", bar.label, drawn(bar.share, _BAR_WIDTH), f"{bar.share:.0%}", sure
        ]  # fmt: skip
        table.add_row(*(Text(cell) for cell in (*cells, *([bar.handle] if with_handles else []))))
        group = bar.group
    return table


def _bar_facts(bar: Bar) -> dict[str, Any]:
    facts = {"group": bar.group, "label": bar.label, "share": round(bar.share, 4), "sureness": bar.sureness}
    return {**facts, "handle": bar.handle, "pinned": bar.pinned} if bar.handle else facts


def _act_facts(row: StyleEditRow) -> dict[str, Any]:
    return {
        "sequence": row.sequence,
        "decision": row.decision,
        "handle": row.handle,
        "feature": row.feature,
        "actor": row.actor,
        "reason": row.reason,
        "at": row.at.isoformat(),
    }
