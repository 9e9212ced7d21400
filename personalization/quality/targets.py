"""What a quality run has to reach, as rows: recoveries, the meta start's gain, public text, and the controls."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch

from personalization.quality.intervals import Interval

Row = dict[str, Any]
META_GAIN = 0.03
PUBLIC_TEXT_CHANGE = 0.01
# Users (at least), largest ε, share of the non-private gain that a private release keeps.
RECOVERIES = (
    (1000, 2.0, 0.80),
    (250, 1.0, 0.45),
    (250, 2.0, 0.65),
    (250, 4.0, 0.75),
    (75, 2.0, 0.50),
    (75, 4.0, 0.65),
)


def machine() -> str:
    """Return one line about where the numbers were measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores, {platform.machine()}, {device}, torch {torch.__version__}"


def rows_of(results: dict[str, Any]) -> list[Row]:
    """Return one row for each figure; ``must`` and ``ok`` are None where nothing is asked for.

    Args:
        results: what ``run_quality`` found: its ``runs`` and ``releases``.
    """
    runs: list[dict[str, Any]] = results["runs"]
    rows = [
        _row(f"{run['arm']}: held-out loss", run["nll"]["value"], "nats per token")
        for run in runs
        if run["arm"] in {"base", "meta", "wrong_tenant", "noise_only"}
    ]
    rows += [
        _row(f"non-private, {run['users']} users: held-out loss", run["nll"]["value"], "nats per token")
        for run in runs
        if run["arm"] == "open"
    ]
    rows += _recoveries(runs)
    rows += [
        _row("meta start alone: gain over the base", run["gain"], "share", (">=", META_GAIN))
        for run in runs
        if run["arm"] == "meta"
    ]
    private = [run for run in runs if run["arm"] == "private"]
    if private:
        worst = max(run["public_text_change"] for run in private)
        rows.append(
            _row("loss on public text, worst private release", worst, "share", ("<=", PUBLIC_TEXT_CHANGE))
        )
    rows += _controls(runs, private)
    rows += _forgetting(results["releases"])
    return rows


def needed(users: int, epsilon: float) -> float | None:
    """Return the recovery that is asked for at so many users and this ε; None where nothing is."""
    for least, largest, share in RECOVERIES:
        if users >= least and epsilon <= largest:
            return share
    return None


def _recoveries(runs: list[dict[str, Any]]) -> Iterator[Row]:
    groups: dict[tuple[int, float, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if run["arm"] == "private":
            groups[run["users"], run["epsilon"], run["start"]].append(run)
    for (users, epsilon, start), found in sorted(groups.items()):
        shares = [run["recovery"]["value"] for run in found]
        what = f"{users} users, ε = {epsilon:g}, from {start}, {len(found)} noise seeds"
        asked = needed(users, epsilon)
        yield _row(
            f"{what}: share of the non-private gain",
            fmean(shares),
            "share",
            None if asked is None else (">=", asked),
        )
        yield _row(f"{what}: spread of that share", max(shares) - min(shares), "share")
        yield _row(f"{what}: held-out loss", fmean(run["nll"]["value"] for run in found), "nats per token")


def _controls(runs: list[dict[str, Any]], private: list[dict[str, Any]]) -> Iterator[Row]:
    if not private:
        return
    last = private[-1]
    own = Interval(**last["nll"])
    for run in runs:
        if run["arm"] in {"wrong_tenant", "noise_only"}:
            other = Interval(**run["nll"])
            apart = other.low - own.high
            yield _row(
                f"{run['arm']}: gap between its interval and the tenant's own", apart, "nats", (">=", 0.0)
            )


def _forgetting(releases: list[dict[str, Any]]) -> Iterator[Row]:
    if not releases:
        return
    last = releases[-1]
    what = f"after {len(releases)} releases"
    yield _row(
        f"{what}: loss on public text", last["public_text_change"], "share", ("<=", PUBLIC_TEXT_CHANGE)
    )
    yield _row(
        f"{what}: loss on earlier windows against their own adapters, worst",
        max(last["earlier_windows_change"]),
        "share",
        ("<=", PUBLIC_TEXT_CHANGE),
    )


def _row(name: str, value: float, unit: str, must: tuple[str, float] | None = None) -> Row:
    if must is None:
        return {"name": name, "value": value, "unit": unit, "must": None, "ok": None}
    relation, limit = must
    ok = value >= limit if relation == ">=" else value <= limit
    return {"name": name, "value": value, "unit": unit, "must": f"{relation} {limit:g}", "ok": ok}
