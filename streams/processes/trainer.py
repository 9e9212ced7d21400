"""Wire a trainer, and what makes starts, from the settings; run the trainer until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from personalization.artifacts.opening import open_store
from personalization.canaries.values import AuditDepth, AuditRequest
from personalization.choices.protocol import PromptChoices, Voting
from personalization.choices.tick import CHORE, ChoiceTick
from personalization.drift.protocol import DriftReadings
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import PerformanceFlags
from personalization.registry.comparisons import Comparisons
from personalization.registry.publishing import Publisher
from personalization.registry.sweeping import ArtifactsChore, Tidied
from personalization.releases.observer import TrainerObserver
from personalization.releases.protocol import TrainingRounds
from personalization.releases.trainer import Trainer, TrainerOptions
from personalization.rounds.seed_keys import forget_closed_rounds
from personalization.signals.snapshot import StoredSignals
from personalization.starts.generations import MetaStarts, Refreshed
from personalization.starts.public_starts import PublicStarts
from personalization.starts.recipe import MetaRecipe
from personalization.starts.shop import Shop
from personalization.starts.tenant_level import TenantLevelPolicy, TenantLevelStarts
from personalization.suites.values import SuiteDepth
from personalization.suites.verdict import SuiteTerms
from personalization.training.base.device import resolved
from personalization.training.base.directory import BaseDirectory, resolve_base
from personalization.training.child.parent import ChildProcessTrainer, gpu_name, run_public_job, run_vote
from privacy.clock import SystemClock
from privacy.ledger import Ledger
from privacy.storage.session import transaction
from streams.anchor.opening import open_anchor
from streams.contracts.topics import CONSENT, ERASURES, INTERACTIONS
from streams.errors import SettingsError
from streams.http.probing import ProbeServer
from streams.outbox.events import OutboxAdapterEvents
from streams.processes.drift import DriftReader
from streams.processes.keys import adapter_signer, open_keyring, trusted_keys
from streams.processes.rollouts import ReactionReader, RolloutMover
from streams.storage.consumed_offsets import positions_of
from streams.storage.schema import open_current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from privacy.anchor.port import Anchor
    from privacy.keys.keyring import Keyring
    from streams.anchor.guard import AnchorGuard
    from streams.settings import MetaSettings, Settings
    from streams.telemetry.trainer_metrics import TrainerMetrics

_log = structlog.get_logger(__name__)
LEARNED_FROM: Final = frozenset({INTERACTIONS.name, CONSENT.name, ERASURES.name})
"""Topics whose events decide what a round reads."""


@contextmanager
def trainer_of(settings: Settings, observer: TrainerObserver | None = None) -> Iterator[Trainer]:
    """Yield a trainer over the configured database, base model and artifact store.

    Raises:
        SettingsError: no master key, no key store or no base model is set.
        BaseModelError: the base model cannot be found or read.
        RewoundError: the database lies below its anchor.
        AnchorUnavailableError: the anchor cannot be read.
    """
    # A repeat on other hardware is another sample, so what "auto" means is settled here, once for the process.
    flags, hardware = resolved(flags_of(settings), gpu_name)
    with start_tools(settings) as tools, ExitStack() as stack:
        keyring = tools.keyring
        keyring.store.check()
        tools.anchor.require_newest()
        comparisons = Comparisons(
            tools.shop.engine,
            ledger=Ledger(tools.shop.clock.now),
            keyring=keyring,
            ceilings=settings.ceilings.ceilings(),
            anchor=tools.anchor,
        )
        pause = settings.scheduler.tick_seconds
        stack.enter_context(RolloutMover(tools.shop, seconds=pause, observer=observer))
        stack.enter_context(
            ReactionReader(comparisons, tools.shop.clock.now, seconds=pause, observer=observer)
        )
        stack.enter_context(_drift_reader(settings, tools, observer))
        choices = _choices(settings, tools, flags, observer)
        trainer = Trainer(
            tools.shop,
            rounds=TrainingRounds(
                tools.shop,
                ledger=Ledger(tools.shop.clock.now),
                keyring=keyring,
                signals=StoredSignals(keyring),
                flags=flags,
                hardware=hardware,
                copies=tools.meta.copies,
                ceilings=settings.ceilings.ceilings(),
                least_suites=SuiteDepth(settings.trainer.suites),
                anchor=tools.anchor,
            ),
            trainer=ChildProcessTrainer(),
            options=TrainerOptions(
                owner=f"{socket.gethostname()[:64]}:{os.getpid()}",
                lease=timedelta(seconds=settings.trainer.lease_seconds),
                poll=timedelta(seconds=settings.trainer.poll_seconds),
                upkeep_every=timedelta(seconds=settings.meta.refresh_seconds),
                flags=flags,
                max_public_text_change=settings.trainer.max_public_text_change,
                audit=_audit(settings),
            ),
            observer=observer,
            upkeep=(
                *upkeep_of(tools),
                lambda: forget_closed_rounds(tools.shop.engine, keyring),
                comparisons.forget_closed,
            ),
            # Not in a thread beside jobs: two children would share the memory of one device.
            between=lambda: choices.run(stop=lambda: trainer.stopping),
            between_name=CHORE,
        )
        yield trainer


def _choices(
    settings: Settings, tools: StartTools, flags: PerformanceFlags, observer: TrainerObserver | None
) -> ChoiceTick:
    shop = tools.shop
    choices = PromptChoices(
        shop.engine,
        shop.clock.now,
        ledger=Ledger(shop.clock.now),
        signals=StoredSignals(tools.keyring),
        voting=Voting(run=run_vote, base=shop.base, flags=flags),
        signer=adapter_signer(settings),
        keys=trusted_keys(settings),
        events=shop.events,
        ceilings=settings.ceilings.ceilings(),
        anchor=tools.anchor,
    )
    hears = observer or TrainerObserver()
    return ChoiceTick(
        shop.engine,
        shop.clock.now,
        choices,
        heard=hears.turned,
        failed=hears.chore_failed,
        ended=hears.choice_ended,
    )


def _drift_reader(settings: Settings, tools: StartTools, observer: TrainerObserver | None) -> DriftReader:
    shop = tools.shop
    readings = DriftReadings(
        shop.engine,
        shop.clock.now,
        ledger=Ledger(shop.clock.now),
        signals=StoredSignals(tools.keyring),
        events=shop.events,
        ceilings=settings.ceilings.ceilings(),
        anchor=tools.anchor,
    )
    return DriftReader(
        shop.engine, shop.clock.now, readings, seconds=settings.scheduler.tick_seconds, observer=observer
    )


@contextmanager
def probe_of(settings: Settings, metrics: TrainerMetrics) -> Iterator[int | None]:
    """Answer for liveness and metrics where the settings name a port, and yield it."""
    if settings.trainer.http_port is None:
        yield None
        return
    token = settings.http.token
    server = ProbeServer(
        host=settings.http.host,
        port=settings.trainer.http_port,
        probe=metrics,
        exposition=metrics.exposition,
        token=None if token is None else token.get_secret_value(),
    )
    with server:
        _log.info("http_listening", port=server.port)
        yield server.port


def recipe_of(settings: MetaSettings) -> MetaRecipe:
    """Return the public numbers of the meta starts.

    Raises:
        SettingsError: they do not fit together.
    """
    try:
        names = {entry.name for entry in fields(MetaRecipe)}
        return MetaRecipe(**settings.model_dump(include=names))
    except ValueError as error:
        raise SettingsError(f"the settings DISCREET_META__… do not fit together: {error}") from None


def tenant_level_of(
    settings: MetaSettings,
    shop: Shop,
    *,
    meta: MetaStarts,
    public: PublicStarts,
    anchor: Anchor | None = None,
) -> TenantLevelStarts | None:
    """Return the mechanism that protects each tenant as a whole, if the settings ask for it.

    Raises:
        SettingsError: they do not fit together.
    """
    if settings.tenant_epsilon is None:
        return None
    try:
        policy = TenantLevelPolicy(
            declared_tenants=settings.declared_tenants,
            epsilon=settings.tenant_epsilon,
            delta=settings.tenant_delta,
            planned_generations=settings.planned_generations,
            every_seconds=settings.generation_seconds,
        )
    except ValueError as error:
        raise SettingsError(f"the settings DISCREET_META__… do not fit together: {error}") from None
    return TenantLevelStarts(
        shop,
        ledger=Ledger(shop.clock.now),
        meta=meta,
        plan=public.default_plan(),
        template=public.template,
        policy=policy,
        recipe=recipe_of(settings),
        anchor=anchor,
    )


def upkeep_of(tools: StartTools) -> tuple[Callable[[], object], ...]:
    """Return what a trainer does between jobs: meta starts first, then the files of what is withdrawn by now."""
    chore = ArtifactsChore(tools.shop.engine, tools.shop.artifacts)

    def tidy() -> Tidied:
        done = chore.run(now=tools.shop.clock.now())
        if done.withdrawn or done.orphans:
            _log.info("artifacts_removed", withdrawn=done.withdrawn, orphans=done.orphans)
        return done

    return lambda: refresh_meta_starts(tools), tidy


def refresh_meta_starts(tools: StartTools) -> Refreshed:
    """Bring the meta starts up to date and log what changed."""
    clock = tools.shop.clock
    made = None if tools.tenant_level is None else tools.tenant_level.refresh(now=clock.now())
    with transaction(tools.shop.engine) as session:
        done = tools.meta.refresh(session, now=clock.now())
    if made is not None:
        done = replace(done, published=(made, *done.published))
    if done.published or done.withdrawn or done.served_to:
        _log.info(
            "meta_starts_changed", published=done.published, withdrawn=done.withdrawn, served=done.served_to
        )
    return done


@dataclass(frozen=True)
class StartTools:
    """What makes starts, and what it is made of, for trainers and the command line."""

    shop: Shop
    meta: MetaStarts
    public: PublicStarts
    keyring: Keyring
    anchor: AnchorGuard
    tenant_level: TenantLevelStarts | None = None


@contextmanager
def start_tools(settings: Settings) -> Iterator[StartTools]:
    """Yield the meta starts and public starts over the configured database, base model and artifact store.

    Raises:
        SettingsError: no base model, master key or key store is set, the signing key cannot be read, or the settings of
            meta starts do not fit together.
        BaseModelError: the base model cannot be found or read.
    """
    shop = _shop(settings)
    with ExitStack() as stack:
        stack.callback(shop.engine.dispose)
        keyring = stack.enter_context(closing(open_keyring(settings)))
        anchor = stack.enter_context(closing(open_anchor(settings, shop.engine, keyring, shop.clock.now)))
        yield _tools(settings, shop, keyring, anchor)


def _shop(settings: Settings) -> Shop:
    if not settings.trainer.base_model:
        raise SettingsError(
            "no base model is set; put its directory or name into DISCREET_TRAINER__BASE_MODEL"
        )
    base = BaseDirectory(resolve_base(settings.trainer.base_model, settings.state / "models"))
    signer = adapter_signer(settings)
    artifacts, events = (
        open_store(settings.artifact_address, settings.artifact_copies),
        OutboxAdapterEvents(signer),
    )
    return Shop(
        engine=open_current(settings.database_url),
        clock=SystemClock(),
        base=base,
        shape=read_shape(base.directory()),
        artifacts=artifacts,
        events=events,
        publisher=Publisher(artifacts, signer, events),
        positions=lambda session: positions_of(session, LEARNED_FROM),
    )


def flags_of(settings: Settings) -> PerformanceFlags:
    """Return how a child of this process computes."""
    return PerformanceFlags(
        device=settings.trainer.device,
        threads=settings.trainer.threads,
        half_products=settings.trainer.half_products,
    )


def _audit(settings: Settings) -> AuditRequest | None:
    if settings.trainer.audit_depth == "off":
        return None
    return AuditRequest(
        depth=AuditDepth(settings.trainer.audit_depth), canaries=settings.trainer.audit_canaries
    )


def _tools(settings: Settings, shop: Shop, keyring: Keyring, anchor: AnchorGuard) -> StartTools:
    meta = MetaStarts(shop, recipe=recipe_of(settings.meta), averages=settings.meta.tenant_epsilon is None)
    public = PublicStarts(
        shop,
        run=run_public_job,
        copies=meta.copies,
        flags=flags_of(settings),
        max_public_text_change=settings.trainer.max_public_text_change,
        suites=SuiteTerms(depth=SuiteDepth(settings.trainer.suites)),
    )
    tenant_level = tenant_level_of(settings.meta, shop, meta=meta, public=public, anchor=anchor)
    return StartTools(shop, meta, public, keyring, anchor, tenant_level)


def run_until_stopped(trainer: Trainer) -> None:
    """Run until SIGINT or SIGTERM; a running job is finished, or put down after a grace period.

    A second signal ends the grace period.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: trainer.request_stop())
    trainer.run()
