"""What a quality run has to reach, as rows: shares of the plain LoRA's gain, what answers look like, what is kept.

Each row is ``name, value, unit, must, ok``; ``must`` and ``ok`` are None where nothing is asked for.
"""

from __future__ import annotations

import math
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from personalization.quality.intervals import Interval

Row = dict[str, Any]
Run = dict[str, Any]
PUBLIC_TEXT_CHANGE = 0.01
ABILITY_CHANGE = -0.01
DEGENERATE_MORE = 0.02
SAVED_USERS = 1.5
SAVED_AT = (100, 4.0)  # users and ε
SLOWER = 2.0  # than a round without a card
NOISE_OF_ONE_SEED = 0.03  # nats; what two runs of one setting differ by where only one seed was run


@dataclass(frozen=True)
class Target:
    """What is asked of a release of so many users at one ε."""

    gain: float
    match: float
    in_set: float


TARGETS = {
    (1000, 2.0): Target(0.65, 0.9, 0.95),
    (300, 4.0): Target(0.65, 0.9, 0.95),
    (300, 1.0): Target(0.50, 0.8, 0.90),
    (100, 4.0): Target(0.50, 0.8, 0.85),
    (50, 2.0): Target(0.35, 0.6, 0.70),
}
# Tenants whose answers are mostly form.
TENANT_GAINS = {("golists", 300, 4.0): 0.75}
# How a release is made, the newest way first: the first that was run is judged.
WAYS = ("card", "meta", "zero")


