"""What a serving system should hold: the desired state of every adapter line, then each change of it.

The feed reads the compacted adapters topic from its beginning, folds it to one update per line, and then
follows. Every update is verified (signature of the record, schema, key, manifest digest and signature) and in order:
an epoch that was handed out before, or a lower one, is dropped. Several deliveries of one event, or a delayed old one,
have no effect. A tombstone counts only with a signature and an epoch, as a state does.

A server that holds nothing reads the full state at each start and still must not go back behind what it served: with
``seen`` the highest epoch of each line is kept on disk, and a state below it is refused as rewound.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from ..contracts.ack import AckStatus, ServingAckV1
from ..contracts.adapter import AdapterStateV1
from ..contracts.codec import decode_adapter_state
from ..contracts.envelope import Invalid, read_envelope
from ..contracts.manifest import AdapterVersionV1
from ..contracts.topics import ADAPTERS
from .errors import AdapterRefusedError, BrokerUnreachableError, ClosedError, RewoundLineError
from .positions import FilePositions, Position, PositionStore
from .producer import AckPublisher, Delivery, as_broker
from .signatures import TrustedKeys
from .transport import Broker, StoredRecord

logger = logging.getLogger(__name__)

RESUME_SECONDS = (ADAPTERS.retention_seconds or 0) / 2
CLOCK_TOLERANCE_SECONDS = 600.0
"""A saved position older than this is not resumed from, because a tombstone may be gone by then."""


class UpdateKind(StrEnum):
    """What to do about a line."""

    SET = "set"  # hold the state's versions
    WITHDRAWN = "withdrawn"  # serve the base model; unload everything of the line


@dataclass(frozen=True, kw_only=True)
class AdapterUpdate:
    """One verified change of what to serve.

    Attributes:
        kind: hold the given state, or nothing.
        line_ref: pseudonym of the adapter line.
        epoch: its place in the order of the line.
        state: the desired state; ``None`` when withdrawn.
    """

    kind: UpdateKind
    line_ref: str
    epoch: int
    state: AdapterStateV1 | None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A record that was not handed out, and why; the line keeps what it had."""

    line_ref: str
    partition: int
    offset: int
    code: str
    text: str


@dataclass
class FeedCounts:
    """What the feed did since it was opened."""

    updates: int = 0
    stale: int = 0
    refused: int = 0


