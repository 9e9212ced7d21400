"""Wire what a worker is made of: settings become an engine, a keyring, senders, handlers and chores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from personalization.adapters.signing import ManifestSigner, signing_seed
from privacy.clock import SystemClock
from privacy.keys.keyring import Keyring
from privacy.ledger import Ledger
from privacy.policy.cache import TenantPolicies
from privacy.redaction import redact_texts
from privacy.storage.session import open_engine
from streams.broker.clients import KafkaSender
from streams.contracts.topics import CONSENT, ERASURES, INTERACTIONS, SERVING_ACKS
from streams.ingest.acks import AckHandler
from streams.ingest.consents import ConsentHandler
from streams.ingest.erasures import ErasureHandler
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.outbox.events import OutboxAdapterEvents
from streams.outbox.relay import OutboxRelay
from streams.processes.chores import Chores
from streams.telemetry.metrics import WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Engine

    from streams.ingest.intake import Handler
    from streams.settings import Settings


@dataclass(frozen=True)
class Services:
    """What the parts of a worker share, built once per process."""

    settings: Settings
    engine: Engine
    keyring: Keyring
    clock: SystemClock
    sender: KafkaSender
    outbox_sender: (
        KafkaSender  # of its own: what spoils a producer of the outbox must not hold up dead letters
    )
    events: OutboxAdapterEvents
    metrics: WorkerMetrics

    def close(self) -> None:
        """Close connections."""
        self.sender.close()
        self.outbox_sender.close()
        self.engine.dispose()


def open_database(settings: Settings) -> Engine:
    """Return the engine of the configured database; a SQLite file's directory is made."""
    if not settings.database.url:
        settings.state.mkdir(parents=True, exist_ok=True)
    return open_engine(settings.database_url, busy_timeout_seconds=settings.database.busy_timeout_seconds)


def build(settings: Settings) -> Services:
    """Build the services of a worker.

    Raises:
        SettingsError: no master key is set.
    """
    master_key = settings.master_key_bytes()
    return Services(
        settings=settings,
        engine=open_database(settings),
        keyring=Keyring(master_key),
        clock=SystemClock(),
        sender=KafkaSender(settings.broker),
        outbox_sender=KafkaSender(settings.broker, topic_seconds=settings.outbox.topic_seconds),
        events=OutboxAdapterEvents(ManifestSigner(signing_seed(master_key))),
        metrics=WorkerMetrics(),
    )


def handlers(services: Services) -> Mapping[str, Handler[Any]]:
    """Return the handler of each topic that a worker reads.

    Each handler has a cache of policies of its own: handlers run in threads of their own, and a cache has no lock.
    """
    settings = services.settings
    staleness = settings.ingest.policy_staleness_seconds
    letters = DeadLetterSink(services.sender, settings.broker.group, services.metrics.dead_lettered)
    engine, clock, keyring = services.engine, services.clock, services.keyring
    limit = settings.ingest.max_event_bytes
    return {
        INTERACTIONS.name: InteractionHandler(
            engine=engine,
            letters=letters,
            clock=clock,
            keyring=keyring,
            policies=TenantPolicies(staleness),
            redact=redact_texts,
            max_event_bytes=limit,
        ),
        CONSENT.name: ConsentHandler(
            engine=engine,
            letters=letters,
            clock=clock,
            keyring=keyring,
            policies=TenantPolicies(staleness),
            max_event_bytes=limit,
        ),
        ERASURES.name: ErasureHandler(
            engine=engine,
            letters=letters,
            clock=clock,
            keyring=keyring,
            policies=TenantPolicies(staleness),
            max_event_bytes=limit,
            signer=ManifestSigner(signing_seed(settings.master_key_bytes())),
        ),
        SERVING_ACKS.name: AckHandler(engine=engine, letters=letters, clock=clock, max_event_bytes=limit),
    }


def chores(services: Services) -> Chores:
    """Return the worker's periodic work."""
    settings = services.settings
    relay = OutboxRelay(
        services.engine,
        services.outbox_sender,
        batch_rows=settings.outbox.batch_rows,
        longest_pause=settings.outbox.longest_pause_seconds,
        observer=services.metrics,
    )
    return Chores(
        engine=services.engine,
        relay=relay,
        clock=services.clock,
        scheduler=settings.scheduler,
        outbox=settings.outbox,
        metrics=services.metrics,
        ledger=Ledger(services.clock),
        events=services.events,
    )
