"""``discreet drift``: what charged readings say about whether a line's users changed, with a picture and its cost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlmodel import Session

    from personalization.drift.tables import DriftReadingRow
    from privacy.policy.values import TenantPrivacyPolicy

app = typer.Typer(help="Show whether what a tenant's users ask has changed.", no_args_is_help=True)
_BARS = " ▁▂▃▄▅▆▇█"
_NOTHING = (
    "The tenant's policy has no readings of drift taken. `discreet tenants set TENANT drift.share=0.1 --reason …` has "
    "them taken, and paid for with that share of either budget."
)


@app.callback()
def root() -> None:
    """Keep ``show`` a verb of its own, as other commands have them."""


@app.command()
def show(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose line.")],
    *,
    domain: Annotated[str, typer.Option(help="Which line.")] = "default",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many readings, newest first.")] = 26,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON instead of a table and a picture.")
    ] = False,
) -> None:
    """Show what was released, the statistic and its threshold, what followed, and what it cost."""
    from personalization.drift.rows import list_readings
    from privacy.policy import versions as policies
    from streams.settings import load_settings
    from streams.storage.schema import current_session

    with current_session(load_settings().database_url) as session:
        version = policies.tenant(session, tenant).policy
        policy = None if version is None else version.policy
        rows = list(reversed(list_readings(session, tenant, domain, limit=limit)))
        facts = {
            "tenant": tenant,
            "domain": domain,
            "policy": None if policy is None else policy.drift.model_dump(mode="json"),
            "cost": _cost(session, tenant, policy, datetime.now(UTC)),
            "families": _families(),
            "readings": [_facts(row) for row in rows],
        }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    _print(facts)


def _families() -> list[dict[str, Any]]:
    from personalization.drift.features import FAMILIES

    return [
        {"name": one.name, "side": one.side.value, "what": one.what, "bins": list(one.bins)}
        for one in FAMILIES
    ]


def _facts(row: DriftReadingRow) -> dict[str, Any]:
    from personalization.drift.detection import shares_of
    from personalization.drift.features import FAMILIES
    from personalization.drift.rows import histogram_of, judgement_of
    from personalization.drift.values import ReadingState

    # What is drawn and not yet told stays where it is.
    told = row.state == ReadingState.DONE.value
    histogram = histogram_of(row) if told else None
    judgement = judgement_of(row) if told else None
    return {
        "scheduled_for": row.scheduled_for.isoformat(),
        "state": row.state,
        "outcome": row.outcome,
        "followed": row.followed,
        "reservation_id": row.reservation_id,
        "noise_multiplier": None if histogram is None else histogram.noise_multiplier,
        "judgement": None if judgement is None else judgement.to_document(),
        "shares": None
        if histogram is None
        else {one.name: list(shares_of(histogram, number)) for number, one in enumerate(FAMILIES)},
    }


def _cost(
    session: Session, tenant: str, policy: TenantPrivacyPolicy | None, now: datetime
) -> dict[str, Any] | None:
    """Return what readings cost and what they can tell; None where the policy has none taken."""
    from personalization.drift.detection import noticed_share
    from privacy.accounting.calibration import drift_reading
    from privacy.accounting.composition import best_epsilon, curve_of
    from privacy.ledger.spending import readings_charged

    reading = None if policy is None else drift_reading(policy)
    if policy is None or reading is None:
        return None
    charged, _ = readings_charged(session, tenant, policy.period_index(now))
    curve, delta = curve_of(reading), policy.lifetime_delta
    schedule = policy.drift_schedule
    index = schedule.due_index(now)
    return {
        "standard_deviation": reading.standard_deviation,
        "epsilon_of_one": best_epsilon(curve, delta)[0],
        "epsilon_of_all_planned": best_epsilon(curve * policy.drift.planned_readings, delta)[0],
        "delta": delta,
        "charged": charged,
        "planned": policy.drift.planned_readings,
        "noticed_share": noticed_share(reading.noise_multiplier, policy.declared_users, policy.drift.level),
        "next_at": schedule.due_at(1 if index is None else max(1, index + 1)).isoformat(),
    }


def _print(facts: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    cost, readings = facts["cost"], facts["readings"]
    if cost is None and not readings:
        console.print(_NOTHING)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("slot", "users", "clearest", "statistic", "of", "chance", "since", "outcome"):
        table.add_column(column, no_wrap=True)
    for one in readings:
        said = one["judgement"]
        ended = one["followed"] or one["outcome"] or one["state"]
        if said is None or not said["enough"]:
            users = "" if said is None else str(said["users"])
            why = "" if said is None else "too little to tell"
            table.add_row(one["scheduled_for"][:16], users, why, "", "", "", "", ended)
            continue
        table.add_row(
            one["scheduled_for"][:16],
            str(said["users"]),
            said["family"],
            f"{said['statistic']:.1f}",
            f"{said['threshold']:.1f}",
            f"{said['chance']:.2g}",
            (said["since"] or "")[:10],
            f"DRIFT: {ended}" if said["drifted"] else ended,
        )
    console.print(table)
    _print_picture(console, facts)
    if cost is not None:
        console.print(
            f"One reading costs epsilon {cost['epsilon_of_one']:.3g}, all {cost['planned']} that are planned "
            f"{cost['epsilon_of_all_planned']:.3g}, at delta {cost['delta']:g}; {cost['charged']} are charged. Two "
            f"readings tell apart what {min(1.0, cost['noticed_share']):.0%} of the declared users do otherwise; more "
            f"readings tell less. The next is due {cost['next_at'][:16]}."
        )


def _print_picture(console: Any, facts: dict[str, Any]) -> None:
    """Print the shares of each family's bins over the released readings, oldest to newest, as bars of one letter."""
    told = [one for one in facts["readings"] if one["shares"] is not None]
    if not told:
        return
    drifted = [_is_alarm(one) for one in told]
    for family in facts["families"]:
        console.print(f"\n{family['what']} ({family['side']})")
        for number, name in enumerate(family["bins"]):
            shares = [one["shares"][family["name"]][number] for one in told]
            console.print(f"  {name:<14}{_bars(shares)}  {shares[-1]:.0%}")
    if any(drifted):
        console.print(f"\n  {'alarms':<14}{''.join('^' if one else ' ' for one in drifted)}")


def _is_alarm(reading: dict[str, Any]) -> bool:
    return bool(reading["judgement"] and reading["judgement"]["drifted"])


def _bars(shares: Sequence[float]) -> str:
    return "".join(_BARS[min(len(_BARS) - 1, round(share * (len(_BARS) - 1)))] for share in shares)