def machine() -> str:
    """Return one line about where the numbers were measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores, {platform.machine()}, {device}, torch {torch.__version__}"


def rows_of(results: dict[str, Any]) -> list[Row]:
    """Return one row for each figure.

    Args:
        results: what ``run_quality`` found: ``settings``, ``conventions``, ``runs`` and ``releases``.
    """
    runs: list[Run] = results["runs"]
    rows = list(_arms(runs))
    rows += _cells(results)
    rows += _monotone(runs)
    rows += _kept(runs)
    rows += _saved(runs)
    rows += _controls(runs)
    rows += _forgetting(results["releases"])
    return rows


def released(runs: Sequence[Run]) -> list[Run]:
    """Return the private runs of the newest way that was run."""
    private = [run for run in runs if run["arm"] == "private"]
    way = next((way for way in WAYS if any(run["start"] == way for run in private)), None)
    return [run for run in private if run["start"] == way]


def _arms(runs: Sequence[Run]) -> Iterator[Row]:
    for run in runs:
        if run["arm"] in {"private", "declined"}:
            continue
        what = run["arm"] + (f", {run['users']} users" if "users" in run else "")
        if "nll" in run:
            yield _row(f"{what}: held-out loss", run["nll"]["value"], "nats per token")
        if "recovery" in run:
            yield _row(f"{what}: share of the plain LoRA's gain", run["recovery"]["value"], "share")
        if "agreement" in run:
            yield _row(f"{what}: match", run["agreement"]["match"]["value"], "share")
            yield _row(f"{what}: in set", run["agreement"]["in_set"]["value"], "share")


def _cells(results: dict[str, Any]) -> Iterator[Row]:
    runs, tenant = results["runs"], results["settings"]["tenant"]
    plain = {run["users"]: run for run in runs if run["arm"] == "plain"}
    judged = {id(run) for run in released(runs)}
    for (users, epsilon, start), found in _grouped(runs).items():
        target = TARGETS.get((users, epsilon)) if id(found[0]) in judged else None
        what = f"{users} users, ε = {epsilon:g}, {_way(start)}, {len(found)} noise seeds"
        shares = [run["recovery"]["value"] for run in found]
        asked = None if target is None else TENANT_GAINS.get((tenant, users, epsilon), target.gain)
        yield _row(f"{what}: share of the plain LoRA's gain", fmean(shares), "share", _at_least(asked))
        yield _row(f"{what}: spread of that share", max(shares) - min(shares), "share")
        yield _row(f"{what}: held-out loss", fmean(run["nll"]["value"] for run in found), "nats per token")
        for place in found[0]["by_place"]:
            value = fmean(run["by_place"][place] for run in found)
            yield _row(f"{what}: loss of tokens {place}", value, "nats per token")
        answered = [run["agreement"] for run in found if "agreement" in run]
        if not answered:
            continue
        match = fmean(one["match"]["value"] for one in answered)
        best = plain[users]["agreement"]["match"]["value"] if "agreement" in plain.get(users, {}) else 0.0
        yield _row(f"{what}: match", match, "share")
        if best > 0:
            limit = None if target is None else target.match
            yield _row(f"{what}: match over the plain LoRA's", match / best, "ratio", _at_least(limit))
        in_set = fmean(one["in_set"]["value"] for one in answered)
        limit = None if target is None or not results["conventions"]["openings"] else target.in_set
        yield _row(f"{what}: in set", in_set, "share", _at_least(limit))
        for name in ("closing", "length", "casing"):
            yield _row(f"{what}: {name} agrees", fmean(one[name]["value"] for one in answered), "share")
        drawn = [run["drawn_openings_apart"] for run in found if "drawn_openings_apart" in run]
        if drawn:
            yield _row(
                f"{what}: openings of drawn answers apart from users'", fmean(drawn), "total variation"
            )


def _monotone(runs: Sequence[Run]) -> Iterator[Row]:
    """Yield how much worse more users or more ε are at worst, against what noise seeds differ by."""
    cells = {key[:2]: found for key, found in _grouped(released(runs)).items()}
    worst: tuple[float, float, str] | None = None
    for (users, epsilon), less in cells.items():
        for (more_users, more_epsilon), more in cells.items():
            if (more_users, more_epsilon) == (users, epsilon) or more_users < users or more_epsilon < epsilon:
                continue
            before, after = ([run["nll"]["value"] for run in one] for one in (less, more))
            noise = max((max(one) - min(one) for one in (before, after) if len(one) > 1), default=0.0)
            lost = fmean(after) - fmean(before)
            pair = f"{users} users, ε = {epsilon:g} against {more_users} users, ε = {more_epsilon:g}"
            if worst is None or lost > worst[0]:
                worst = lost, max(noise, NOISE_OF_ONE_SEED), pair
    if worst is not None:
        lost, noise, pair = worst
        yield _row(f"more users or ε: loss more, at worst ({pair})", lost, "nats per token", ("<=", noise))


def _kept(runs: Sequence[Run]) -> Iterator[Row]:
    """Yield what releases must leave alone: public text, abilities, the share of degenerate answers, time."""
    found = released(runs)
    if not found:
        return
    worst = max(run["public_text_change"] for run in found)
    yield _row("loss on public text, worst release", worst, "share", ("<=", PUBLIC_TEXT_CHANGE))
    for name, what in (("right", "questions answered right"), ("kept", "instructions kept")):
        changes = [run["abilities"][f"{name}_change"] for run in found if "abilities" in run]
        if changes:
            low = min(changes, key=lambda one: one["value"])
            row = _row(f"{what}, against the base, worst release", low["value"], "share")
            # Within its interval: no fall can be told from none.
            ok = low["value"] >= ABILITY_CHANGE or low["high"] >= 0.0
            yield {**row, "must": f">= {ABILITY_CHANGE:g} or its interval reaches 0", "ok": ok}
    base = next((run for run in runs if run["arm"] == "base"), None)
    if base is not None and "degenerate" in base:
        shares = [run["degenerate"]["any"] for run in found if "degenerate" in run]
        # Of the base decoded alike, where that was asked: the penalty is no merit of a release.
        alike: dict[str, float] = base.get("degenerate_with_penalty") or base["degenerate"]
        more = max(shares) - alike["any"]
        yield _row(
            "degenerate answers, more than the base's, worst release", more, "share", ("<=", DEGENERATE_MORE)
        )
        limit = max(run["degenerate"]["limit"] for run in found if "degenerate" in run)
        yield _row("answers that end at the token limit, worst release", limit, "share")
    by_way = {way: [run for run in runs if run.get("start") == way and run["users"] == 300] for way in WAYS}
    if by_way["card"] and by_way["zero"]:
        slower = fmean(run["train_seconds"] for run in by_way["card"]) / fmean(
            run["train_seconds"] for run in by_way["zero"]
        )
        yield _row("time of training of 300 users, with a card over without", slower, "ratio", ("<=", SLOWER))


def _saved(runs: Sequence[Run]) -> Iterator[Row]:
    """Yield how many times the users a release from zero needs for what each other way reaches."""
    at, epsilon = SAVED_AT
    groups = _grouped(runs)
    for measure, unit in (("loss", "nll"), ("in-set share", "in_set")):
        curves: dict[str, dict[int, float]] = defaultdict(dict)
        for (users, budget, start), found in groups.items():
            values = [_value(run, unit) for run in found]
            if budget == epsilon and all(value is not None for value in values):
                curves[start][users] = fmean(value for value in values if value is not None)
        for start in ("meta", "card"):
            if at in curves[start] and len(curves["zero"]) > 1:
                sign = -1.0 if unit == "nll" else 1.0
                zero = {users: sign * value for users, value in curves["zero"].items()}
                factor = users_needed(zero, sign * curves[start][at]) / at
                must = (">=", SAVED_USERS) if start == "card" else None
                name = f"users from zero for the {measure} of {at} users, ε = {epsilon:g}, {_way(start)}"
                yield _row(name, factor, "ratio", must)


def users_needed(curve: dict[int, float], wanted: float) -> float:
    """Return how many users a rising curve needs for a value, between its points on the logarithm of users.

    Args:
        curve: at least two points; more is better.
        wanted: the value.

    Returns:
        The smallest number for it; beyond the last point that point's own number, so a ratio is never flattered.
    """
    points = sorted(curve.items())
    if points[0][1] >= wanted:
        return float(points[0][0])
    for (fewer, low), (more, high) in pairwise(points):
        if low < wanted <= high:
            share = (wanted - low) / (high - low)
            return math.exp(math.log(fewer) + share * (math.log(more) - math.log(fewer)))
    return float(points[-1][0])


def _value(run: Run, unit: str) -> float | None:
    if unit == "nll":
        return float(run["nll"]["value"])
    return float(run["agreement"]["in_set"]["value"]) if "agreement" in run else None


def _controls(runs: Sequence[Run]) -> Iterator[Row]:
    private = released(runs)
    if not private:
        return
    own = Interval(**private[-1]["nll"])
    for run in runs:
        if run["arm"] in {"wrong_tenant", "noise_only"}:
            apart = Interval(**run["nll"]).low - own.high
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


def _grouped(runs: Sequence[Run]) -> dict[tuple[int, float, str], list[Run]]:
    groups: dict[tuple[int, float, str], list[Run]] = defaultdict(list)
    for run in runs:
        if run["arm"] == "private":
            groups[run["users"], run["epsilon"], run["start"]].append(run)
    return dict(sorted(groups.items()))


def _way(start: str) -> str:
    return "from a card" if start == "card" else f"from {start}"


def _at_least(limit: float | None) -> tuple[str, float] | None:
    return None if limit is None else (">=", limit)


def _row(name: str, value: float, unit: str, must: tuple[str, float] | None = None) -> Row:
    if must is None:
        return {"name": name, "value": value, "unit": unit, "must": None, "ok": None}
    relation, limit = must
    ok = value >= limit if relation == ">=" else value <= limit
    return {"name": name, "value": value, "unit": unit, "must": f"{relation} {limit:g}", "ok": ok}
