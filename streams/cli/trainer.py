"""``discreet trainer``: train due rounds until stopped."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def command(
    *,
    once: Annotated[bool, typer.Option("--once", help="Take what is due now, then leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: write a summary as JSON.")] = False,
) -> None:
    """Take due rounds, train them under user-level differential privacy, and publish adapters, until stopped.

    Settings: DISCREET_DATABASE__URL, DISCREET_MASTER_KEY, DISCREET_TRAINER__BASE_MODEL and others of
    DISCREET_TRAINER__….
    """
    from streams.processes.trainer import probe_of, run_until_stopped, trainer_of
    from streams.settings import load_settings
    from streams.telemetry import logs
    from streams.telemetry.trainer_log import TrainerLog
    from streams.telemetry.trainer_metrics import TrainerMetrics

    settings = load_settings()
    logs.configure(settings.log)
    metrics = TrainerMetrics(TrainerLog(), stall_seconds=settings.trainer.stall_seconds)
    with trainer_of(settings, metrics) as trainer, probe_of(settings, metrics):
        if not once:
            run_until_stopped(trainer)
            return
        taken = 0
        while count := trainer.run_once():
            taken += count
    typer.echo(json.dumps({"rounds": taken}) if as_json else f"{taken} rounds were taken.")
