"""Read the dead-letter topic and send letters back to where they came from."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka import TopicPartition
from kafka.errors import KafkaError

from streams.broker.clients import KafkaSender, open_consumer
from streams.broker.records import OutgoingRecord
from streams.contracts.dead_letter import DeadLetter, original_headers
from streams.contracts.topics import DEAD_LETTERS
from streams.errors import BrokerUnavailableError
from streams.ingest.fates import REPLAY_HEADER
from streams.ingest.poison import tenant_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kafka import KafkaConsumer

    from streams.settings import BrokerSettings

REPLAY_GROUP = "discreet-dlq-replay"
POLL_MILLISECONDS = 300
IDLE_POLLS = 2  # nothing new this often in a row, and not behind: the end
MOST_IDLE_POLLS = 100  # a topic may end in offsets that hold no record
BATCH = 500


@dataclass
class Replayed:
    """What a replay did.

    Attributes:
        letters: number of letters sent back (or that would be), by reason.
        tenants: the same by the tenant that the record's key names; the empty name where it names none.
        passed_over: letters that were not wanted; the next replay does not look at them again.
    """

    letters: Counter[str] = field(default_factory=Counter)
    tenants: Counter[str] = field(default_factory=Counter)
    passed_over: int = 0


class Letter(NamedTuple):
    """One dead-letter record; ``letter`` is ``None`` when it cannot be read or is a second copy."""

    letter: DeadLetter | None
    partition: int
    offset: int
    original: OutgoingRecord | None

    @property
    def tenant(self) -> str | None:
        """The tenant that the record's key names, if it names one."""
        return None if self.original is None else tenant_of(self.original.key)


def letters(settings: BrokerSettings, *, unreplayed: bool = False) -> Iterator[Letter]:
    """Yield every letter from the start (or the last replay) to the end that the topic has now.

    A letter that a crash wrote twice (same origin) is yielded as a letter once.

    Raises:
        BrokerUnavailableError: the broker cannot be reached.
    """
    consumer = open_consumer(settings, group=REPLAY_GROUP, auto_offset_reset="earliest")
    try:
        yield from _letters(consumer, unreplayed=unreplayed)
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"the broker at {settings.bootstrap} stopped answering ({type(error).__name__}); try again"
        ) from error
    finally:
        consumer.close()


def replay(
    settings: BrokerSettings,
    wanted: Callable[[Letter], bool],
    *,
    from_start: bool = False,
    dry_run: bool = False,
) -> Replayed:
    """Send the wanted letters back to their topics, and return how many of each reason.

    Event ids are kept, so an event that had its effect after all has no second one. Where the last replay
    ended is remembered (in the consumer group ``discreet-dlq-replay``), so a letter is sent back once
    unless ``from_start``.

    Raises:
        BrokerUnavailableError: the broker cannot be reached; what was confirmed until then is not sent again.
    """
    done = Replayed()
    sender = KafkaSender(settings)
    consumer = open_consumer(settings, group=REPLAY_GROUP, auto_offset_reset="earliest")
    try:
        batch: list[Letter] = []
        for letter in _letters(consumer, unreplayed=not from_start):
            batch.append(letter)
            if len(batch) >= BATCH:
                _send_back(consumer, sender, batch, wanted, done, dry_run=dry_run)
                batch = []
        _send_back(consumer, sender, batch, wanted, done, dry_run=dry_run)
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"the broker at {settings.bootstrap} stopped answering ({type(error).__name__}); replay again"
        ) from error
    finally:
        consumer.close()
        sender.close()
    return done


def _send_back(
    consumer: KafkaConsumer,
    sender: KafkaSender,
    batch: list[Letter],
    wanted: Callable[[Letter], bool],
    done: Replayed,
    *,
    dry_run: bool,
) -> None:
    readable = [entry for entry in batch if entry.letter is not None]
    chosen = [entry for entry in readable if wanted(entry)]
    done.passed_over += len(readable) - len(chosen)
    done.letters.update(entry.letter.reason.value for entry in chosen if entry.letter is not None)
    done.tenants.update(entry.tenant or "" for entry in chosen)
    if dry_run or not batch:
        return
    if chosen:
        sender.send_all([entry.original for entry in chosen if entry.original is not None])
    consumer.commit(_positions(batch))


def _positions(batch: list[Letter]) -> dict[TopicPartition, Any]:
    from kafka.structs import OffsetAndMetadata  # noqa: PLC0415  # its place differs between versions

    last: dict[int, int] = {}
    for entry in batch:
        last[entry.partition] = max(entry.offset, last.get(entry.partition, -1))
    return {
        TopicPartition(DEAD_LETTERS.name, partition): OffsetAndMetadata(offset + 1, "", -1)
        for partition, offset in last.items()
    }


def _letters(consumer: KafkaConsumer, *, unreplayed: bool) -> Iterator[Letter]:
    partitions = [
        TopicPartition(DEAD_LETTERS.name, number)
        for number in sorted(consumer.partitions_for_topic(DEAD_LETTERS.name) or ())
    ]
    if not partitions:
        return
    consumer.assign(partitions)
    if not unreplayed:
        consumer.seek_to_beginning(*partitions)
    # The embedded broker counts batches in its end offsets, so reaching them is necessary and not enough. What was
    # written after we began is left for the next time, so a topic that keeps growing does not keep us.
    ends = consumer.end_offsets(partitions)
    began = int(time.time() * 1000)
    seen: set[tuple[str, int, int]] = set()
    idle = 0
    while idle < IDLE_POLLS or (idle < MOST_IDLE_POLLS and _behind(consumer, ends)):
        polled = [record for records in consumer.poll(POLL_MILLISECONDS).values() for record in records]
        old = [record for record in polled if record.timestamp <= began]
        idle = 0 if old else idle + 1
        for record in old:
            found = _read(record)
            if found.letter is not None:
                origin = (found.letter.topic, found.letter.partition, found.letter.offset)
                if origin in seen:
                    found = found._replace(letter=None, original=None)  # still moves the position
                seen.add(origin)
            yield found


def _behind(consumer: KafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    return any(consumer.position(partition) < end for partition, end in ends.items())


def _read(record: Any) -> Letter:
    try:
        letter = DeadLetter.from_headers(record.headers)
    except ValueError:
        letter = None
    if letter is None:
        return Letter(None, record.partition, record.offset, None)
    headers = [pair for pair in original_headers(record.headers) if pair[0] != REPLAY_HEADER]
    place = f"{letter.topic}/{letter.partition}/{letter.offset}"
    headers.append((REPLAY_HEADER, place.encode()))
    original = OutgoingRecord(letter.topic, record.key, record.value, headers)
    return Letter(letter, record.partition, record.offset, original)
