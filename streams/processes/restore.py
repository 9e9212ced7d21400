"""``discreet restore``: reconcile a database that was restored from a backup with what is anchored outside it.

The order keeps it safe to be killed anywhere, since nothing starts over the database before the last step:

1. the group's offsets go back to those of the database, which the broker refuses while a worker is in the group;
2. tenants whose users the key store knows under newer pseudonyms are renamed, and whoever is in the register of
   erasures, or has a tombstone in the key store, and came back is erased again, in both;
3. erasures and consents are read on to the end of their topics: who has withdrawn since must not be trained on, and
   who has asked to be erased a moment ago may be in no register yet;
4. in one transaction every ledger forfeits what was spent since, lines get higher epochs and are announced, and the
   anchor is written anew under the next timeline, before the transaction commits.

Interactions and acknowledgements are read again by the workers, which recognise what the backup holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from personalization.registry.announcements import Act
from personalization.signals.rows import delete_user_signals
from privacy.erasure.reconcile import reconcile as reconcile_keys
from privacy.errors import DiscreetError, RewoundError
from privacy.keys.master_key import check_master_key
from privacy.keys.rotation import finish_renaming
from privacy.ledger import Ledger
from privacy.policy.versions import list_tenants
from privacy.storage.session import reading, transaction
from streams.anchor.reconcile import reconcile, replay_erasures
from streams.broker.clients import open_consumer
from streams.contracts.topics import CONSENT, ERASURES
from streams.errors import BrokerUnavailableError
from streams.ingest.work import Work
from streams.outbox.events import OutboxAdapterEvents
from streams.processes import wiring
from streams.processes.keys import adapter_signer
from streams.storage.consumed_offsets import consumed, move_on

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from streams.anchor.reconcile import Reconciled
    from streams.ingest.intake import Handler
    from streams.processes.wiring import Services

POLL_MILLISECONDS = 500
IDLE_POLLS = 60  # half a minute without a record; a broker that has just come back takes its time
CODE = "restored"


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What ``restore`` did.

    Attributes:
        reconciled: with ledgers, lines and the anchor.
        erased: users of the register who had come back.
        replayed: events of each topic that were read on.
        set_back: how many events the group reads again, of topics that it reads.
    """

    reconciled: Reconciled
    erased: int
    replayed: dict[str, int]
    set_back: int


def behind(services: Services) -> dict[str, str]:
    """Return in what the database lies below its anchor, by owner; nothing where it is the newest.

    Raises:
        AnchorUnavailableError: the anchor cannot be read.
    """
    guard = services.anchor
    guard.refresh()
    with reading(services.engine) as session:
        found = guard.behind(session)
    if not found:
        try:
            guard.require_newest()
        except RewoundError as error:
            found = {"": str(error)}
    return found


def restore(
    services: Services, *, actor: str, reason: str, accept_lost_anchor: bool = False
) -> Restored | None:
    """Reconcile the database with its anchor; ``None`` where it is the newest and nothing was done.

    Args:
        services: of a worker, none of which runs.
        actor: who asks.
        reason: one public sentence; servers and auditors see it.
        accept_lost_anchor: the anchor is gone or forged and the database is the newest: write it anew.

    Raises:
        BrokerUnavailableError: the broker does not answer, or a worker is still in the group.
        AnchorUnavailableError: the anchor cannot be read or written; run it again.
        RewoundError: the anchor is gone or forged, and nobody has said that the database is the newest.
        LedgerIntegrityError: the backup's ledger does not hold together.
        SettingsError: the key that adapters are signed with cannot be read.
        KeyUnavailableError: the master key is not the one that the database was filled under.
    """
    clock, engine, guard = services.clock, services.engine, services.anchor
    signer = adapter_signer(services.settings)
    with transaction(engine) as session:
        check_master_key(session, services.keyring, now=clock.now())
    if not behind(services) and not accept_lost_anchor:
        return None
    with reading(engine) as session:
        if (lost := guard.lost(session)) is not None and not accept_lost_anchor:
            raise RewoundError(lost)
        stored = consumed(session)
    handlers = wiring.handlers(services)
    set_back = _set_group_back(services, handlers, stored)
    erased = guard.erased()
    finish_renaming(engine, services.keyring, actor=actor, now=clock.now())
    with transaction(engine) as session:
        again = replay_erasures(session, services.keyring, erased, now=clock.now())
    again += _follow_the_key_store(services)
    replayed = {
        topic: _read_on(services, topic, handlers[topic], stored) for topic in (ERASURES.name, CONSENT.name)
    }
    events = OutboxAdapterEvents(signer)
    act = Act(actor=actor, reason=reason, code=CODE, now=clock.now())
    guard.refresh()
    with transaction(engine) as session:
        done = reconcile(
            session,
            guard,
            ledger=Ledger(clock),
            events=events,
            act=act,
            accept_lost_anchor=accept_lost_anchor,
        )
    return Restored(reconciled=done, erased=again, replayed=replayed, set_back=set_back)


