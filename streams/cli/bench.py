"""``discreet bench``: measure on your own recorded interactions what private adapters are worth."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Measure what private adapters are worth.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Name the group."""


@app.command()
def quality(
    *,
    data: Annotated[Path, typer.Option(help="Folder of recorded interactions, one <tenant>.jsonl.gz each.")],
    tenant: Annotated[str, typer.Option(help="Whose adapter is judged.")],
    holdout_tenants: Annotated[
        str,
        typer.Option(
            help="Tenants kept out of the meta start, with commas; the first is the wrong-tenant control."
        ),
    ] = "",
    profile: Annotated[str, typer.Option(help="cpu: one tenant in half an hour; gpu: everything.")] = "cpu",
    users: Annotated[str, typer.Option(help="Numbers of users, with commas; the profile's by default.")] = "",
    epsilon: Annotated[str, typer.Option(help="Budgets, with commas; the profile's by default.")] = "",
    cells: Annotated[
        str,
        typer.Option(help="Pairs users:ε with commas, most important first, instead of all pairs of both."),
    ] = "",
    seeds: Annotated[int | None, typer.Option(min=1, help="Noise seeds; the profile's by default.")] = None,
    meta_users: Annotated[
        int | None, typer.Option(min=1, help="Users behind each meta contribution.")
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="Bundled name or local directory.")
    ] = "smollm2-135m-instruct",
    releases: Annotated[
        int | None, typer.Option(min=0, help="Successive releases; the profile's by default.")
    ] = None,
    answers: Annotated[
        int | None, typer.Option(min=0, help="Held-out prompts answered in full; the profile's by default.")
    ] = None,
    ways: Annotated[
        str, typer.Option(help="Of making releases, with commas: card, meta, zero; the profile's by default.")
    ] = "",
    compared: Annotated[
        str, typer.Option(help="Pairs users:ε at which other ways than the card are run; all by default.")
    ] = "",
    plain_rates: Annotated[
        str, typer.Option(help="Of the plain LoRA without privacy, with commas; the profile's by default.")
    ] = "",
    plain_passes: Annotated[
        str, typer.Option(help="Its lengths in passes over 200 users and more; the profile's by default.")
    ] = "",
    small_family: Annotated[
        bool, typer.Option(help="Also the private family's own bound without privacy.")
    ] = True,
    cache: Annotated[
        Path | None, typer.Option(help="Where to keep the non-private adapters for the next run.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all numbers.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Where to write the plots.")] = None,
) -> None:
    """Judge private adapters on users that training never saw: base, meta start, non-private, private, controls."""
    from personalization.quality.options import PROFILES, QualityOptions
    from personalization.quality.plots import draw
    from personalization.quality.suite import run_quality
    from personalization.quality.targets import WAYS
    from personalization.training.base.directory import resolve_base
    from streams.demo.environment import model_cache

    if profile not in PROFILES:
        raise typer.BadParameter(f"profile is {profile}; allowed are {', '.join(PROFILES)}")
    wanted = tuple(way for way in ways.split(",") if way)
    if not set(wanted) <= set(WAYS):
        raise typer.BadParameter(f"ways is {ways}; allowed are {', '.join(WAYS)}, with commas between them")
    if json_path is not None and not json_path.parent.is_dir():
        raise typer.BadParameter(f"json is {json_path}, and there is no folder {json_path.parent}")
    given = {
        "users": _numbers(users, int),
        "epsilons": _numbers(epsilon, float),
        "cells": _cells(cells),
        "answers": answers,
        "ways": wanted,
        "compared": _cells(compared),
        "plain_rates": _numbers(plain_rates, float),
        "plain_passes": _numbers(plain_passes, int),
        "small_family": small_family,
        "cache": cache,
        "seeds": seeds,
        "meta_users": meta_users,
        "releases": releases,
        "threads": threads,
    }
    options = QualityOptions(
        data=data,
        tenant=tenant,
        holdout_tenants=tuple(name for name in holdout_tenants.split(",") if name),
        base_model=resolve_base(base_model, model_cache()),
        **{
            **PROFILES[profile],
            # Numbers or budgets of one's own ask for all their pairs, not for the profile's.
            **({"cells": ()} if users or epsilon else {}),
            **{name: value for name, value in given.items() if value not in (None, ())},
        },
    )

    if not set(options.compared) <= set(options.chosen):
        pairs = ",".join(f"{users}:{epsilon:g}" for users, epsilon in options.chosen)
        raise typer.BadParameter(f"compared is {compared}; allowed are the pairs that are measured: {pairs}")

    keep = partial(_keep, json_path)
    results = run_quality(options, typer.echo, keep)
    for row in results["rows"]:
        typer.echo(_told(row))
    keep(results)
    if plots is not None:
        draw(results, plots)


@app.command()
def meta(
    *,
    data: Annotated[Path, typer.Option(help="Folder of recorded interactions, one <tenant>.jsonl.gz each.")],
    tenants: Annotated[
        str, typer.Option(help="New tenants that are judged, with commas; the folder's first two by default.")
    ] = "",
    only: Annotated[
        str,
        typer.Option(help="few_shot, sampling, swap, continual, warm_start, ability; all by default."),
    ] = "",
    quick: Annotated[bool, typer.Option(help="A few users, one seed: a first look.")] = False,
    users: Annotated[int | None, typer.Option(min=10, help="Users of a release.")] = None,
    windows: Annotated[int | None, typer.Option(min=2, help="Releases of the continual rows.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Noise seeds.")] = None,
    epsilon: Annotated[float, typer.Option(help="Of a release.")] = 4.0,
    base_model: Annotated[
        str, typer.Option(help="Bundled name or local directory.")
    ] = "smollm2-135m-instruct",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write all numbers.")] = None,
) -> None:
    """Judge each mechanic of meta-learning with its switch off and on: starts, sampling, swaps, memory, gate."""
    from personalization.quality.mechanics import run_mechanics
    from personalization.quality.options import QUICK, MechanicsOptions
    from personalization.training.base.directory import resolve_base
    from streams.demo.environment import model_cache

    given = {
        "tenants": tuple(name for name in tenants.split(",") if name),
        "only": tuple(name for name in only.split(",") if name),
        "users": users,
        "windows": windows,
        "seeds": seeds,
        "threads": threads,
    }
    options = MechanicsOptions(
        data=data,
        base_model=resolve_base(base_model, model_cache()),
        epsilon=epsilon,
        **{
            **(QUICK if quick else {}),
            **{name: value for name, value in given.items() if value not in (None, ())},
        },
    )
    keep = partial(_keep, json_path)
    results = run_mechanics(options, typer.echo, keep)
    for row in results["rows"]:
        if row["must"] is not None:
            typer.echo(_told(row))


def _keep(path: Path | None, results: dict[str, Any]) -> None:
    """Write what there is so far: whoever ends the run here loses nothing that was measured."""
    if path is None:
        return
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def _numbers(text: str, kind: type[int] | type[float]) -> tuple[int | float, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers with commas between them") from None


def _cells(text: str) -> tuple[tuple[int, float], ...]:
    try:
        pairs = [part.split(":") for part in text.split(",") if part]
        return tuple((int(users), float(epsilon)) for users, epsilon in pairs)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of pairs such as 300:4,100:4") from None


def _told(row: dict[str, Any]) -> str:
    asked = "" if row["must"] is None else f"  ({row['must']}: {'yes' if row['ok'] else 'no'})"
    return f"{row['name']}: {row['value']:.3f} {row['unit']}{asked}"
