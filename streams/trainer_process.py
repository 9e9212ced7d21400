"""Build a trainer from the settings and run it as a process: the composition root of ``discreet trainer``."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from personalization.artifacts import DirectoryArtifactStore
from personalization.meta import MetaRecipe
from personalization.model_shape import read_shape
from personalization.plan import PerformanceFlags
from personalization.services.meta_start import MetaStarts, Refreshed
from personalization.services.publication import Publisher
from personalization.services.training_round import TrainingRounds
from personalization.signing import ManifestSigner, signing_seed
from personalization.storage.signals import StoredSignals
from personalization.trainer import Trainer, TrainerOptions
from personalization.training.base_models import resolve_base
from personalization.training_inputs import BaseDirectory, ChildProcessTrainer
from privacy.keyring import Keyring
from privacy.ledger import Ledger
from privacy.storage.session import transaction
from streams.bootstrap import SystemClock
from streams.database import open_current
from streams.errors import SettingsError
from streams.outbox import OutboxAdapterEvents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from personalization.trainer import TrainerObserver
    from streams.settings import MetaSettings, Settings

_log = structlog.get_logger(__name__)


@contextmanager
def trainer_of(settings: Settings, observer: TrainerObserver | None = None) -> Iterator[Trainer]:
    """Yield a trainer over the configured database, base model and artifact store.

    Raises:
        SettingsError: no master key or no base model is set.
        BaseModelError: the base model cannot be found or read.
    """
    master_key = settings.master_key_bytes()
    if not settings.trainer.base_model:
        raise SettingsError(
            "no base model is set; put its directory or name into DISCREET_TRAINER__BASE_MODEL"
        )
    base = BaseDirectory(resolve_base(settings.trainer.base_model, settings.state / "models"))
    engine = open_current(settings.database_url)
    clock, events, keyring = SystemClock(), OutboxAdapterEvents(), Keyring(master_key)
    artifacts = DirectoryArtifactStore(settings.artifact_root)
    flags = PerformanceFlags(device=settings.trainer.device, threads=settings.trainer.threads)
    publisher = Publisher(artifacts, ManifestSigner(signing_seed(master_key)), events)
    shape = read_shape(base.directory())
    meta = MetaStarts(
        artifacts=artifacts,
        publisher=publisher,
        events=events,
        base=base.fingerprint(),
        shape=shape,
        recipe=recipe_of(settings.meta),
    )
    try:
        yield Trainer(
            engine=engine,
            clock=clock,
            rounds=TrainingRounds(
                engine=engine,
                clock=clock,
                ledger=Ledger(clock),
                keyring=keyring,
                signals=StoredSignals(keyring),
                artifacts=artifacts,
                publisher=publisher,
                events=events,
                base=base,
                shape=shape,
                flags=flags,
                copies=meta.copies,
            ),
            trainer=ChildProcessTrainer(),
            base=base,
            options=TrainerOptions(
                owner=f"{socket.gethostname()[:64]}:{os.getpid()}",
                lease=timedelta(seconds=settings.trainer.lease_seconds),
                poll=timedelta(seconds=settings.trainer.poll_seconds),
                upkeep_every=timedelta(seconds=settings.meta.refresh_seconds),
                flags=flags,
                max_public_text_change=settings.trainer.max_public_text_change,
            ),
            observer=observer,
            upkeep=lambda: refresh_meta_starts(engine, meta, clock),
        )
    finally:
        engine.dispose()


def recipe_of(settings: MetaSettings) -> MetaRecipe:
    """Return the public numbers of the meta starts.

    Raises:
        SettingsError: they do not fit together.
    """
    try:
        return MetaRecipe(**settings.model_dump(exclude={"refresh_seconds"}))
    except ValueError as error:
        raise SettingsError(f"the settings DISCREET_META__… do not fit together: {error}") from None


def refresh_meta_starts(engine: Engine, meta: MetaStarts, clock: SystemClock) -> Refreshed:
    """Bring the meta starts up to date in one transaction and log what changed."""
    with transaction(engine) as session:
        done = meta.refresh(session, now=clock.now())
    if done.published or done.withdrawn or done.served_to:
        _log.info(
            "meta_starts_changed", published=done.published, withdrawn=done.withdrawn, served=done.served_to
        )
    return done


@contextmanager
def meta_starts_of(settings: Settings) -> Iterator[tuple[Engine, MetaStarts]]:
    """Yield the meta starts of the configured base model, for the command line.

    Raises:
        SettingsError: no master key or no base model is set.
        BaseModelError: the base model cannot be found or read.
    """
    master_key = settings.master_key_bytes()
    if not settings.trainer.base_model:
        raise SettingsError(
            "no base model is set; put its directory or name into DISCREET_TRAINER__BASE_MODEL"
        )
    base = BaseDirectory(resolve_base(settings.trainer.base_model, settings.state / "models"))
    engine, events = open_current(settings.database_url), OutboxAdapterEvents()
    artifacts = DirectoryArtifactStore(settings.artifact_root)
    publisher = Publisher(artifacts, ManifestSigner(signing_seed(master_key)), events)
    try:
        yield (
            engine,
            MetaStarts(
                artifacts=artifacts,
                publisher=publisher,
                events=events,
                base=base.fingerprint(),
                shape=read_shape(base.directory()),
                recipe=recipe_of(settings.meta),
            ),
        )
    finally:
        engine.dispose()


def run_until_stopped(trainer: Trainer) -> None:
    """Run until SIGINT or SIGTERM; a running job is finished, or put down after a grace period."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: trainer.request_stop())
    trainer.run()
