"""What the demonstration found, as one value, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class TenantFacts:
    """One tenant's line of the report.

    Attributes:
        users: users whose interactions were published.
        signals: signals stored for them, after the contribution bound.
        heldout_users: users that were never published; the losses are theirs.
        epsilon: proved bound on what one user may have lost so far.
        target_epsilon: what the policy allows.
        nll_base: mean loss per token of the base model, over held-out users.
        nll_adapter: the same with the tenant's adapter.
        prompts: prompts of unseen users that were answered in full.
        styled_base: answers of the base model that open or close as the tenant's people do.
        styled_adapter: the same with the tenant's adapter.
        style: what the style card says, in sentences.
        ledger_state: state of the last reservation.
        outcome: one public sentence on the last round.
    """

    tenant: str
    users: int
    signals: int
    heldout_users: int
    epsilon: float
    target_epsilon: float
    delta: float
    nll_base: float | None
    nll_adapter: float | None
    prompts: int
    styled_base: int
    styled_adapter: int
    style: tuple[str, ...]
    adapter_version: int | None
    served_name: str | None
    ledger_state: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class EventCounts:
    """What became of the interaction events: every published one was stored or dead-lettered."""

    published: int
    stored: int
    dead_lettered: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """One held-out prompt, answered by the base model and by the tenant's adapter."""

    tenant: str
    prompt: str
    written: str
    base: str
    adapter: str


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """All facts of one run."""

    tenants: tuple[TenantFacts, ...]
    events: EventCounts
    seconds: dict[str, float]
    examples: tuple[Example, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "tenants": [asdict(tenant) for tenant in self.tenants],
            "events": asdict(self.events),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "examples": [asdict(example) for example in self.examples],
        }

    def write(self, path: Path) -> None:
        """Write the JSON form to ``path``."""
        path.write_text(json.dumps(self.to_document(), indent=2) + "\n", "utf-8")


def show(report: DemoReport, console: Console) -> None:
    """Print the table, the examples and what they mean."""
    console.print()
    console.print(_tenant_table(report))
    events = report.events
    console.print(
        f"Events: {events.published} published = {events.stored} stored + {events.dead_lettered} "
        "dead-lettered (on purpose: no consent, unknown tenant, not JSON, too large).",
        highlight=False,
    )
    for tenant in report.tenants:
        console.print()
        console.print(Text(f"{tenant.tenant}: what its users' vote says of its answers", style="bold"))
        for sentence in tenant.style or ("No style was found.",):
            console.print(Text(f"  {sentence}"))
        for example in report.examples:
            if example.tenant == tenant.tenant:
                console.print(_example_table(example))
    console.print()
    console.print(
        "Loss is the mean surprise per token (nats) on users that training never saw: lower is better. "
        "ε bounds what anyone can learn about one user from everything released; it was reserved before any "
        "data was read, and it stays within what the tenant's policy allows.",
        highlight=False,
        style="dim",
    )
    total = sum(report.seconds.values())
    parts = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in report.seconds.items())
    console.print(f"{total:.0f} s in all: {parts}.", highlight=False, style="dim")


def _tenant_table(report: DemoReport) -> Table:
    deltas = ", ".join(sorted({f"{tenant.delta:g}" for tenant in report.tenants}))
    table = Table(
        title="What each tenant got, and what it cost",
        title_justify="left",
        caption=f"ε is for one user over all releases, at δ = {deltas}; unseen users were never published.\n"
        "* Answers to unseen users' prompts that open or close as those users do: base → adapter.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("tenant")
    for heading in (
        "users",
        "signals",
        "ε spent\nof allowed",
        "unseen\nusers",
        "loss\nbefore",
        "loss\nafter",
        "like the\ntenant*",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("adapter", overflow="fold")
    for tenant in report.tenants:
        before, after = tenant.nll_base, tenant.nll_adapter
        improved = before is not None and after is not None and after < before
        table.add_row(
            Text(tenant.tenant, no_wrap=True),
            str(tenant.users),
            str(tenant.signals),
            f"{_rounded_up(tenant.epsilon)} of {tenant.target_epsilon:g}",
            str(tenant.heldout_users),
            _loss(before),
            Text(_loss(after), style="bold green" if improved else ""),
            f"{tenant.styled_base} → {tenant.styled_adapter}\nof {tenant.prompts}",
            tenant.served_name or f"none: {tenant.outcome}",
        )
    return table


def _rounded_up(epsilon: float) -> str:
    """Return ε with two decimals, never less than what was proved."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}"


def _example_table(example: Example) -> Table:
    table = Table(show_header=False, title=f"{example.tenant}, a user never trained on", title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold", max_width=88)
    rows = (
        ("prompt", example.prompt),
        ("base model", example.base),
        ("with adapter", example.adapter),
        ("the user wrote", example.written),
    )
    for label, text in rows:
        table.add_row(label, Text(text))
    return table


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
