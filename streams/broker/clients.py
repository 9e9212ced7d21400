"""kafka-python clients from settings: the idempotent producer of outbox and dead letters, and consumers."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    RetriableError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from streams.broker.records import Blame, SendFailure
from streams.broker.tokens import KafkaPythonTokens, access_tokens
from streams.client.kafka_broker import KafkaBroker, Security, open_or_close
from streams.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.broker.records import OutgoingRecord
    from streams.settings import BrokerSettings

CONNECT_SECONDS = 3.0
LINGER_MILLISECONDS = 5
_OF_THE_TOPIC = (TopicAuthorizationFailedError, UnknownTopicOrPartitionError, InvalidTopicError)


def client_options(settings: BrokerSettings) -> dict[str, Any]:
    """Return the options that every kafka-python client shares: where the broker is and how to log in."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "security_protocol": settings.security_protocol.value,
    }
    files = {
        "ssl_cafile": settings.ca_file,
        "ssl_certfile": settings.certificate_file,
        "ssl_keyfile": settings.key_file,
    }
    options.update({name: str(path) for name, path in files.items() if path is not None})
    if settings.logs_in:
        options["sasl_mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            options["sasl_oauth_token_provider"] = KafkaPythonTokens(access_tokens(settings))
        elif settings.sasl_password is not None:
            options["sasl_plain_username"] = settings.sasl_username
            options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return options


def client_broker(settings: BrokerSettings) -> KafkaBroker:
    """Return the broker as publishers and feeds of the SDK take it: the same address, encryption and login."""
    tokens = settings.logs_in and settings.sasl_mechanism == "OAUTHBEARER"
    password = settings.sasl_password
    security = Security(
        tls=settings.encrypted,
        mechanism=settings.sasl_mechanism if settings.logs_in else None,
        username=settings.sasl_username,
        password=None if password is None else password.get_secret_value(),
        token=KafkaPythonTokens(access_tokens(settings)).token if tokens else None,
        ca_file=settings.ca_file,
        certificate_file=settings.certificate_file,
        key_file=settings.key_file,
    )
    return KafkaBroker(bootstrap=settings.bootstrap, security=security)


class KafkaSender:
    """An idempotent producer, made on first use and anew after a failure; threads may share it.

    Args:
        settings: where the broker is and how long a write may take.
        topic_seconds: how long to look for a topic that the broker does not know; by default as long as a write.
    """

    def __init__(self, settings: BrokerSettings, *, topic_seconds: float | None = None) -> None:
        self._settings = settings
        self._topic_seconds = min(
            settings.delivery_timeout_seconds, topic_seconds or settings.delivery_timeout_seconds
        )
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def send_all(self, records: Sequence[OutgoingRecord]) -> None:
        """Send ``records`` and return when all are confirmed by all in-sync replicas.

        Raises:
            BrokerUnavailableError: at least one record was not confirmed; it may still have been written.
        """
        timeout = self._settings.delivery_timeout_seconds
        try:
            producer = self._connected()
            futures = [
                producer.send(record.topic, value=record.value, key=record.key, headers=record.headers)
                for record in records
            ]
            producer.flush(timeout=timeout)
            for future in futures:
                future.get(timeout=timeout)
        except KafkaError as error:
            self.close()
            raise BrokerUnavailableError(
                f"the broker at {self._settings.bootstrap} did not confirm a write in {timeout:g} seconds "
                f"({type(error).__name__}); check that it is reachable and that its topics exist"
            ) from error

    def send_each(self, records: Sequence[OutgoingRecord]) -> list[SendFailure | None]:
        """Send ``records`` and return per record ``None`` once it is confirmed, or why it was not; never raises."""
        timeout = self._settings.delivery_timeout_seconds
        outcome: list[SendFailure | None] = [None] * len(records)
        futures: dict[int, Any] = {}
        try:
            producer = self._connected()
            unknown: dict[str, SendFailure] = {}
            for number, record in enumerate(records):
                if record.topic in unknown:  # looking for it takes a while: once is enough
                    outcome[number] = unknown[record.topic]
                    continue
                try:
                    futures[number] = producer.send(
                        record.topic, value=record.value, key=record.key, headers=record.headers
                    )
                except KafkaTimeoutError as error:
                    # The broker let us in and does not name the topic; what is only slow is asked again.
                    outcome[number] = unknown[record.topic] = SendFailure(Blame.TOPIC, type(error).__name__)
                except Exception as error:  # noqa: BLE001  # whatever one record provokes must not stop the others
                    outcome[number] = _failure(error)
            with contextlib.suppress(KafkaTimeoutError):  # the futures tell which ones are late
                producer.flush(timeout=timeout)
        except KafkaError as error:
            outcome = [failure or SendFailure(Blame.BROKER, type(error).__name__) for failure in outcome]
            futures.clear()
        for number, future in futures.items():
            try:
                future.get(timeout=0 if future.is_done else LINGER_MILLISECONDS / 1000)
            except Exception as error:  # noqa: BLE001  # as above
                outcome[number] = _failure(error)
        if any(outcome):
            self.close()  # after some errors a producer fails whatever it is given
        return outcome

    def _connected(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                milliseconds = int(self._settings.delivery_timeout_seconds * 1000)
                options = {
                    **client_options(self._settings),
                    "acks": "all",
                    "allow_auto_create_topics": False,  # a topic of the broker's defaults is compacted nowhere
                    "linger_ms": LINGER_MILLISECONDS,
                    "max_block_ms": int(self._topic_seconds * 1000),
                    "request_timeout_ms": max(1, min(10_000, milliseconds - LINGER_MILLISECONDS)),
                    "delivery_timeout_ms": milliseconds,
                    "max_request_size": 4 * 2**20,
                    "bootstrap_timeout_ms": milliseconds,
                }
                self._producer = open_or_close(KafkaProducer, options)
            return self._producer

    def close(self) -> None:
        """Give the connection up; the next send makes a new one."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            # Closing waits for what is still on its way, and says so when that takes too long; who sent it knows.
            with contextlib.suppress(KafkaError):
                producer.close(timeout=1)


def _failure(error: Exception) -> SendFailure:
    if isinstance(error, _OF_THE_TOPIC):
        blame = Blame.TOPIC
    elif isinstance(error, KafkaTimeoutError | RetriableError | ClusterAuthorizationFailedError):
        blame = Blame.BROKER
    else:
        blame = Blame.RECORD
    return SendFailure(blame, type(error).__name__)


def open_consumer(settings: BrokerSettings, *, group: str | None = None, **options: Any) -> KafkaConsumer:
    """Return a consumer outside the workers' group, for reading a topic from end to end.

    Args:
        settings: where the broker is.
        group: under which name positions are kept, if at all.
        options: further options of kafka-python.

    Raises:
        BrokerUnavailableError: the broker cannot be reached.
    """
    try:
        shared = {**client_options(settings), "enable_auto_commit": False, "group_id": group}
        return open_or_close(KafkaConsumer, {**shared, **options})
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"the broker at {settings.bootstrap} cannot be reached ({type(error).__name__}); is it running?"
        ) from error


def missing_topics(settings: BrokerSettings, names: Iterable[str]) -> list[str]:
    """Return which of the topics do not exist on the broker.

    Raises:
        BrokerUnavailableError: the broker cannot be reached.
    """
    if not any(_listens(address) for address in settings.bootstrap.split(",")):
        # Asked first, because kafka-python leaves the sockets of refused connections to the collector.
        raise BrokerUnavailableError(f"nothing listens at {settings.bootstrap}; check that the broker runs")
    consumer = open_consumer(settings, bootstrap_timeout_ms=5_000)
    try:
        existing = consumer.topics()
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"the broker at {settings.bootstrap} does not answer ({type(error).__name__}); check that it runs"
        ) from error
    finally:
        consumer.close()
    return sorted(set(names) - set(existing))


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False
