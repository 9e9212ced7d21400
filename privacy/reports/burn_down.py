"""The budget burn-down of a tenant: what was charged when, and what the schedule would charge next."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from privacy.accounting.composition import best_epsilon
from privacy.accounting.curve import RdpCurve
from privacy.ledger.accounts import lifetime_account_id
from privacy.ledger.chain import EntryKind
from privacy.ledger.history import entries, lifetime_account

if TYPE_CHECKING:
    from pathlib import Path

    from sqlmodel import Session

    from privacy.accounting.forecast import Outlook
    from privacy.policy.values import TenantPrivacyPolicy

_PAST_COLOR, _PLANNED_COLOR, _CAP_COLOR = "#1f4e79", "#c55a11", "#7f7f7f"


@dataclass(frozen=True)
class BurnDown:
    """Points (UTC instant, lifetime ε after it) of the past and of the plan, and the cap."""

    tenant_id: str
    past: list[tuple[datetime, float]]
    planned: list[tuple[datetime, float]]
    cap: float
    delta: float


def burn_down(
    session: Session,
    tenant_id: str,
    policy: TenantPrivacyPolicy,
    *,
    release: RdpCurve,
    plan: Outlook,
    now: datetime,
    most_planned: int = 200,
) -> BurnDown:
    """Return every charge so far, then each scheduled release of ``plan`` at cost ``release``."""
    account = lifetime_account(session, tenant_id)
    delta = account.delta if account is not None else policy.lifetime_delta
    cap = min(account.epsilon, policy.lifetime_epsilon) if account is not None else policy.lifetime_epsilon
    total = RdpCurve.zero()
    past: list[tuple[datetime, float]] = []
    for entry in entries(session, tenant_id, EntryKind.RESERVED, EntryKind.RELEASED, EntryKind.RESTORED):
        document = json.loads(entry.document)
        if entry.kind == EntryKind.RESTORED:
            charged = document["charged"].get(lifetime_account_id(tenant_id))
            total += RdpCurve.zero() if charged is None else RdpCurve.from_document(charged)
        else:
            curve = RdpCurve.from_document(document["curve"])
            total = total + curve if entry.kind == EntryKind.RESERVED else total - curve
        if not past:
            past.append((datetime.fromisoformat(entry.recorded_at), 0.0))
        past.append((datetime.fromisoformat(entry.recorded_at), best_epsilon(total, delta)[0]))
    index = policy.schedule.due_index(now)
    first = 0 if index is None else index + 1
    planned, left, number = [(now, best_epsilon(total, delta)[0])], plan.releases_left, first
    room, period = plan.releases_left_in_period, policy.period_index(now)
    while left > 0 and len(planned) <= most_planned:
        at = policy.schedule.due_at(number)
        if policy.period_index(at) != period:
            period, room = policy.period_index(at), plan.releases_per_period
        ran = min(len(policy.domains), room, left)
        room, left, number = room - ran, left - ran, number + 1
        total += release * ran
        planned.append((at, best_epsilon(total, delta)[0]))
    return BurnDown(tenant_id=tenant_id, past=past, planned=planned, cap=cap, delta=delta)


def draw(burned: BurnDown, path: Path) -> None:
    """Write the burn-down as a picture; the ending of ``path`` names the format (png, svg, pdf)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # slow to import
    from matplotlib.dates import date2num  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if burned.past:
        times, values = zip(*burned.past, strict=True)
        axes.step(times, values, where="post", color=_PAST_COLOR, linewidth=2, label="charged")
    times, values = zip(*burned.planned, strict=True)
    axes.step(times, values, where="post", color=_PLANNED_COLOR, linewidth=2, linestyle="--", label="planned")
    axes.axhline(burned.cap, color=_CAP_COLOR, linewidth=1.5, label=f"lifetime cap ε = {burned.cap:g}")
    axes.axvline(date2num(burned.planned[0][0]), color=_CAP_COLOR, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, burned.cap * 1.08)
    axes.set_ylabel(f"ε spent over the lifetime (δ = {burned.delta:g})")
    axes.set_title(f"Privacy budget of {burned.tenant_id}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.autofmt_xdate()
    figure.savefig(path, dpi=150)
