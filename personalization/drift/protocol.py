"""One reading of drift, in the only order of writes that keeps the guarantee under crashes.

    lease  →  freeze, reserve  ⇒  start  →  read  →  add up, add noise  →  record draw, store  ⇒  commit, judge, tell
    (txn)     (txn)               (txn)     (txn)                          (txn)                   (txn)

Every parenthesis is one committed transaction and checks the lease first; at each double arrow the ledger's head is
anchored outside the database. Until ``start`` nothing private was read. The noise is drawn once and what it gives is
stored in the transaction that records the draw: a repeat takes what is stored, and there is nothing to draw anew from,
since the seed lives in that transaction's memory alone. A crash between ``start`` and that transaction forfeits; what
was computed there nobody has seen.

Nothing is judged, told or done before the public instant that the terms name, and what is still open at their end
forfeits. The ledger's commit names the histogram by its digest, so ``discreet budget verify`` finds one that was
changed.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from personalization.drift import rows
from personalization.drift.detection import LARGEST_NOTICED, MOST_READINGS, judge, noticed_share
from personalization.drift.features import UNIT, VERSION, sum_of
from personalization.drift.reaction import react
from personalization.drift.values import DriftTerms, Histogram, ReadingOutcome, ReadingState
from personalization.errors import DriftError
from personalization.registry import queries as registry
from personalization.rounds.slots import LONGEST_WINDOW, slots_end, told_at
from personalization.signals.snapshot import data_digest
from privacy.accounting.calibration import (
    calibrate_policy,
    caps_of,
    drift_reading,
    readings_per_period,
    release_mechanisms,
)
from privacy.anchor.port import Unanchored
from privacy.canonical import digest_of, sha256_digest
from privacy.errors import BudgetExhaustedError, CalibrationError
from privacy.ledger import DrawRecord, RecoveryDecision, ReservationRequest, ReservationState
from privacy.ledger.populations import join_declared, population_of
from privacy.ledger.spending import readings_charged, spent_budget
from privacy.mechanisms.private_read import ReadPurpose
from privacy.noise.discrete import discrete_gaussian
from privacy.noise.keystream import PURPOSE_DRIFT, KeyUse, SecretStream, derive_key
from privacy.policy import versions as policies
from privacy.policy.values import DataPurpose
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.drift.rows import ReadingLease
    from personalization.drift.tables import DriftReadingRow
    from personalization.drift.values import Judgement
    from personalization.registry.announcements import AdapterEvents
    from personalization.signals.snapshot import WindowSource
    from privacy.anchor.port import Anchor
    from privacy.ledger import Ledger, Reservation
    from privacy.mechanisms.documents import Mechanism
    from privacy.mechanisms.gaussian import Gaussian
    from privacy.policy.ceilings import PolicyCeilings
    from privacy.policy.values import TenantPrivacyPolicy

_log = structlog.get_logger(__name__)
SEED_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True)
class Read:
    """How a reading ended.

    Attributes:
        outcome: how.
        judgement: what it says of the line; None where nothing was released.
        followed: what an alarm led to.
    """

    outcome: ReadingOutcome
    judgement: Judgement | None = None
    followed: str | None = None


class DriftReadings:
    """The protocol's steps; each is safe to be killed in.

    Args:
        engine: where readings, ledger, signals and registry live.
        clock: the public clock.
        ledger: the privacy ledger.
        signals: reads private data.
        events: where alarms are told.
        ceilings: what the platform allows a policy at most.
        anchor: holds the heads of ledgers outside the database; without one a restored backup spends again.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        *,
        ledger: Ledger,
        signals: WindowSource,
        events: AdapterEvents,
        ceilings: PolicyCeilings | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._ledger = ledger
        self._signals = signals
        self._events = events
        self._ceilings = ceilings
        self._anchor = anchor if anchor is not None else Unanchored()

    def take(self, lease: ReadingLease) -> Read | None:
        """Bring a leased reading as far as it goes now; None: it is drawn, and told when its instant has come.

        Raises:
            LeaseLostError: another trainer owns the reading by now; nothing more was written.
            FencedError: the same, seen by the ledger.
            StorageError: the database is away or was set back, or the anchor does not confirm; the lease runs out and
                the ledger decides.
        """
        self._anchor.check(lease.tenant_id)
        drawn = self._reserve_or_recover(lease)
        if isinstance(drawn, Read):
            return drawn
        if not drawn:
            self._anchor.secure(lease.tenant_id)
            self._start(lease)
            failed = self._read(lease)
            if failed is not None:
                return failed
        self._anchor.secure(lease.tenant_id)
        return self._finish(lease)

    def forfeit(self, lease: ReadingLease, why: str) -> Read:
        """Close a reading that cannot be gone on with; its charge stays unless it never started.

        Raises:
            LeaseLostError: another trainer owns the reading by now.
        """
        with transaction(self._engine) as session:
            row = rows.hold_reading(session, lease, self._clock())
            return self._given_up(session, row, lease.epoch, why)

    def _reserve_or_recover(self, lease: ReadingLease) -> Read | bool:
        """Freeze and reserve a fresh reading, or ask the ledger about one that was taken over; True: it is drawn."""
        with transaction(self._engine) as session:
            now = self._clock()
            row = rows.hold_reading(session, lease, now)
            if row.reservation_id is None:
                return self._reserve(session, row, lease) or False
            if _terms_of(row).ends_at <= now:
                return self._given_up(session, row, lease.epoch, "its time is over")
            decision = self._ledger.recover(session, row.reservation_id, lease.epoch).decision
            if decision is RecoveryDecision.RETRY and row.histogram_json is not None:
                return True
            if decision is RecoveryDecision.START:
                return False
            return self._given_up(
                session, row, lease.epoch, "the trainer stopped after it may have been read"
            )

    def _reserve(self, session: Session, row: DriftReadingRow, lease: ReadingLease) -> Read | None:
        version = policies.current_policy(session, row.tenant_id)
        policy = None if version is None else version.policy
        if version is None or policy is None or not policy.drift.read or row.domain not in policy.domains:
            return self._declined(session, row, ReadingOutcome.NOT_ASKED)
        mechanism = drift_reading(policy)
        refused = self._refused(session, row, policy, mechanism)
        if refused is not None or mechanism is None:
            return self._declined(session, row, refused or ReadingOutcome.NOT_ASKED)
        terms = _frozen(row, policy, version.version, mechanism, self._clock())
        period = policy.period_index(terms.until)
        join_declared(session, row.tenant_id, now=self._clock())  # stays though the reservation be refused
        request = ReservationRequest(
            tenant_id=row.tenant_id,
            policy_version=version.version,
            period_index=period,
            purpose=ReadPurpose.DRIFT,
            mechanisms=(mechanism,),
            idempotency_key=_key_of(row, terms),
            epoch=lease.epoch,
            caps=caps_of(policy),
            population=population_of(policy),
            opened_for=_release_of(session, row.tenant_id, period, policy),
        )
        try:
            with session.begin_nested():
                reservation = self._ledger.reserve(session, request)
        except BudgetExhaustedError as error:
            _log.info("drift_budget_exhausted", line_ref=row.line_ref, reason=str(error))
            return self._declined(session, row, ReadingOutcome.BUDGET_EXHAUSTED)
        row.reservation_id, row.terms_json = reservation.reservation_id, terms.to_json()
        session.add(row)
        return None

    def _refused(
        self, session: Session, row: DriftReadingRow, policy: TenantPrivacyPolicy, mechanism: Gaussian | None
    ) -> ReadingOutcome | None:
        """Say why nothing is read; by public numbers alone."""
        if DataPurpose.TRAINING not in policy.purposes:
            return ReadingOutcome.PURPOSE_NOT_ALLOWED
        if self._ceilings is not None and self._ceilings.exceeded(policy):
            return ReadingOutcome.ABOVE_CEILING
        if (
            mechanism is not None
            and noticed_share(mechanism.noise_multiplier, policy.declared_users, policy.drift.level)
            > LARGEST_NOTICED
        ):
            return ReadingOutcome.NOISE_TOO_LARGE
        ever, lately = readings_charged(session, row.tenant_id, policy.period_index(row.scheduled_for))
        if ever >= policy.drift.planned_readings or lately >= readings_per_period(policy):
            return ReadingOutcome.PLAN_USED_UP
        return None

    def _start(self, lease: ReadingLease) -> None:
        with transaction(self._engine) as session:
            row = rows.hold_reading(session, lease, self._clock())
            if row.reservation_id is None:
                raise DriftError("the reading has no reservation; it cannot be started")
            self._ledger.start(session, row.reservation_id, lease.epoch)

    def _read(self, lease: ReadingLease) -> Read | None:
        """Read, add up and draw once; what comes of it is stored with the record of the draw, and not told yet."""
        with transaction(self._engine) as session:
            row = rows.hold_reading(session, lease, self._clock())
            if row.reservation_id is None:
                raise DriftError("the reading has no reservation; it cannot be read")
            terms = _terms_of(row)
            wrong = _departure(self._ledger.attested(session, row.reservation_id), row, terms)
            if wrong is not None:
                return self._given_up(session, row, lease.epoch, wrong)
            users = self._signals.window(
                session,
                row.tenant_id,
                row.domain,
                since=terms.since,
                until=terms.until,
                contribution_bound=terms.contribution_bound,
            )
        total = sum_of(users)  # seconds of work with many users, so in no transaction
        seed = secrets.token_bytes(SEED_BYTES)
        draw = DrawRecord(
            seed_commitment=sha256_digest(b"discreet drift seed\0" + seed),
            data_digest=data_digest(derive_key(seed, KeyUse.DIGEST), users),
            code_digest=digest_of([VERSION, terms.digest()], ascii_only=True),
        )
        histogram = Histogram(
            sums=with_noise(total, terms.mechanism, derive_key(seed, KeyUse.DRIFT)),
            noise_multiplier=terms.mechanism.noise_multiplier,
            since=terms.since,
            until=terms.until,
        )
        with transaction(self._engine) as session:
            row = rows.hold_reading(session, lease, self._clock())
            self._ledger.record_draw(session, str(row.reservation_id), lease.epoch, draw)
            row.histogram_json = json.dumps(histogram.to_document(), sort_keys=True)
            session.add(row)
        return None

    def _finish(self, lease: ReadingLease) -> Read | None:
        """Release what is stored, judge it with what was released before, and do what the policy says; once."""
        with transaction(self._engine) as session:
            now = self._clock()
            row = rows.hold_reading(session, lease, now)
            terms, histogram = _terms_of(row), rows.histogram_of(row)
            if row.reservation_id is None or histogram is None:
                raise DriftError("the reading has nothing stored that could be released")
            until = _waits_until(session, row, terms, now)
            if until is not None:
                rows.put_down(session, row, until=until)
                return None
            terms = replace(terms, told_at=max(terms.told_at, row.due_at))
            registry.lock_line(session, row.line_ref)  # before the ledger's head, as whoever publishes does
            self._ledger.commit(
                session, row.reservation_id, lease.epoch, histogram.digest(), at=terms.told_at
            )
            before = rows.comparable(rows.released(session, row.tenant_id, row.domain, most=MOST_READINGS))
            judgement = judge([*before, histogram], level=terms.level, minimum_cohort=terms.minimum_cohort)
            row.judgement_json = json.dumps(judgement.to_document(), sort_keys=True)
            rows.close_reading(session, row, ReadingState.DONE, ReadingOutcome.RELEASED, now=terms.told_at)
            if judgement.drifted:
                row.followed = react(session, self._events, row, terms, judgement)
            return Read(outcome=ReadingOutcome.RELEASED, judgement=judgement, followed=row.followed)

    def _declined(self, session: Session, row: DriftReadingRow, outcome: ReadingOutcome) -> Read:
        rows.close_reading(session, row, ReadingState.DECLINED, outcome, now=self._clock())
        return Read(outcome=outcome)

    def _given_up(self, session: Session, row: DriftReadingRow, epoch: int, why: str) -> Read:
        """Give up a reading: what never started gives its budget back, the charge of anything else stays."""
        if row.reservation_id is not None:
            state = self._ledger.reservation(session, row.reservation_id).state
            if state is ReservationState.RESERVED:
                self._ledger.release(session, row.reservation_id, epoch)
            elif state is ReservationState.RUNNING:
                self._ledger.forfeit(session, row.reservation_id, epoch, why, at=row.scheduled_for)
        _log.warning("drift_reading_forfeited", line_ref=row.line_ref, reason=why)
        rows.close_reading(session, row, ReadingState.FAILED, ReadingOutcome.FORFEITED, now=self._clock())
        return Read(outcome=ReadingOutcome.FORFEITED)