class AdapterFeed:
    """The desired state of all adapter lines, then its changes; for one thread.

    Args:
        broker: ``host:port``, a ``KafkaBroker`` with security settings, or an in-memory broker.
        trusted_keys: raw Ed25519 public keys; an update signed by no one of them is refused.
        server_id: name of this server in acks; stable over restarts.
        engine: kind of server in acks, for example ``vllm`` or ``peft``.
        lines: only these lines; by default all.
        positions: where to keep the position (a path or a store). Without it every start reads the full
            state, which is what a server wants that holds nothing yet. With it a start goes on where
            ``save`` was last called.
        on_refused: called for each record that was refused.
        seen: where the highest epoch of each line is kept over starts that read the full state; a path or a store.
        require_signed: refuse states and tombstones that no trusted key signed as a whole. Without it those of
            workers of 0.1.0 and before count too, and whoever may write to the topic may withdraw any line.
    """

    def __init__(
        self,
        broker: str | Broker,
        *,
        trusted_keys: Iterable[bytes],
        server_id: str = "server",
        engine: str = "custom",
        lines: Collection[str] | None = None,
        positions: Path | PositionStore | None = None,
        on_refused: Callable[[Refusal], None] | None = None,
        seen: Path | PositionStore | None = None,
        require_signed: bool = True,
    ) -> None:
        self._broker = as_broker(broker)
        self._trusted = TrustedKeys(trusted_keys)
        self._server_id = server_id
        self._engine = engine
        self._lines = None if lines is None else frozenset(lines)
        self._store = FilePositions(positions) if isinstance(positions, Path) else positions
        self._on_refused = on_refused
        self._require_signed = require_signed
        self._seen = FilePositions(seen) if isinstance(seen, Path) else seen
        self._floors = {} if self._seen is None else dict(self._seen.load().epochs)
        self._acks: AckPublisher | None = None
        self._closed = False
        self.counts = FeedCounts()
        self._position = Position() if self._store is None else self._store.load()
        self._source = self._broker.open_source(ADAPTERS.name)
        self._targets: dict[int, int] | None = None
        self._unseen: set[str] = set()
        self._resume()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def snapshot(self, *, timeout_seconds: float = 30.0) -> list[AdapterUpdate]:
        """Read to the present end of the topic; return the last update of each line, withdrawals included.

        When a saved position was too old to go on from, lines that exist no longer are withdrawn as well.

        Raises:
            BrokerUnreachableError: if the end was not reached in time.
        """
        end = time.monotonic() + timeout_seconds
        latest: dict[str, AdapterUpdate] = {}
        self._targets = {partition: bounds[1] for partition, bounds in self._source.bounds().items()}
        while not self.caught_up:
            for update in self.poll(0.2):
                latest[update.line_ref] = update
            if time.monotonic() > end and not self.caught_up:
                raise BrokerUnreachableError(
                    f"the end of {ADAPTERS.name} was not reached within {timeout_seconds:g} s; try again"
                )
        for line_ref in self._unseen:
            latest[line_ref] = _withdrawn(line_ref, self._position.epochs[line_ref])
        self._unseen.clear()
        return list(latest.values())

    @property
    def caught_up(self) -> bool:
        """Whether everything has been read that the topic held when ``snapshot`` was last called."""
        if self._targets is None:
            return False
        # The source passes gaps; the last records of a compacted topic, old tombstones, may be gone.
        return all(
            self._position.offsets.get(partition, 0) >= end or self._source.position(partition) >= end
            for partition, end in self._targets.items()
        )

    def poll(self, timeout_seconds: float = 1.0) -> list[AdapterUpdate]:
        """Return the next updates, oldest first; an empty list when there was none within the time-out.

        Raises:
            ClosedError: if the feed was closed.
        """
        if self._closed:
            raise ClosedError("the feed is closed; open a new one")
        updates = []
        for record in self._source.poll(timeout_seconds):
            update = self._take(record)
            self._position.offsets[record.partition] = record.offset + 1
            if update is not None:
                updates.append(update)
        if updates:
            self._keep_seen()
        return updates

    def follow(
        self, *, stop: Callable[[], bool] = lambda: False, poll_seconds: float = 0.5
    ) -> Iterator[AdapterUpdate]:
        """Yield the full state, then every change, until ``stop`` returns true.

        After the consumer comes back for the next update, the one before counts as handled: the position is
        saved if a store was given.
        """
        yield from self.snapshot()
        self.save()
        while not stop():
            yield from self.poll(poll_seconds)
            self.save()

    def save(self) -> None:
        """Keep the position: everything handed out so far is handled. Without a store it does nothing."""
        if self._store is not None:
            self._position.saved_at = time.time()
            self._store.save(self._position)

    def ack(
        self,
        version: AdapterVersionV1,
        status: AckStatus,
        *,
        epoch: int,
        reason: str | None = None,
        probe_effect: float | None = None,
    ) -> Delivery:
        """Report what this server did with a version.

        Args:
            version: the adapter version.
            status: loaded, verified, failed or unloaded.
            epoch: of the update that was acted on.
            reason: of a failure: a stable code.
            probe_effect: of a verification: mean absolute change of log-probability that was measured.
        """
        if self._acks is None:
            self._acks = AckPublisher(self._broker, source=f"/serving/{self._server_id}")
        return self._acks.publish(
            ServingAckV1(
                line_ref=version.manifest.line_ref,
                version_id=version.version_id,
                served_name=version.manifest.served_name,
                status=status,
                server_id=self._server_id,
                engine=self._engine,
                epoch=epoch,
                reason=reason,
                probe_effect=probe_effect,
                occurred_at=datetime.now(UTC),
            )
        )

    def close(self) -> None:
        """Send waiting acks and give back the connections."""
        if self._closed:
            return
        self._closed = True
        self._source.close()
        if self._acks is not None:
            try:
                self._acks.flush()
            finally:
                self._acks.close()

    def _keep_seen(self) -> None:
        """Write down the highest epochs before anybody acts on them."""
        if self._seen is None:
            return
        self._floors |= {
            line: max(epoch, self._floors.get(line, epoch)) for line, epoch in self._position.epochs.items()
        }
        self._seen.save(Position(epochs=dict(self._floors), saved_at=time.time()))

    def _resume(self) -> None:
        """Go to the saved offsets; one that no longer fits the topic is forgotten."""
        age = time.time() - self._position.saved_at
        if not -CLOCK_TOLERANCE_SECONDS <= age <= RESUME_SECONDS:
            # A tombstone may have been written and compacted away since (how long ago, a clock that was set back
            # does not tell): read the full state and compare.
            self._position.offsets.clear()
            self._unseen = set(self._position.epochs)
        bounds = self._source.bounds() if self._position.offsets else {}
        for partition, offset in list(self._position.offsets.items()):
            first, end = bounds.get(partition, (0, 0))
            if first <= offset <= end:
                self._source.seek(partition, offset)
            else:
                del self._position.offsets[partition]

    def _take(self, record: StoredRecord) -> AdapterUpdate | None:
        line_ref = (record.key or b"").decode(errors="replace")
        if self._lines is not None and line_ref not in self._lines:
            return None
        held = self._position.epochs.get(line_ref, -1)
        try:
            update = self._read(record, line_ref, held)
        except AdapterRefusedError as error:
            self._refuse(record, line_ref, error.code, str(error))
            return None
        if update is None:
            return None
        self._unseen.discard(line_ref)
        if update.epoch < self._floors.get(line_ref, 0):
            text = (
                f"epoch {update.epoch} lies below {self._floors[line_ref]}, which this server has seen: what is "
                "announced comes from a restored database; run `discreet restore` there"
            )
            self._refuse(record, line_ref, RewoundLineError.code, text)
            return None
        # Where records need no signature, a tombstone without an epoch withdraws and leaves the order as it is.
        if update.epoch < held or (update.epoch == held and update.state is not None):
            self.counts.stale += 1
            return None
        self._position.epochs[line_ref] = update.epoch
        self.counts.updates += 1
        return update

    def _read(self, record: StoredRecord, line_ref: str, held: int) -> AdapterUpdate | None:
        if self._require_signed:
            self._trusted.check_record(ADAPTERS.name, record.key, record.headers, record.value)
        if record.value is None:
            epoch = _tombstone_epoch(record)
            if epoch is None and self._require_signed:
                raise AdapterRefusedError("the tombstone names no epoch; have the line withdrawn again")
            return _withdrawn(line_ref, held if epoch is None else epoch)
        decoded = decode_adapter_state(record.headers, record.value, key=record.key)
        if isinstance(decoded, Invalid):
            self._refuse(record, line_ref, decoded.reason.value, decoded.detail)
            return None
        state = decoded.data
        for version in (state.adapter, state.candidate):
            if version is not None:
                if version.manifest.line_ref != line_ref:
                    raise AdapterRefusedError("the version belongs to another adapter line; refuse it")
                self._trusted.check(version)
        return AdapterUpdate(kind=UpdateKind.SET, line_ref=line_ref, epoch=state.epoch, state=state)

    def _refuse(self, record: StoredRecord, line_ref: str, code: str, text: str) -> None:
        self.counts.refused += 1
        self._unseen.discard(line_ref)
        logger.warning("an adapter update was refused (%s) at partition %d", code, record.partition)
        if self._on_refused is not None:
            refusal = Refusal(
                line_ref=line_ref, partition=record.partition, offset=record.offset, code=code, text=text
            )
            self._on_refused(refusal)


def _withdrawn(line_ref: str, epoch: int) -> AdapterUpdate:
    return AdapterUpdate(kind=UpdateKind.WITHDRAWN, line_ref=line_ref, epoch=epoch, state=None)


def _tombstone_epoch(record: StoredRecord) -> int | None:
    read = read_envelope(record.headers, b"")
    if isinstance(read, Invalid) or read[0].sequence is None or not read[0].sequence.isdecimal():
        return None
    return int(read[0].sequence)
