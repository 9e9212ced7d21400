"""The Faust application: one agent per topic, each handing its runs to a receiver.

Agents do nothing but hand over, so nothing they do can raise; their streams acknowledge nothing
(``noack``), because offsets are committed by what the receivers settled. No tables, no leader topic, no topic
creation, no web pages: what the process serves over HTTP is ours (``streams.http``).
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import faust
from faust.auth import OAuthCredentials
from faust.transport.base import Transport as BaseTransport
from yarl import URL

from streams.broker import lenient_reading
from streams.broker.faust import RunConsumer, RunTransport
from streams.broker.tokens import AiokafkaTokens, access_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streams.broker.receiver import Receiver
    from streams.settings import BrokerSettings

StoredOffsets = Callable[[], Awaitable[Mapping[tuple[str, int], int]]]
EMBEDDED_SESSION_SECONDS = 6.0
EMBEDDED_REBALANCE_SECONDS = 12.0  # above the time that a member may take to finish what it has in progress
RUNS_IN_QUEUE = 2  # the buffer that counts is the intake's; this one only hands over


class WorkerApp(faust.App):  # type: ignore[misc]  # faust is untyped here
    """A Faust app on our transport, with a receiver behind each topic."""

    def __init__(
        self,
        *args: Any,
        receivers: Mapping[str, Receiver],
        stored: StoredOffsets | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.receivers = receivers
        self.stored = stored

    def _new_transport(self) -> BaseTransport:
        return RunTransport(self.conf.broker_consumer, self)

    def _new_consumer(self) -> RunConsumer:
        consumer: RunConsumer = super()._new_consumer()
        consumer.stored = self.stored
        return consumer

    async def on_first_start(self) -> None:
        """Make no data directory: there are no tables."""

    async def drain(self) -> None:
        """Let every receiver finish what it holds, within its time limit."""
        for receiver in self.receivers.values():
            await receiver.drain()

    @property
    def run_consumer(self) -> RunConsumer:
        """The consumer, for progress and metrics."""
        consumer: RunConsumer = self.consumer
        return consumer


def make_app(
    settings: BrokerSettings,
    receivers: Mapping[str, Receiver],
    *,
    max_poll_records: int,
    stored: StoredOffsets | None = None,
) -> WorkerApp:
    """Return the application with one agent for each of ``receivers`` (by topic name).

    ``stored`` returns up to where the database has the effects of each partition.
    """
    session = settings.session_timeout_seconds
    heartbeat = settings.heartbeat_seconds
    rebalance = settings.rebalance_timeout_seconds
    if settings.embedded:
        # That broker lets half the session time pass before it assigns a new group's partitions.
        session = min(session, EMBEDDED_SESSION_SECONDS)
        heartbeat = min(heartbeat, session / 6)
        # Where all members died while they were joining, those after them wait for two such times.
        rebalance = min(rebalance, EMBEDDED_REBALANCE_SECONDS)
    lenient_reading.install()
    app = WorkerApp(
        settings.group,
        receivers=receivers,
        stored=stored,
        broker=[URL(f"kafka://{address}") for address in settings.bootstrap.split(",")],
        broker_credentials=_credentials(settings),
        broker_session_timeout=session,
        broker_heartbeat_interval=heartbeat,
        broker_rebalance_timeout=rebalance,
        broker_request_timeout=max(session, 40.0),
        broker_commit_interval=settings.commit_interval_seconds,
        broker_max_poll_records=max_poll_records,
        consumer_group_instance_id=settings.instance_id,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=30_000,
        store="memory://",
        stream_buffer_maxsize=RUNS_IN_QUEUE,
        stream_wait_empty=True,
        stream_recovery_delay=0.0,
        stream_publish_on_commit=False,
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        key_serializer="raw",
        value_serializer="raw",
    )
    for topic, receiver in receivers.items():
        _add_agent(app, topic, receiver)
    return app


def _add_agent(app: WorkerApp, topic: str, receiver: Receiver) -> None:
    async def hand_over(stream: AsyncIterator[Any]) -> None:
        app.run_consumer.drain = app.drain
        async for run in stream.noack():  # type: ignore[attr-defined]  # a faust stream
            await receiver.offer(run)

    channel = app.topic(topic, key_type=bytes, value_type=None, key_serializer="raw", value_serializer="raw")
    app.agent(channel, name=f"streams.{topic}", concurrency=1)(hand_over)


def _credentials(settings: BrokerSettings) -> faust.types.auth.CredentialsT | None:
    context = None
    if settings.encrypted:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    if not settings.logs_in:
        return None if context is None else faust.SSLCredentials(context=context)
    if settings.sasl_mechanism == "OAUTHBEARER":
        tokens = AiokafkaTokens(access_tokens(settings))
        return OAuthCredentials(oauth_cb=tokens, ssl_context=context)
    assert settings.sasl_password is not None  # the settings were checked
    return faust.SASLCredentials(
        mechanism=settings.sasl_mechanism,
        username=settings.sasl_username,
        password=settings.sasl_password.get_secret_value(),
        ssl_context=context,
    )
