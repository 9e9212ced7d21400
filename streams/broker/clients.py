"""kafka-python clients from settings: the idempotent producer of outbox and dead letters, and consumers."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from streams.broker.tokens import KafkaPythonTokens, access_tokens
from streams.client.kafka_broker import open_or_close
from streams.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.broker.records import OutgoingRecord
    from streams.settings import BrokerSettings

CONNECT_SECONDS = 3.0
LINGER_MILLISECONDS = 5


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


class KafkaSender:
    """An idempotent producer, made on first use and anew after a failure; threads may share it."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
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

    def _connected(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                milliseconds = int(self._settings.delivery_timeout_seconds * 1000)
                options = {
                    **client_options(self._settings),
                    "acks": "all",
                    "linger_ms": LINGER_MILLISECONDS,
                    "max_block_ms": milliseconds,
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
