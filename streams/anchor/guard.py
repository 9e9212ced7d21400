"""Compares the database with its anchor, and writes down what moved: the heart of "no rewind".

Whoever writes holds one lock in the database until the anchor has confirmed, and reads what it writes under that lock:
records of one key are in order, however many processes write. Within a timeline nothing that was anchored is
written lower; a stale or repeated record that reaches the topic all the same is folded away when it is read.

A record that none of our keys signed counts for nothing. Where it is the only one left of a tenant (whoever may write
to the topic can have the good one compacted away), that tenant is refused until a person has looked.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from privacy.anchor.due import begin_timeline, due_rows, lock_anchor, settle, timeline
from privacy.boundary.marks import Kind
from privacy.errors import RewoundError
from privacy.ledger.anchoring import missing_entries
from privacy.storage.session import reading, transaction
from privacy.storage.subjects import Subject
from streams.anchor.marks import behind, offsets_behind, offsets_held, tenants_held
from streams.contracts.anchor import AnchorOffsetsV1, AnchorTenantV1, ErasedV1
from streams.contracts.codec import decode_anchor, decode_erased
from streams.contracts.envelope import Invalid
from streams.contracts.topics import ANCHOR_OFFSETS, ANCHOR_TENANT, USER_ERASED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from privacy.anchor.tables import AnchorDueRow
    from streams.anchor.seal import AnchorSeal
    from streams.anchor.store import AnchorStore
    from streams.contracts.codec import Record

log = structlog.get_logger(__name__)

WHAT_TO_DO = (
    "the database was set back: stop all workers and trainers, then run `discreet restore`, or put the newest "
    "database back"
)
OWNERS_AT_ONCE = 500


class AnchorGuard:
    """``privacy.anchor.port.Anchor`` over a store; threads of one process may share it.

    Args:
        engine: the database.
        store: where the anchor lies.
        seal: signs and checks its records.
        group: consumer group of the installation's workers, by which its records are told from others'.
        now: the clock, for the records' time; nothing is decided by it.
    """

    def __init__(
        self, engine: Engine, store: AnchorStore, seal: AnchorSeal, *, group: str, now: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._store = store
        self._seal = seal
        self._group = group
        self._now = now
        self._lock = threading.RLock()
        self._prefix = f"{group}/".encode()
        self._forged: set[bytes] = set()
        self._outdated: set[bytes] = set()
        self.tenants: dict[str, AnchorTenantV1] = {}
        self.offsets: AnchorOffsetsV1 | None = None

    def close(self) -> None:
        """Close the store's connections."""
        self._store.close()

    def check(self, tenant_id: str) -> None:
        """Compare one tenant and the database's timeline with the anchor.

        Raises:
            RewoundError: the database lies below.
            AnchorUnavailableError: the anchor cannot be read.
        """
        with self._lock:
            said = self._said_before()
            self.refresh()
            with reading(self._engine) as session:
                number = self._timeline(session, said=said)
                self._require(session, [tenant_id], number)

    def secure(self, tenant_id: str) -> None:
        """Anchor what is committed of one tenant.

        Raises:
            RewoundError: the database lies below.
            AnchorUnavailableError: the anchor did not confirm.
        """
        with self._lock, transaction(self._engine) as session:
            lock_anchor(session)
            self._advance(session, [tenant_id], [])

    def advance(self, most: int = OWNERS_AT_ONCE, *, offsets: bool = True) -> int:
        """Anchor what is due, and the offsets where asked; return how many notes were taken.

        Nothing is done where another process is at it.

        Raises:
            RewoundError: the database lies below.
            AnchorUnavailableError: the anchor did not confirm.
        """
        with self._lock, transaction(self._engine) as session:
            if not lock_anchor(session, wait=False):
                return 0
            rows = due_rows(session, most)
            if not rows and not offsets:
                return 0
            self._advance(session, {row.tenant_id for row in rows}, rows, offsets=offsets)
            settle(session, rows)
            return len(rows)

    def require_newest(self) -> None:
        """Compare everything that is anchored with the database.

        Raises:
            RewoundError: the database lies below.
            AnchorUnavailableError: the anchor cannot be read.
        """
        with self._lock:
            said = self._said_before()
            self.refresh()
            with reading(self._engine) as session:
                number = self._timeline(session, said=said)
                owners = sorted(self.tenants)
                for start in range(0, len(owners), OWNERS_AT_ONCE):
                    self._require(session, owners[start : start + OWNERS_AT_ONCE], number)
                self._require_offsets(offsets_held(session, self._group, number))

    def refresh(self) -> None:
        """Read what was written to the anchor since the last time.

        Raises:
            AnchorUnavailableError: it cannot be read to its end.
        """
        for record in self._store.read():
            if record.key.startswith(self._prefix) and record.value is not None:
                self._fold(record)

    def newest_timeline(self) -> int:
        """Return the highest timeline that is anchored, 0 where nothing is."""
        known = [one.timeline for one in self.tenants.values()]
        return max([*known, 0 if self.offsets is None else self.offsets.timeline], default=0)

    def behind(self, session: Session) -> dict[str, str]:
        """Return of each owner in what the database lies below the anchor, or that it is from before a restore.

        What is anchored in an earlier timeline than the database's is left out: a restore has reconciled it.
        """
        number = timeline(session) or 0
        found: dict[str, str] = {}
        owners = sorted(self.tenants)
        for start in range(0, len(owners), OWNERS_AT_ONCE):
            part = [
                one for one in owners[start : start + OWNERS_AT_ONCE] if self.tenants[one].timeline >= number
            ]
            held = tenants_held(session, self._group, part, number)
            chains = []
            for owner in part:
                anchored = self.tenants[owner]
                if anchored.timeline > number:
                    found[owner] = f"it is from before restore {anchored.timeline}"
                elif (what := behind(anchored, held.get(owner))) is not None:
                    found[owner] = what
                elif anchored.ledger is not None:
                    chains.append((owner, anchored.ledger.sequence, anchored.ledger.digest))
            for owner in missing_entries(session, chains):
                found[owner] = "the ledger does not hold the entry that is anchored"
        return found

    def erased(self) -> list[Subject]:
        """Return every user of the register of erasures, by entries that we have signed.

        Raises:
            AnchorUnavailableError: it cannot be read to its end.
        """
        entries = (self._decoded_entry(record) for record in self._store.erased())
        return sorted({Subject(one.tenant_id, one.pseudonym) for one in entries if one is not None})

    def renew(self) -> int:
        """Sign anew what a former key of this installation signed, as it stands; return how many records that were.

        Afterwards the former key may be forgotten.

        Raises:
            AnchorUnavailableError: the anchor cannot be read, or did not confirm.
        """
        with self._lock, transaction(self._engine) as session:
            lock_anchor(session)
            self.refresh()
            at, prefix = self._now(), self._prefix.decode()
            register = {record.key: record for record in self._store.erased()}
            outdated = (record for record in register.values() if self._seal.outdated(record))
            entries = [one for record in outdated if (one := self._decoded_entry(record)) is not None]
            records = [self._seal.sealed(Kind.ERASURE_REGISTER, one, USER_ERASED, at) for one in entries]
            records += [
                self._seal.sealed(Kind.ANCHOR, one, ANCHOR_TENANT, at)
                for owner, one in self.tenants.items()
                if f"{prefix}tenant/{owner}".encode() in self._outdated
            ]
            if self.offsets is not None and f"{prefix}offsets".encode() in self._outdated:
                records.append(self._seal.sealed(Kind.ANCHOR, self.offsets, ANCHOR_OFFSETS, at))
            self._store.write(records)
            self._outdated.clear()
            return len(records)

    def _decoded_entry(self, record: Record) -> ErasedV1 | None:
        if not record.key.startswith(self._prefix) or not self._seal.genuine(record):
            return None
        decoded = decode_erased(record.headers, record.value, key=record.key)
        return None if isinstance(decoded, Invalid) else decoded.data

    def restart(
        self,
        session: Session,
        number: int,
        owners: Collection[str],
        erased: Iterable[tuple[Subject, datetime]] = (),
    ) -> None:
        """Write everything that the database holds under a new timeline, whatever was anchored: the end of a restore.

        Args:
            session: the transaction of the restore, which holds the anchor's lock and commits after this.
            number: the new timeline.
            owners: everybody of whom the database holds anything.
            erased: users that are added to the register, with when they were erased.

        Raises:
            AnchorUnavailableError: the anchor did not confirm.
        """
        with self._lock:
            begin_timeline(session, number, self._now())
            rows = due_rows(session, None)
            names = sorted({*owners, *self.tenants})
            for start in range(0, len(names), OWNERS_AT_ONCE):
                part = names[start : start + OWNERS_AT_ONCE]
                held = tenants_held(session, self._group, part, number)
                self._write(list(held.values()), None, [])
            self._store.write([self._entry(*subject, at) for subject, at in erased])
            self._write([], offsets_held(session, self._group, number), rows)
            settle(session, rows)

    def _fold(self, record: Record) -> None:
        if not self._seal.genuine(record):
            log.warning("anchor_forged", topic=record.topic)
            self._forged.add(record.key)
            return
        decoded = decode_anchor(record.headers, record.value, key=record.key)
        if isinstance(decoded, Invalid):
            log.warning("anchor_unreadable", topic=record.topic, reason=decoded.reason.value)
            self._forged.add(record.key)
            return
        self._forged.discard(record.key)
        found = decoded.data
        (self._outdated.add if self._seal.outdated(record) else self._outdated.discard)(record.key)
        if isinstance(found, AnchorTenantV1):
            known = self.tenants.get(found.owner)
            if known is None or _follows(known, found):
                self.tenants[found.owner] = found
        elif self.offsets is None or (
            found.timeline > self.offsets.timeline
            or (found.timeline == self.offsets.timeline and offsets_behind(self.offsets, found) is None)
        ):
            self.offsets = found

    def lost(self, session: Session, *, said: bool = True) -> str | None:
        """Say why the anchor, as far as it was read, can tell nothing about this database; ``None`` where it can.

        ``said``: whether the database said that it was anchored before the anchor was read.
        """
        if self.tenants or self.offsets is not None:
            return None
        if self._forged:  # also where the key store was set back to before the signing key
            return (
                "what is anchored is not signed by this installation; put its key store back, or, if the database is "
                "the newest, find out who wrote it and run `discreet restore --accept-lost-anchor`"
            )
        if said and timeline(session) is not None:
            return (
                "the anchor holds nothing, though this database was anchored; put its topic or file back, or, if the "
                "database is the newest, run `discreet restore --accept-lost-anchor`"
            )
        return None

    def _said_before(self) -> bool:
        """Return whether the database says that it was anchored, asked before the anchor is read.

        All else is read after it. But whoever anchors for the first time writes the anchor and then says so here: who
        looks at the anchor before that, and here after it, takes it for lost.
        """
        if self.tenants or self.offsets is not None:
            return True  # nobody will ask
        with reading(self._engine) as session:
            return timeline(session) is not None

    def _timeline(self, session: Session, *, said: bool) -> int:
        """Return in which timeline the database is, having compared it with the anchor's.

        Raises:
            RewoundError: it is an earlier one, or the anchor is lost.
        """
        if (lost := self.lost(session, said=said)) is not None:
            raise RewoundError(lost)
        own, newest = timeline(session), self.newest_timeline()
        if (own or 0) < newest:
            raise RewoundError(f"the database is from before restore {newest}; {WHAT_TO_DO}")
        return own or 0

    def _require(self, session: Session, owners: Collection[str], number: int) -> dict[str, AnchorTenantV1]:
        """Return what the database holds of ``owners``, none of whom lies below the anchor."""
        held = tenants_held(session, self._group, owners, number)
        chains = []
        for owner in owners:
            anchored = self.tenants.get(owner)
            if anchored is None:
                if f"{self._group}/tenant/{owner}".encode() in self._forged:
                    raise RewoundError(
                        f"what is anchored of {owner} is not signed by this installation; find out who wrote it, then "
                        "run `discreet restore --accept-lost-anchor` if the database is the newest"
                    )
                continue
            if anchored.timeline < number:
                continue  # from before a restore, which has reconciled it
            if (what := behind(anchored, held.get(owner))) is not None:
                raise RewoundError(f"{owner}: {what}; {WHAT_TO_DO}")
            if anchored.ledger is not None:
                chains.append((owner, anchored.ledger.sequence, anchored.ledger.digest))
        for owner in sorted(missing_entries(session, chains)):
            raise RewoundError(f"{owner}: the ledger does not hold the entry that is anchored; {WHAT_TO_DO}")
        return held

    def _require_offsets(self, held: AnchorOffsetsV1) -> None:
        if self.offsets is None or self.offsets.timeline < held.timeline:
            return
        if (what := offsets_behind(self.offsets, held)) is not None:
            raise RewoundError(f"{what}; {WHAT_TO_DO}")

    def _advance(
        self,
        session: Session,
        owners: Collection[str],
        rows: Collection[AnchorDueRow],
        *,
        offsets: bool = False,
    ) -> None:
        said = timeline(session) is not None  # on SQLite this takes the lock that others wait for
        self.refresh()
        number = self._timeline(session, said=said)
        held = self._require(session, owners, number)
        moved = [one for owner, one in held.items() if self.tenants.get(owner) != one]
        consumed = None
        if offsets:
            consumed = offsets_held(session, self._group, number)
            self._require_offsets(consumed)
            if not consumed.offsets or consumed == self.offsets:
                consumed = None
        if not moved and consumed is None and not rows:
            return
        if timeline(session) is None:
            begin_timeline(session, 0, self._now())
        self._write(moved, consumed, rows)

    def _write(
        self,
        tenants: Collection[AnchorTenantV1],
        offsets: AnchorOffsetsV1 | None,
        rows: Collection[AnchorDueRow],
    ) -> None:
        at = self._now()
        records = [self._entry(row.tenant_id, row.pseudonym, at) for row in rows if row.pseudonym is not None]
        records += [self._seal.sealed(Kind.ANCHOR, one, ANCHOR_TENANT, at) for one in tenants]
        if offsets is not None:
            records.append(self._seal.sealed(Kind.ANCHOR, offsets, ANCHOR_OFFSETS, at))
        self._store.write(records)
        # Known at once: whoever asks next need not wait for the topic to come round.
        self.tenants.update((one.owner, one) for one in tenants)
        self.offsets = offsets or self.offsets

    def _entry(self, tenant_id: str, pseudonym: str, at: datetime) -> Record:
        event = ErasedV1(group=self._group, tenant_id=tenant_id, pseudonym=pseudonym, erased_at=at)
        return self._seal.sealed(Kind.ERASURE_REGISTER, event, USER_ERASED, at)


def _follows(known: AnchorTenantV1, found: AnchorTenantV1) -> bool:
    """Say whether a record may take the place of one that was read before."""
    if found.timeline != known.timeline:
        return found.timeline > known.timeline
    return behind(known, found) is None
