"""The stories of lines from their events on the broker alone, and whether the database tells the same.

An event counts only if a trusted key signed the version that it is about, so nobody can tell of a version that never
was; that it happened is what the topic's own access rights vouch for, and what the comparison with the database is for.
Delivery is at least once: an epoch that comes again is the same event. Where the database is ahead, the rest waits in
the outbox. A story begins with the line's first event, so the topic must still have it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from personalization.errors import RolloutError
from personalization.registry import queries as registry
from personalization.rollouts import rows as rollouts
from personalization.rollouts.replaying import Story, Told, replay
from personalization.rollouts.values import Flag, Mode, Plan, Rollout, Stage
from streams.client.errors import SignatureInvalidError
from streams.contracts.codec import Decoded, decode_adapter_event
from streams.contracts.topics import ADAPTER_EVENTS
from streams.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlmodel import Session

    from personalization.registry.tables import AdapterLineRow
    from streams.client.signatures import TrustedKeys
    from streams.client.transport import Broker, StoredRecord
    from streams.contracts.adapter import AdapterEventV1, RolloutV1

READ_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Retold:
    """What the events of one line add up to, and what the database says of it.

    Attributes:
        line_ref: the line.
        events: how many were read.
        story: ``None`` where no rollout goes like that.
        problem: why not, or in what the database differs; nothing where all agrees.
        waiting: events that the database knows and the broker does not have (yet).
    """

    line_ref: str
    events: int
    story: Story | None
    problem: str = ""
    waiting: int = 0


@dataclass(frozen=True, kw_only=True)
class Events:
    """The events on the topic, by line, and how many records were refused."""

    told: Mapping[str, list[Told]]
    refused: int


def read_events(broker: Broker, trusted: TrustedKeys, *, seconds: float = READ_SECONDS) -> Events:
    """Read the topic of adapter events to the end that it has now.

    Raises:
        BrokerUnavailableError: the topic is missing, or its end was not reached in time.
        BrokerUnreachableError: no broker answers.
    """
    source = broker.open_source(ADAPTER_EVENTS.name)
    told: dict[str, dict[int, Told]] = defaultdict(dict)
    refused = 0
    try:
        deadline = time.monotonic() + seconds
        ends = {partition: end for partition, (_, end) in source.bounds().items()}
        if not ends:
            raise BrokerUnavailableError(
                f"the topic {ADAPTER_EVENTS.name} is missing; run `discreet topics create`"
            )
        while any(source.position(partition) < end for partition, end in ends.items()):
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(
                    f"the end of {ADAPTER_EVENTS.name} was not reached within {seconds:g} s; try again"
                )
            for record in source.poll(POLL_SECONDS):
                event = _event_of(record, trusted)
                if event is None:
                    refused += 1
                else:
                    told[event.line_ref].setdefault(event.epoch, told_of(event))
    finally:
        source.close()
    ordered = {line: [events[epoch] for epoch in sorted(events)] for line, events in sorted(told.items())}
    return Events(told=ordered, refused=refused)


def _event_of(record: StoredRecord, trusted: TrustedKeys) -> AdapterEventV1 | None:
    """Return the event of a record; ``None`` where it is none, or of a version that nobody trusted signed."""
    decoded = decode_adapter_event(record.headers, record.value, key=record.key)
    if not isinstance(decoded, Decoded):
        return None
    event: AdapterEventV1 = decoded.data
    if event.adapter is not None:
        try:
            trusted.check(event.adapter)
        except SignatureInvalidError:
            return None
    return event


def retell(session: Session, events: Events) -> list[Retold]:
    """Return the story of each line, and in what the database differs from it."""
    found = []
    lines = {line.line_ref: line for line in registry.list_lines(session)}
    for line_ref, told in events.told.items():
        try:
            story = replay(told)
        except RolloutError as error:
            found.append(Retold(line_ref=line_ref, events=len(told), story=None, problem=str(error)))
            continue
        problem, waiting = _compared(session, lines.get(line_ref), story)
        found.append(
            Retold(line_ref=line_ref, events=len(told), story=story, problem=problem, waiting=waiting)
        )
    return found


def told_of(event: AdapterEventV1) -> Told:
    """Return what replaying takes of an event."""
    return Told(
        epoch=event.epoch,
        kind=event.kind.value,
        version_id=None if event.adapter is None else event.adapter.version_id,
        rollout=None if event.rollout is None else rollout_of(event.rollout),
        revoked=event.revoked_version_ids,
    )


def rollout_of(stands: RolloutV1) -> Rollout | None:
    """Return a rollout as its event tells it; ``None`` in events from before there were rollouts."""
    if not stands.state:
        return None
    return Rollout(
        stage=Stage(stands.state),
        step=stands.stage - 1,
        candidate=stands.candidate_version_id,
        salt=stands.salt,
        mode=Mode(stands.mode),
        flag=Flag(stands.flag),
        plan=Plan(steps=stands.steps, bake_seconds=stands.bake_seconds),
    )


def _compared(session: Session, line: AdapterLineRow | None, story: Story) -> tuple[str, int]:
    if line is None:
        return "the database does not know the line", 0
    if line.epoch != story.epoch:
        behind = line.epoch - story.epoch
        return ("the database lacks events that were told" if behind < 0 else ""), max(behind, 0)
    stands = rollouts.value_of(rollouts.find(session, line.line_ref))
    if line.current_version_id != story.serving:
        return "the database serves another version", 0
    told = story.rollout
    if told is not None and (told.stage, told.step, told.candidate, told.mode, told.flag) != (
        stands.stage, stands.step, stands.candidate, stands.mode, stands.flag,
    ):  # fmt: skip
        return "the rollout stands elsewhere in the database", 0
    return "", 0