def with_noise(sums: list[int], mechanism: Gaussian, key: bytes) -> tuple[int, ...]:
    """Return sums of parts with the noise that is charged, each bin with noise of its own."""
    stream, spread = SecretStream(key), mechanism.noise_multiplier * UNIT
    return tuple(
        one + discrete_gaussian(stream, PURPOSE_DRIFT, place, spread) for place, one in enumerate(sums)
    )


def _frozen(
    row: DriftReadingRow, policy: TenantPrivacyPolicy, version: int, mechanism: Gaussian, now: datetime
) -> DriftTerms:
    padding = timedelta(seconds=policy.release_padding_seconds)
    told = told_at(row.scheduled_for, now, padding)
    window = min(timedelta(seconds=policy.drift.every_seconds), policy.retention)
    return DriftTerms(
        mechanism=mechanism,
        since=row.scheduled_for - window,
        until=row.scheduled_for,
        contribution_bound=policy.contribution_bound,
        level=policy.drift.level,
        on_drift=policy.drift.on_drift,
        minimum_cohort=policy.minimum_cohort,
        policy_version=version,
        told_at=told,
        ends_at=max(told, now) + max(3 * padding, LONGEST_WINDOW),  # a round may be told two windows later
    )


def _waits_until(session: Session, row: DriftReadingRow, terms: DriftTerms, now: datetime) -> datetime | None:
    """Return until when a drawn reading is not told; ``None`` where its instant has come.

    What comes of a padded round of the line is held until its slot ends, and an alarm would send it at once and say by
    ``followed`` whether the round is done: both tell how long training took. So the alarm waits for that slot.
    """
    if now < terms.told_at:
        return terms.told_at
    padded = terms.told_at > terms.until
    return slots_end(session, row.tenant_id, row.domain, now) if padded else None


def _release_of(
    session: Session, tenant_id: str, period: int, policy: TenantPrivacyPolicy
) -> tuple[Mechanism, ...]:
    """Return what an account is to suit if this reading opens it: training, which most of it is for."""
    spent = spent_budget(session, tenant_id, period)
    if spent.lifetime is not None and spent.period is not None:
        return ()
    try:
        return release_mechanisms(policy, calibrate_policy(policy))
    except CalibrationError:
        return ()


def _terms_of(row: DriftReadingRow) -> DriftTerms:
    if row.terms_json is None:
        raise DriftError("the reading has no terms; it was never reserved")
    return DriftTerms.from_json(row.terms_json)


def _key_of(row: DriftReadingRow, terms: DriftTerms) -> str:
    """Return the key of the reservation: it names the terms, so nothing else is read on the same charge."""
    return f"drift-{row.reading_id}-{terms.digest().removeprefix('sha256:')}"


def _departure(reservation: Reservation, row: DriftReadingRow, terms: DriftTerms) -> str | None:
    if reservation.mechanisms != (terms.mechanism,):
        return "the mechanism that is charged is not that of the terms"
    return (
        None
        if reservation.idempotency_key == _key_of(row, terms)
        else "the terms are not those that were reserved for"
    )
