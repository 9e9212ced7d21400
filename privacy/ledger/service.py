"""The ledger's verbs. Each runs inside the caller's open transaction and is durable when that commits.

    reserve → start → record_draw → commit          every arrow before the next private step is its own commit
       │         └─────────┴──→ forfeit             a crash after start is spent
       └──→ release                                 only what never started gives its debit back

Order that makes the guarantee hold: ``reserve`` is committed before anything private is read, ``start``
before the first read, ``record_draw`` before the first noise is drawn. So every noise draw that ever
happened belongs to a reservation that is charged for good, and a reservation sees one noise key at most.

Fencing: a reservation carries the lease epoch of its owner. A lower epoch is refused everywhere; a higher
one takes over by ``reserve`` (same key), ``recover``, ``forfeit`` or ``release``, none of which lowers what
was really spent.

Longer than 400 lines, because the verbs and the order in which they may come are read together.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, update
from sqlmodel import col, select

from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, total_curve
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import AccountSettings
from privacy.errors import FencedError, LedgerIntegrityError, ReservationStateError, RetryMismatchError
from privacy.ledger.accounts import (
    check_against_chain,
    curve_in,
    locked_accounts,
    open_accounts,
    refuse_over_spend,
    set_curves,
    targets_of,
)
from privacy.ledger.admission import standing
from privacy.ledger.chain import (
    EntryKind,
    append,
    canonical,
    digest_of,
    digest_of_row,
    lock_head,
    lock_head_of,
    written,
)
from privacy.ledger.populations import caps_within, join
from privacy.ledger.reservations import draw_in, reservation_in, reservation_row, row_by_key, state_of
from privacy.ledger.spending import spend_of
from privacy.ledger.tables import LedgerEntryRow, ReservationRow
from privacy.ledger.values import (
    DrawRecord,
    Recovery,
    RecoveryDecision,
    Reservation,
    ReservationRequest,
    ReservationState,
    SpendView,
)
from privacy.mechanisms.documents import to_document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.sql.dml import Insert, Update
    from sqlmodel import Session

    from privacy.accounting.filters import BudgetCaps
    from privacy.ledger.tables import LedgerHeadRow

_FINAL = (ReservationState.COMMITTED, ReservationState.FORFEITED, ReservationState.RELEASED)


class Ledger:
    """The ledger over a caller's sessions; it holds no state of its own.

    Args:
        clock: returns the current aware time; only stamps entries, never decides.
        settings: how new accounts are opened.
    """

    def __init__(
        self,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        settings: AccountSettings | None = None,
    ) -> None:
        self._clock = clock
        self._settings = settings if settings is not None else AccountSettings()

    def reserve(self, session: Session, request: ReservationRequest) -> Reservation:
        """Check every filter, debit all of them, and return the reservation; or change nothing.

        A repeated key with the same request returns the first reservation in whatever state it is, uncharged.

        Raises:
            BudgetExhaustedError: a filter does not admit the request.
            RetryMismatchError: the key was used for another request.
            FencedError: a newer lease owns the reservation of this key.
            LedgerIntegrityError: the carried spend does not match the chain.
        """
        head = lock_head(session, request.tenant_id)
        mechanisms = [to_document(one) for one in request.mechanisms]
        request_digest = digest_of(
            [request.period_index, request.policy_version, request.purpose.value, mechanisms]
            + ([request.population.population_id] if request.population else [])
            + ([request.binding.to_document()] if request.binding else [])
        )
        before = standing(session, head, request.idempotency_key)
        existing = before.repeated
        if existing is not None:
            if existing.request_digest != request_digest:
                raise RetryMismatchError(
                    "the idempotency key was used for a request with other mechanisms, "
                    "period, policy, purpose or run; "
                    "ask again with the same request or with a new key"
                )
            return self._taken_over(session, head, existing, request.epoch)
        asked = total_curve(request.mechanisms)
        now = self._now()
        if request.population is not None:
            join(
                session, head, request.caps, [request.population],
                joined=before.populations, settings=self._settings, now=now,
            )  # fmt: skip
        populations = caps_within(before.populations, request.caps, request.population)
        targets = targets_of(request, populations)
        recipe = total_curve(request.opened_for) if request.opened_for else asked
        locked = open_accounts(session, head, targets, settings=self._settings, recipe=recipe, now=now)
        accounts = list(locked.rows.values())
        known = locked.entries if before.last is None else (before.last, *locked.entries)
        check_against_chain(session, head, accounts, known)
        for account, target in zip(accounts, targets, strict=True):
            refuse_over_spend(account, target, asked)
        row = ReservationRow(
            reservation_id=uuid.uuid4().hex,
            tenant_id=request.tenant_id,
            period_index=request.period_index,
            policy_version=request.policy_version,
            purpose=request.purpose.value,
            idempotency_key=request.idempotency_key,
            request_digest=request_digest,
            state=ReservationState.RESERVED.value,
            epoch=request.epoch,
            mechanisms=canonical(mechanisms),
            accounts=canonical([target.account_id for target in targets]),
            curve=canonical(asked.to_document()),
            binding=canonical(request.binding.to_document()) if request.binding else None,
        )
        curve_digests, debits = set_curves(accounts, [curve_in(one) + asked for one in accounts], head)
        document: dict[str, Any] = {
            "period_index": request.period_index,
            "policy_version": request.policy_version,
            "purpose": request.purpose.value,
            "idempotency_key": request.idempotency_key,
            "request_digest": request_digest,
            "epoch": request.epoch,
            "mechanisms": mechanisms,
            "accounts": [target.account_id for target in targets],
            "accountant": {"name": ACCOUNTANT, "version": ACCOUNTANT_VERSION},
            "curve": asked.to_document(),
            "curve_digests": curve_digests,
        }
        if request.binding is not None:
            document["binding"] = request.binding.to_document()
        opened = insert(ReservationRow.__table__).values(row.model_dump())  # type: ignore[attr-defined]
        return self._recorded(session, head, row, EntryKind.RESERVED, document, along=[*debits, opened])

    def start(self, session: Session, reservation_id: str, epoch: int) -> Reservation:
        """Mark a reservation running; commit this before the first private read.

        Raises:
            FencedError: a newer lease owns it.
            ReservationStateError: it is closed, or the caller must ``recover`` it first.
        """
        head, row = self._owned(session, reservation_id, epoch)
        state = state_of(row)
        if state is ReservationState.RUNNING:
            return reservation_in(row)
        self._require(row, ReservationState.RESERVED, verb="start")
        changes = {"state": ReservationState.RUNNING.value}
        return self._recorded(session, head, row, EntryKind.STARTED, {"epoch": epoch}, changes)

    def record_draw(self, session: Session, reservation_id: str, epoch: int, draw: DrawRecord) -> Reservation:
        """Fix the noise key, data snapshot and code of the run; commit this before the first noise is drawn.

        With an equal record already there this is the free deterministic retry.

        Raises:
            RetryMismatchError: another seed, data or code is recorded; that would be a second sample.
            FencedError: a newer lease owns it.
            ReservationStateError: it is not running, or the caller must ``recover`` it first.
        """
        head, row = self._owned(session, reservation_id, epoch)
        self._require(row, ReservationState.RUNNING, verb="record a draw for")
        recorded = draw_in(row)
        if recorded is not None:
            if recorded != draw:
                changed = [name for name in vars(draw) if getattr(draw, name) != getattr(recorded, name)]
                raise RetryMismatchError(
                    f"the retry differs from the recorded draw in {', '.join(changed)}; "
                    "forfeit this reservation and "
                    "reserve again, which is charged"
                )
            return reservation_in(row)
        changes = dict(vars(draw))
        return self._recorded(session, head, row, EntryKind.DRAWN, {"epoch": epoch, **changes}, changes)

    def record_look(self, session: Session, reservation_id: str, epoch: int, look: int) -> Reservation:
        """Write down that the charge buys this look; commit it before anything of the look is read.

        One charge may pay for several looks at different users. Each is bought once: who finds it recorded and knows no
        output of it must take it for lost.

        Args:
            session: the caller's open transaction.
            reservation_id: a running reservation with a recorded draw.
            epoch: lease epoch of the caller.
            look: its number, from 0.

        Raises:
            RetryMismatchError: the look was bought before, or is none of those that are charged.
            FencedError: a newer lease owns the reservation.
            ReservationStateError: it is not running, or no draw was recorded.
        """
        head, row = self._owned(session, reservation_id, epoch)
        self._require(row, ReservationState.RUNNING, verb="look for")
        if draw_in(row) is None:
            raise ReservationStateError(
                "no draw is recorded for the reservation; record it before any noise is drawn"
            )
        charged = max(getattr(one, "looks", 0) for one in reservation_in(row).mechanisms)
        if not 0 <= look < charged:
            raise RetryMismatchError(
                f"look {look} is asked for; the charge pays for {charged}, counted from 0, so reserve again"
            )
        if look in self.looks(session, reservation_id):
            raise RetryMismatchError(f"look {look} was taken before; read what it told, or go on without it")
        return self._recorded(session, head, row, EntryKind.LOOKED, {"epoch": epoch, "look": look})

    def looks(self, session: Session, reservation_id: str) -> frozenset[int]:
        """Return the looks that a reservation has bought."""
        session.flush()
        documents = session.exec(
            select(LedgerEntryRow.document).where(
                col(LedgerEntryRow.reservation_id) == reservation_id,
                col(LedgerEntryRow.kind) == EntryKind.LOOKED.value,
            )
        )
        return frozenset(int(json.loads(document)["look"]) for document in documents)

    def commit(
        self,
        session: Session,
        reservation_id: str,
        epoch: int,
        artifact_digest: str | None = None,
        *,
        at: datetime | None = None,
    ) -> Reservation:
        """Close a reservation whose result is released in the same transaction.

        Args:
            session: the caller's open transaction.
            reservation_id: a running reservation with a recorded draw.
            epoch: lease epoch of the caller.
            artifact_digest: of what is published; None when only noisy statistics came out.
            at: the public instant that the entry is stamped with; None takes the clock. A published digest of an
                entry tells its time to whoever tries them all.

        Raises:
            RetryMismatchError: it was committed with another artifact.
            FencedError: a newer lease owns it.
            ReservationStateError: it is not running, or no draw was recorded.
        """
        head, row = self._owned(session, reservation_id, epoch)
        if state_of(row) is ReservationState.COMMITTED:
            if row.artifact_digest != artifact_digest:
                raise RetryMismatchError(
                    "the reservation was committed with another artifact; publish that one"
                )
            return reservation_in(row)
        self._require(row, ReservationState.RUNNING, verb="commit")
        if draw_in(row) is None:
            raise ReservationStateError(
                "no draw is recorded for the reservation; record it before any noise is drawn"
            )
        changes = {"state": ReservationState.COMMITTED.value, "artifact_digest": artifact_digest}
        document = {"epoch": epoch, "artifact_digest": artifact_digest}
        return self._recorded(session, head, row, EntryKind.COMMITTED, document, changes, at=at)

    def forfeit(
        self,
        session: Session,
        reservation_id: str,
        epoch: int,
        reason: str,
        *,
        at: datetime | None = None,
    ) -> Reservation:
        """Close a reservation without a result; its charge stays for good.

        Args:
            session: the caller's open transaction.
            reservation_id: a reserved or running reservation.
            epoch: lease epoch of the caller.
            reason: one sentence.
            at: the public instant that the entry is stamped with; None takes the clock.

        Raises:
            FencedError: a newer lease owns it.
            ReservationStateError: it was committed or released.
        """
        head, row = self._locked(session, reservation_id)
        self._fence(row, epoch)
        if state_of(row) is ReservationState.FORFEITED:
            return reservation_in(row)
        self._require(row, ReservationState.RESERVED, ReservationState.RUNNING, verb="forfeit")
        document = {"epoch": epoch, "reason": reason[:200]}
        changes = {"state": ReservationState.FORFEITED.value, **document}
        return self._recorded(session, head, row, EntryKind.FORFEITED, document, changes, at=at)

    def release(self, session: Session, reservation_id: str, epoch: int) -> Reservation:
        """Give the debit of a reservation back that never started, to the last pico-nat.

        Raises:
            FencedError: a newer lease owns it.
            ReservationStateError: it started: whatever was read stays charged.
        """
        head, row = self._locked(session, reservation_id)
        self._fence(row, epoch)
        if state_of(row) is ReservationState.RELEASED:
            return reservation_in(row)
        self._require(row, ReservationState.RESERVED, verb="release")
        account_ids = json.loads(row.accounts)
        locked = locked_accounts(session, account_ids)
        if missing := [one for one in account_ids if one not in locked.rows]:
            raise LedgerIntegrityError(f"account {missing[0]} is missing; run `discreet budget verify`")
        accounts = [locked.rows[one] for one in account_ids]
        check_against_chain(session, head, accounts, locked.entries)
        curve = RdpCurve.from_document(json.loads(row.curve))
        digests, refunds = set_curves(accounts, [curve_in(one) - curve for one in accounts], head)
        document = {"epoch": epoch, "curve": curve.to_document(), "curve_digests": digests}
        changes = {"state": ReservationState.RELEASED.value, "epoch": epoch}
        return self._recorded(session, head, row, EntryKind.RELEASED, document, changes, along=refunds)

    def recover(self, session: Session, reservation_id: str, new_epoch: int) -> Recovery:
        """Take a reservation over under a newer lease and say what may happen next, from the ledger alone.

        A run without a recorded draw is forfeited here: its data may have been read.

        Raises:
            FencedError: ``new_epoch`` is lower than the recorded one.
        """
        head, row = self._locked(session, reservation_id)
        reservation = self._taken_over(session, head, row, new_epoch)
        if reservation.state is ReservationState.RESERVED:
            return Recovery(decision=RecoveryDecision.START, reservation=reservation)
        if reservation.state is ReservationState.COMMITTED:
            return Recovery(decision=RecoveryDecision.DONE, reservation=reservation)
        if reservation.state is not ReservationState.RUNNING:
            return Recovery(decision=RecoveryDecision.CLOSED, reservation=reservation)
        if reservation.draw is not None:
            return Recovery(decision=RecoveryDecision.RETRY, reservation=reservation)
        # A crash, or work that failed after reading: the ledger cannot tell them apart, and must not.
        forfeited = self.forfeit(session, reservation_id, new_epoch, "it ended before its draw was recorded")
        return Recovery(decision=RecoveryDecision.FORFEITED, reservation=forfeited)

    def reservation(self, session: Session, reservation_id: str) -> Reservation:
        """Return a reservation.

        Raises:
            ReservationStateError: there is none of that id.
        """
        return reservation_in(reservation_row(session, reservation_id))

    def attested(self, session: Session, reservation_id: str) -> Reservation:
        """Return a reservation whose mechanisms and run are those that its entry in the chain records.

        Raises:
            ReservationStateError: there is none of that id.
            LedgerIntegrityError: its row was changed outside the ledger, or its entry was.
        """
        row = reservation_row(session, reservation_id)
        session.flush()
        entry = session.exec(
            select(LedgerEntryRow).where(
                col(LedgerEntryRow.reservation_id) == reservation_id,
                col(LedgerEntryRow.kind) == EntryKind.RESERVED.value,
            )
        ).first()
        if entry is None or digest_of_row(entry) != entry.digest:
            raise LedgerIntegrityError(
                "the entry of a reservation is missing or changed; run `discreet budget verify`"
            )
        recorded = json.loads(entry.document)
        binding = None if row.binding is None else json.loads(row.binding)
        if recorded["mechanisms"] != json.loads(row.mechanisms) or recorded.get("binding") != binding:
            raise LedgerIntegrityError(
                "a reservation differs from its entry in the chain; run `discreet budget verify`"
            )
        return reservation_in(row)

    def find(self, session: Session, tenant_id: str, idempotency_key: str) -> Reservation | None:
        """Return the reservation of a chain's idempotency key, if there is one."""
        row = row_by_key(session, tenant_id, idempotency_key)
        return None if row is None else reservation_in(row)

    def entry_digest(
        self, session: Session, reservation_id: str, kind: EntryKind = EntryKind.COMMITTED
    ) -> str:
        """Return the digest of a reservation's entry of this kind, for manifests and statements.

        Raises:
            ReservationStateError: the reservation has no such entry.
        """
        session.flush()
        digest = session.exec(
            select(LedgerEntryRow.digest).where(
                col(LedgerEntryRow.reservation_id) == reservation_id, col(LedgerEntryRow.kind) == kind.value
            )
        ).first()
        if digest is None:
            raise ReservationStateError(f"the reservation has no {kind.value} entry; nothing may refer to it")
        return digest

    def spend(
        self, session: Session, tenant_id: str, period_index: int, caps: BudgetCaps | None = None
    ) -> SpendView:
        """Return what a tenant spent; ``caps`` stand in for accounts that nothing was charged to yet."""
        return spend_of(session, tenant_id, period_index, caps)

    def _now(self) -> datetime:
        return self._clock().astimezone(UTC)

    def _locked(self, session: Session, reservation_id: str) -> tuple[LedgerHeadRow, ReservationRow]:
        head = lock_head_of(session, reservation_id)
        if head is None:
            head = lock_head(session, reservation_row(session, reservation_id).tenant_id)
        return head, reservation_row(session, reservation_id)  # after the head's lock, which makes it current

    def _owned(
        self, session: Session, reservation_id: str, epoch: int
    ) -> tuple[LedgerHeadRow, ReservationRow]:
        head, row = self._locked(session, reservation_id)
        self._fence(row, epoch)
        if epoch > row.epoch:
            raise ReservationStateError(
                f"epoch {epoch} does not own the reservation (epoch {row.epoch} does); "
                "take it over with recover first"
            )
        return head, row

    def _fence(self, row: ReservationRow, epoch: int) -> None:
        if epoch < row.epoch:
            raise FencedError(
                f"epoch {epoch} lost the reservation to epoch {row.epoch}; stop, a newer "
                "trainer owns the round"
            )

    def _taken_over(
        self, session: Session, head: LedgerHeadRow, row: ReservationRow, epoch: int
    ) -> Reservation:
        self._fence(row, epoch)
        if epoch == row.epoch or state_of(row) in _FINAL:
            return reservation_in(row)
        document = {"epoch": epoch, "previous_epoch": row.epoch}
        return self._recorded(session, head, row, EntryKind.RECOVERED, document, {"epoch": epoch})

    def _require(self, row: ReservationRow, *allowed: ReservationState, verb: str) -> None:
        if state_of(row) not in allowed:
            names = " or ".join(one.value for one in allowed)
            raise ReservationStateError(
                f"cannot {verb} a reservation that is {row.state}; it must be {names}"
            )

    def _recorded(
        self,
        session: Session,
        head: LedgerHeadRow,
        row: ReservationRow,
        kind: EntryKind,
        document: dict[str, Any],
        changes: Mapping[str, Any] | None = None,
        *,
        along: Sequence[Insert | Update] = (),
        at: datetime | None = None,
    ) -> Reservation:
        """Append an entry of a reservation together with the changes of its row."""
        writes = list(along)
        if changes:
            rows = ReservationRow.__table__  # type: ignore[attr-defined]
            writes.append(
                update(rows).where(rows.c.reservation_id == row.reservation_id).values(dict(changes))
            )
        append(
            session,
            head,
            kind=kind,
            recorded_at=self._now() if at is None else at.astimezone(UTC),
            reservation_id=row.reservation_id,
            document=document,
            along=writes,
        )
        written(row, changes or {})
        return reservation_in(row)