def _follow_the_key_store(services: Services) -> int:
    """Erase again whose key was destroyed, and destroy again the keys of who is erased; return how many users."""
    engine, store = services.engine, services.keyring.store
    with reading(engine) as session:
        tenants = [tenant.tenant_id for tenant in list_tenants(session)]
    again = 0
    for tenant_id in tenants:
        done = reconcile_keys(
            engine, store, tenant_id, now=services.clock.now(), delete_signals=delete_user_signals
        )
        again += done.users + done.keys
    return again


def _set_group_back(
    services: Services, topics: Collection[str], stored: Mapping[tuple[str, int], int]
) -> int:
    """Commit the database's offsets for the group where they lie lower; return by how many events they do.

    A partition that the database does not know goes back to its beginning: the backup may be from before its first
    record, and that record from after the last time that offsets were anchored.
    The embedded broker takes no commit from outside a group; there the workers alone begin where the database ends.
    """
    settings = services.settings.broker
    consumer = open_consumer(settings, group=settings.group)
    try:
        places = [
            TopicPartition(topic, number)
            for topic in sorted(topics)
            for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        committed = {place: consumer.committed(place) for place in places}
        held = {place: stored.get((place.topic, place.partition), 0) for place in places}
        lower = {
            place: held[place]
            for place, offset in committed.items()
            if offset is not None and held[place] < offset
        }
        if lower and not settings.embedded:
            consumer.assign(list(lower))
            consumer.commit({place: OffsetAndMetadata(offset, "", -1) for place, offset in lower.items()})
        return sum((committed[place] or 0) - offset for place, offset in lower.items())
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"the offsets of group {settings.group} cannot be set back ({type(error).__name__}); stop all workers, "
            "wait until they have left the group, and run it again"
        ) from error
    finally:
        consumer.close()


def _read_on(
    services: Services, topic: str, handler: Handler[Any], stored: Mapping[tuple[str, int], int]
) -> int:
    """Give every record of ``topic`` its effect that the database has not consumed; return how many there were.

    Raises:
        BrokerUnavailableError: the broker stopped answering before the topic's end.
    """
    consumer = open_consumer(services.settings.broker, auto_offset_reset="earliest")
    try:
        places = [
            TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        if not places:
            return 0
        consumer.assign(places)
        first, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        for place in places:
            begin = stored.get((topic, place.partition), 0)
            consumer.seek(place, begin if first[place] <= begin <= ends[place] else first[place])
        done, idle = 0, 0
        while idle < IDLE_POLLS and any(consumer.position(place) < ends[place] for place in places):
            polled = [record for records in consumer.poll(POLL_MILLISECONDS).values() for record in records]
            idle = 0 if polled else idle + 1
            if polled:
                _give(handler, [Work(record, 0.0, final=True) for record in polled])
                done += len(polled)
        if any(consumer.position(place) < ends[place] for place in places):
            # Whoever has withdrawn or asked to be erased may stand behind what was read.
            raise BrokerUnavailableError(
                f"{topic} was read on by {done} records and not to its end, since the broker gave no more; run it again"
            )
        with transaction(services.engine) as session:
            move_on(session, {(topic, place.partition): consumer.position(place) for place in places})
    except KafkaError as error:
        raise BrokerUnavailableError(
            f"{topic} cannot be read to its end ({type(error).__name__}); run it again"
        ) from error
    finally:
        consumer.close()
    return done


def _give(handler: Handler[Any], works: list[Work[Any]]) -> None:
    """Give every record its effect; one on which our own code fails is dead-lettered, as an intake does it."""
    try:
        handler.process(works)
    except DiscreetError as error:
        if error.retryable or len(works) == 1:
            raise
    except Exception as error:  # noqa: BLE001  # whatever one record provokes must not stop the restore
        if len(works) == 1:
            handler.refuse(works[0], error)
            return
    else:
        return
    for work in works:
        _give(handler, [work])
