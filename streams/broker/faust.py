"""Faust's Kafka transport with two changes: records travel in runs, and what was settled is committed.

Stock Faust 0.15.3 makes one message, one event and one acknowledgement per record, acknowledges records
whose processing raised, and can commit past a record that is still in flight. Here each run of records
fetched from a partition is one stream event (``streams.broker.records.RecordRun``), so that the framework's cost
is paid once per run, and the committed offset comes from ``streams.broker.progress.PartitionProgress`` alone. Group
membership, rebalancing, flow control, the channel queue with its back-pressure and the commit loop remain
Faust's.

Whenever records that were fetched cannot be handed over (a rebalance came in between), the position goes
back to the committed offset of every partition: records may come twice, never not at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import structlog
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from faust.transport.consumer import ensure_TP, ensure_TPset
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage

from streams.broker.progress import PartitionProgress
from streams.broker.records import RecordRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from aiokafka import AIOKafkaConsumer, TopicPartition
    from faust.transport.base import Transport as BaseTransport
    from faust.types import TP

log = structlog.get_logger(__name__)

FETCH_TIMEOUT_SECONDS = 1.0
FULL_PAUSE_SECONDS = 0.02
LONGEST_FETCH_WAIT_MS = 100
"""How long the broker may keep a fetch open. While it does, what arrives in partitions that the fetch did not ask for
(their last records were still unread) is not seen, so this is latency; stock Faust fixes it at 1,500."""


class RunConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # faust is untyped here
    """Consumer thread with short fetches, whose failed commits are reported and tried again by the next turn."""

    def _create_worker_consumer(self, transport: BaseTransport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = LONGEST_FETCH_WAIT_MS  # noqa: SLF001  # faust passes a constant, no setting
        return consumer

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        assigned = self.assignment()
        wanted = {
            driver.ensure_aiokafka_TP(tp): driver.OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assigned
        }
        try:
            await consumer.commit(wanted)
        except (KafkaError, IllegalStateError) as error:
            # A group that moved on delivers these records again; a broker that is away will be back. Stock
            # Faust stops the whole worker in both cases.
            log.warning("commit_failed", error=type(error).__name__)
            return False
        return True

    async def read_from_committed(self, tp: TP, stored: int | None) -> None:
        """Go back to the committed offset of ``tp``, or to its beginning where nothing was committed.

        ``stored`` is up to where the database has its effects: where that lies lower, reading begins there, and at the
        beginning where it has none. ``None``: nobody asks the database.
        """
        await self.call_thread(self._read_from_committed, driver.ensure_aiokafka_TP(tp), stored)

    async def _read_from_committed(self, partition: TopicPartition, stored: int | None) -> None:
        consumer = self._ensure_consumer()
        committed = await consumer.committed(partition)
        if committed is None:
            await consumer.seek_to_beginning(partition)
        else:
            consumer.seek(partition, committed if stored is None else min(committed, stored))


class RunConsumer(driver.Consumer):  # type: ignore[misc]  # faust is untyped here
    """Consumer that hands over whole runs of records and commits what was settled.

    Attributes:
        progress: one ``PartitionProgress`` for each partition that has delivered since it was assigned.
        drain: called before partitions are given up, to let work in progress finish; set by the application.
        stored: returns up to where the database has the effects of each partition; it waits for the database.
    """

    drain: Callable[[], Awaitable[None]] | None = None
    stored: Callable[[], Awaitable[Mapping[tuple[str, int], int]]] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.progress: dict[TP, PartitionProgress] = {}
        self.rebalances = 0
        self._epoch = 0  # grows whenever positions may have moved: a seek, a revocation
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> RunConsumerThread:
        return RunConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # What may be committed

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in self.progress if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        progress = self.progress.get(tp)
        return None if progress is None else progress.committable

    def position_of(self, tp: TP) -> int:
        """Return the offset up to which everything was settled (held records aside)."""
        progress = self.progress.get(tp)
        settled = None if progress is None else progress.settled_to
        return (self._committed_offset[tp] or 0) if settled is None else settled

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed: bool = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:
            # Stock Faust notes the offsets as committed either way and would not try them again.
            self._committed_offset.update(before)
        return committed

    async def wait_empty(self) -> None:
        """Let work in progress finish, then commit it: on shutdown and before a rebalance."""
        if self.drain is not None:
            await self.drain()
        await self.commit()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Leave the watching to ``streams.processes.liveness``.

        Stock Faust's watch asserts that the position of each partition is known, which it is not right after an
        assignment by a slow broker; the assertion ends the worker.
        """

    # Where reading goes on

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit what is in progress, then forget the partitions."""
        self.rebalances += 1
        await super().on_partitions_revoked(revoked)
        self._forget(revoked)

    async def perform_seek(self) -> None:
        """Go back to the committed offset of every partition, as Faust does after each rebalance.

        Where the database has fewer effects than the group has committed (it was restored from a backup, or lost its
        last moments with a replica) reading begins behind the last effect. A partition that the database does not know
        is read from its beginning, for the backup may be from before its first record.
        """
        self._forget(set(self.progress))
        await super().perform_seek()
        stored = await self._stored_offsets()
        for tp in self.assignment():
            committed, held = self._committed_offset.get(tp), self._held_of(tp, stored)
            if committed is not None and held is not None and held < committed:
                log.warning("read_again", topic=tp.topic, partition=tp.partition, events=committed - held)
                await self.seek(tp, held)
                self._committed_offset[tp] = held

    async def _stored_offsets(self) -> Mapping[tuple[str, int], int] | None:
        return None if self.stored is None else await self.stored()

    def _held_of(self, tp: TP, stored: Mapping[tuple[str, int], int] | None) -> int | None:
        """Return up to where the database has the effects of ``tp``; ``None`` where nobody asks it."""
        return None if stored is None else stored.get((tp.topic, tp.partition), 0)

    def _forget(self, partitions: set[TP]) -> None:
        self._epoch += 1
        for tp in partitions:
            progress = self.progress.pop(tp, None)
            if progress is not None:
                progress.abandoned = True

    async def _read_again(self, partitions: set[TP]) -> None:
        self._forget(partitions)
        stored = await self._stored_offsets()
        for tp in partitions & self.assignment():
            try:
                await self._thread.read_from_committed(tp, self._held_of(tp, stored))
            except (KafkaError, IllegalStateError) as error:
                # The partition was taken away meanwhile; whoever has it now starts at the committed offset.
                log.info("seek_skipped", error=type(error).__name__)

    # The way of the records

    async def _drain_messages(self, fetcher: Any) -> None:
        stopping = self.transport.app
        while not (self.should_stop or fetcher.should_stop):
            try:
                await self._fetch_and_hand_over()
            except ConsumerStoppedError:
                if stopping.should_stop:
                    return
                raise
            except asyncio.CancelledError:
                if stopping.should_stop:
                    return
                raise
            except KafkaError as error:
                log.warning("fetch_failed", error=type(error).__name__)
                await asyncio.sleep(FETCH_TIMEOUT_SECONDS)
            await asyncio.sleep(0)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109  # faust's
        """Fetch of those topics alone whose receiver has room, so that none holds up the others.

        One queue that is full would block the loop that fills all of them: then the consents would not come that the
        interactions in front of it are waiting for.
        """
        receivers = self.app.receivers
        if active_partitions is not None:
            full = {topic for topic, receiver in receivers.items() if receiver.full}
            open_ = {tp for tp in active_partitions if tp.topic not in full}
            if active_partitions and not open_:
                await self.sleep(FULL_PAUSE_SECONDS)
                return {}
            active_partitions = open_
        return await super()._getmany(active_partitions, timeout)

    async def _fetch_and_hand_over(self) -> None:
        epoch = self._epoch
        fetched, _ = await self._wait_next_records(FETCH_TIMEOUT_SECONDS)
        if not fetched:
            return
        generation = self.app.consumer_generation_id
        if epoch != self._epoch or not self.flow_active:
            # The fetch began before positions moved and may have ended after: its records belong to neither
            # side.
            await self._read_again(ensure_TPset(fetched))
            return
        for partition, records in fetched.items():
            tp = ensure_TP(partition)
            progress = self.progress.get(tp)
            if progress is None:
                progress = self.progress[tp] = PartitionProgress()
            progress.deliver(records[0].offset, records[-1].offset)
            message = _message(tp, RecordRun(records, progress), generation)
            await self.wait_first(self.callback(message), self.suspend_flow.wait())
            self._read_offset[tp] = records[-1].offset
            if epoch != self._epoch or not self.flow_active:
                # Positions were, or are about to be, set back after this fetch: the rest will come again.
                return


def _message(tp: TP, run: RecordRun, generation: int) -> ConsumerMessage:
    last = run.records[-1]
    return ConsumerMessage(
        tp.topic,
        tp.partition,
        last.offset,
        last.timestamp / 1000.0,
        0,
        None,
        None,
        run,
        None,
        0,
        0,
        tp,
        generation_id=generation,
    )


class RunTransport(driver.Transport):  # type: ignore[misc]  # faust is untyped here
    """Transport that makes ``RunConsumer``."""

    Consumer: ClassVar[type[RunConsumer]] = RunConsumer
