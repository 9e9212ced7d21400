"""The connection to a real Kafka broker: address, security and time-outs, and the reader and writer on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import AuthorizationError, KafkaError, KafkaTimeoutError, RetriableError
from kafka.net.compat import KafkaNetClient
from kafka.net.sasl.oauth import AbstractTokenProvider

from ..contracts.codec import Record
from .errors import BrokerUnreachableError, DeliveryError
from .transport import OnDone, StoredRecord

MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER")


@dataclass(frozen=True, kw_only=True)
class Security:
    """How the connection is protected and who we are.

    Attributes:
        tls: encrypt the connection and check the broker's certificate.
        mechanism: how we say who we are, one of ``MECHANISMS``; ``None`` says nothing.
        username: for SCRAM and PLAIN.
        password: for SCRAM and PLAIN.
        token: for OAUTHBEARER: returns a fresh access token each time it is called.
        ca_file: certificates to trust instead of the system's.
        certificate_file: our own certificate, where the broker asks for one.
        key_file: its private key.
    """

    tls: bool = False
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: Callable[[], str] | None = field(default=None, repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if self.mechanism not in (None, *MECHANISMS):
            raise ValueError(f"mechanism is {self.mechanism!r}; allowed are {', '.join(MECHANISMS)}")
        if self.mechanism == "OAUTHBEARER" and self.token is None:
            raise ValueError("mechanism OAUTHBEARER needs token, a function that returns an access token")
        if self.mechanism not in {None, "OAUTHBEARER"} and (self.username is None or self.password is None):
            raise ValueError(f"mechanism {self.mechanism} needs username and password")

    def options(self) -> dict[str, Any]:
        """Return kafka-python's settings."""
        protocol = ("SASL_" if self.mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")
        options: dict[str, Any] = {"security_protocol": protocol}
        if self.mechanism:
            options["sasl_mechanism"] = self.mechanism
        if self.token is not None:
            options["sasl_oauth_token_provider"] = _TokenProvider(self.token)
        elif self.mechanism:
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password
        files = {
            "ssl_cafile": self.ca_file,
            "ssl_certfile": self.certificate_file,
            "ssl_keyfile": self.key_file,
        }
        options.update((name, str(path)) for name, path in files.items() if path is not None)
        return options


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def token(self) -> str:
        return self._token()


@dataclass(frozen=True, kw_only=True)
class KafkaBroker:
    """A Kafka cluster as publishers and feeds see it.

    Attributes:
        bootstrap: ``host:port`` of one or more brokers, separated by commas.
        security: how the connection is protected.
        connect_seconds: how long to look for a broker before giving up.
        delivery_seconds: how long one record may take to be confirmed, retries included.
        compression: ``None`` or ``gzip`` (others need extra packages).
        linger_milliseconds: how long to wait for company before a batch is sent.
        api_version: what to assume of a broker that does not negotiate versions, for example ``(2, 3)``.
        options: further kafka-python settings; they win.
    """

    bootstrap: str
    security: Security = Security()
    connect_seconds: float = 30.0
    delivery_seconds: float = 60.0
    compression: str | None = None
    linger_milliseconds: int = 5
    api_version: tuple[int, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def open_sink(self) -> KafkaSink:
        """Open an idempotent producer that waits for all in-sync replicas."""
        return KafkaSink(self)

    def open_source(self, topic: str) -> KafkaSource:
        """Open a reader of all partitions of ``topic``."""
        return KafkaSource(self, topic)

    def common_options(self) -> dict[str, Any]:
        """Return kafka-python's settings for any kind of client."""
        return {
            "bootstrap_servers": self.bootstrap.split(","),
            "bootstrap_timeout_ms": int(self.connect_seconds * 1000),
            "client_id": "discreet-client",
            "metrics_enabled": False,
            **({"api_version": self.api_version} if self.api_version else {}),
            **self.security.options(),
            **self.options,
        }


class KafkaSink:
    """An idempotent producer, made anew when an error has spoiled it.

    After an error that cannot be retried (a record too large for the topic, a right that is missing) a
    kafka-python producer fails whatever it is given from then on.
    """

    def __init__(self, broker: KafkaBroker) -> None:
        delivery = int(broker.delivery_seconds * 1000)
        settings = {
            "acks": "all",
            "enable_idempotence": True,
            "allow_auto_create_topics": False,
            "linger_ms": broker.linger_milliseconds,
            "compression_type": broker.compression,
            "delivery_timeout_ms": delivery,
            "request_timeout_ms": max(1, min(30_000, delivery - broker.linger_milliseconds)),
            "max_block_ms": int(broker.connect_seconds * 1000),
            **broker.common_options(),
        }
        self._open: Callable[[], Any] = lambda: _connected(KafkaProducer, settings, broker.bootstrap)
        self._lock = threading.Lock()
        self._producer: Any = self._open()

    def _usable_producer(self) -> Any:
        with self._lock:
            if _is_spoiled(self._producer):
                self._producer.close(0)  # it has failed all that it held
                self._producer = self._open()
            return self._producer

    def send(self, record: Record, on_done: OnDone) -> None:
        """Hand one record to the producer's own thread."""
        try:
            future = self._usable_producer().send(
                record.topic, key=record.key, value=record.value, headers=record.headers
            )
        except KafkaTimeoutError as error:
            raise BrokerUnreachableError(
                f"the topic {record.topic} is not known to the broker; create the topics or check the address"
            ) from error
        except KafkaError as error:
            raise DeliveryError(f"an event for {record.topic} was refused: {type(error).__name__}") from error
        future.add_callback(lambda _: on_done(None))
        future.add_errback(on_done)

    def flush(self, timeout_seconds: float) -> None:
        """Send what waits and wait for the answers."""
        try:
            self._producer.flush(timeout_seconds)
        except KafkaTimeoutError as error:
            raise DeliveryError(f"not every event was confirmed within {timeout_seconds:g} s") from error

    def close(self, timeout_seconds: float) -> None:
        """Stop the producer's thread."""
        try:
            self._producer.close(timeout_seconds)
        except KafkaTimeoutError as error:
            raise DeliveryError(f"not every event was confirmed within {timeout_seconds:g} s") from error


def _is_spoiled(producer: Any) -> bool:
    manager = producer._transaction_manager  # noqa: SLF001  # kafka-python 3.0 tells nowhere else
    return manager is not None and bool(manager.has_fatal_error())


class KafkaSource:
    """All partitions of one topic, without a group."""

    def __init__(self, broker: KafkaBroker, topic: str) -> None:
        self._topic = topic
        settings = {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "allow_auto_create_topics": False,
            "metadata_max_age_ms": 30_000,
            **broker.common_options(),
        }
        self._consumer = _connected(KafkaConsumer, settings, broker.bootstrap)
        self._assigned: set[int] = set()
        self._refresh()

    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """Ask the broker for the first and the next offset of each partition."""
        self._refresh()
        partitions = [TopicPartition(self._topic, number) for number in sorted(self._assigned)]
        if not partitions:
            return {}
        try:
            first = self._consumer.beginning_offsets(partitions)
            end = self._consumer.end_offsets(partitions)
        except KafkaError as error:
            raise BrokerUnreachableError(f"the offsets of {self._topic} cannot be read: try again") from error
        return {each.partition: (first[each], end[each]) for each in partitions}

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading ``partition`` at ``offset``."""
        self._consumer.seek(TopicPartition(self._topic, partition), offset)

    def position(self, partition: int) -> int:
        """Return the next offset that will be read; it passes gaps that compaction left."""
        return int(self._consumer.position(TopicPartition(self._topic, partition)))

    def poll(self, timeout_seconds: float) -> Sequence[StoredRecord]:
        """Read what there is."""
        if not self._assigned:
            self._refresh()
            if not self._assigned:
                time.sleep(min(timeout_seconds, 0.2))
                return ()
        try:
            polled = self._consumer.poll(int(timeout_seconds * 1000))
        except AuthorizationError as error:
            raise BrokerUnreachableError(
                f"the broker does not let us read {self._topic}; ask for the right to read it"
            ) from error
        return [
            StoredRecord(record.partition, record.offset, record.key, record.value, record.headers)
            for records in polled.values()
            for record in records
        ]

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close(autocommit=False)

    def _refresh(self) -> None:
        known = self._consumer.partitions_for_topic(self._topic) or set()
        if known - self._assigned:
            new = [TopicPartition(self._topic, number) for number in sorted(known - self._assigned)]
            positions = {number: self.position(number) for number in self._assigned}
            self._assigned |= known
            self._consumer.assign([TopicPartition(self._topic, number) for number in sorted(self._assigned)])
            for number, position in positions.items():
                self.seek(number, position)
            self._consumer.seek_to_beginning(*new)


def open_or_close(kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """Make a producer, consumer or administrator; leave nothing behind when that fails.

    kafka-python 3.0 keeps the sockets and the thread of a client whose constructor failed, so its network
    part is held on to and closed.
    """
    opened: list[KafkaNetClient] = []

    def open_client(**options: Any) -> KafkaNetClient:
        opened.append(KafkaNetClient(**options))
        return opened[0]

    try:
        return kind(**{"kafka_client": open_client, **settings})
    except KafkaError:
        for client in opened:
            client.close()
        raise


def _connected(kind: Callable[..., Any], settings: Mapping[str, Any], bootstrap: str) -> Any:
    try:
        return open_or_close(kind, settings)
    except RetriableError as error:
        raise BrokerUnreachableError(
            f"no Kafka broker at {bootstrap} lets us in; check that it runs, the address and the security settings"
        ) from error
