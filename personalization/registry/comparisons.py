"""Charged decisions: the transactions in which users' reactions to a candidate and to the version are compared.

    reserve  ⇒  (start, record the draw,) buy the look  ⇒  read, draw, store the look  →  commit | forfeit | release
    (txn)       (txn)                                      (txn)                          (txn, with the verdict)

What all looks cost together is reserved when the candidate enters its last step, before anything is read, and stays
charged however early the comparison ends. At each double arrow the ledger's head is anchored outside the database. A
look is written into the ledger's chain before it is read, and what it told is stored before anybody sees it: whoever
finds the one without the other takes the look for lost and goes on without it, so no look is ever drawn twice. A
restored database forfeits the reservation, and with it the comparison.

Looks are due at public instants, counted from when the comparison began. Whatever ends a rollout, or changes who gets
the candidate, ends its comparison undecided; the reactions are dropped then, and the seed of the noise with them.

Longer than 400 lines, because the order of these transactions is the guarantee and is to be read in one place.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from personalization.errors import PersonalizationError, RolloutError
from personalization.registry import queries as registry
from personalization.rollouts import comparison_rows, looks, reactions
from personalization.rollouts import rows as rollouts
from personalization.rollouts.comparing import compare, release
from personalization.rollouts.deciding import LOOK
from personalization.rollouts.evidence import Verdict
from privacy.accounting.calibration import calibrate_policy, caps_of, release_mechanisms
from privacy.anchor.port import Unanchored
from privacy.canonical import digest_of, sha256_digest
from privacy.errors import (
    BudgetExhaustedError,
    CalibrationError,
    KeyServiceError,
    KeyUnavailableError,
    PrivacyError,
    RetryMismatchError,
    StorageError,
)
from privacy.keys.batch_locks import join_batches
from privacy.ledger import DrawRecord, ReservationRequest, ReservationState, RunBinding
from privacy.ledger.populations import join_declared, population_of
from privacy.mechanisms.private_read import ReadPurpose
from privacy.noise.keystream import KEY_BYTES, KeyUse, SecretStream, derive_key
from privacy.policy import versions as policies
from privacy.policy.values import DataPurpose
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.rollouts.tables import ComparisonRow, RolloutRow
    from personalization.rollouts.values import ComparisonPlan
    from privacy.anchor.port import Anchor
    from privacy.keys.keyring import Keyring
    from privacy.ledger import Ledger, Reservation
    from privacy.mechanisms.documents import Mechanism
    from privacy.policy.ceilings import PolicyCeilings
    from privacy.policy.values import TenantPrivacyPolicy

_log = structlog.get_logger(__name__)
LINES: Final = 200  # attended to in one turn
EPOCH: Final = 0  # the line's lock keeps two of us apart; a bought look does what a fencing token would
_SEEDS: Final = "comparison-seed:"


class Comparisons:
    """Begins comparisons, takes their looks and ends them; each step is safe to be killed in.

    Args:
        engine: the database.
        ledger: where they are charged.
        keyring: wraps the seeds of their noise.
        ceilings: what the platform allows a policy at most.
        anchor: holds the heads of ledgers outside the database.
        alone: how long a bought look is left to whoever bought it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        ledger: Ledger,
        keyring: Keyring,
        ceilings: PolicyCeilings | None = None,
        anchor: Anchor | None = None,
        alone: timedelta = 5 * LOOK,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._keyring = keyring
        self._ceilings = ceilings
        self._anchor: Anchor = anchor if anchor is not None else Unanchored()
        self._alone = alone

    def run(
        self,
        *,
        now: datetime,
        check: Callable[[Session, datetime], None] | None = None,
        failed: Callable[[], None] = lambda: None,
        leaving: Callable[[], bool] = lambda: False,
    ) -> int:
        """Attend to every comparison that is due and return how many steps were taken.

        Args:
            now: the public clock.
            check: raises where the clock must not be trusted.
            failed: told of each line whose comparison failed, which is tried again.
            leaving: whether to end before the next step; what is due stays due.

        Raises:
            StorageError: the database is away or was set back, or the anchor does not confirm.
        """
        with transaction(self._engine) as session:
            if check is not None:
                check(session, now)
            due = [
                (row.line_ref, row.tenant_id) for row in rollouts.comparisons_due(session, now, most=LINES)
            ]
        steps = 0
        for line_ref, tenant_id in due:
            try:
                while not leaving() and self._step(line_ref, tenant_id, now):
                    steps += 1
            except StorageError:
                raise
            except (PersonalizationError, PrivacyError) as error:
                failed()
                _log.warning("chore_failed", chore="comparisons", code=error.code, line_ref=line_ref)
                self._put_off(line_ref, now + LOOK)
        return steps

    def forget_closed(self) -> int:
        """Destroy the keys of the seeds of comparisons that are closed and return how many there were.

        Raises:
            StorageError: the database or the key store cannot be reached.
        """
        held = set(self._keyring.store.secrets(_SEEDS))
        if not held:
            return 0
        ids = [purpose.removeprefix(_SEEDS) for purpose in held]
        with transaction(self._engine) as session:
            closed = comparison_rows.closed_among(session, ids)
        self._keyring.forget([_seed_purpose(version_id) for version_id in sorted(closed)])
        return len(closed)

    def _step(self, line_ref: str, tenant_id: str, now: datetime) -> bool:
        """Take the next step of a line's comparison; False where there is none now."""
        with transaction(self._engine) as session:
            join_batches(session, [tenant_id])
            registry.lock_line(session, line_ref)
            row = rollouts.find(session, line_ref)
            if row is None or row.compare_at is None or row.compare_at > now:
                return False
            stands = rollouts.value_of(row)
            for left in comparison_rows.open_of_line(session, line_ref):
                if left.candidate_version_id != stands.candidate or not stands.comparing:
                    self._end(session, left, Verdict.UNDECIDED, now)
                    if left.candidate_version_id == stands.candidate:
                        rollouts.judge(session, row, Verdict.UNDECIDED, now)
            comparison = comparison_rows.find(session, row.candidate_version_id)
            if not stands.comparing or (
                comparison is not None and comparison.state == comparison_rows.CLOSED
            ):
                rollouts.attend(session, row, None)
                return False
            if comparison is None:
                look = None
            else:
                look = len(looks.taken(session, comparison.candidate_version_id))
                due = comparison_rows.plan_of(comparison).due_at(comparison.begun_at, look)
                if now < due:
                    rollouts.attend(session, row, due)
                    return False
        if look is None:
            self._anchor.check(tenant_id)
            return self._begin(line_ref, now)
        self._anchor.secure(tenant_id)  # the charge
        try:
            if self._buy(line_ref, tenant_id, look, now):
                self._anchor.secure(tenant_id)  # and that it bought this look
                self._take(line_ref, tenant_id, look, now)
        except KeyServiceError:
            raise
        except KeyUnavailableError:
            self._give_up(line_ref, tenant_id, now)
        return True

    def _begin(self, line_ref: str, now: datetime) -> bool:
        """Reserve what a comparison costs, or note that it cannot be had; False where there is nothing to compare."""
        with transaction(self._engine) as session:
            line = registry.lock_line(session, line_ref)
            row = rollouts.find(session, line_ref)
            current = registry.current_version(session, line)
            candidate = registry.get_version(session, "" if row is None else row.candidate_version_id or "")
            if row is None:
                return False
            plan = rollouts.value_of(row).plan.comparison
            if current is None or candidate is None or plan is None:
                rollouts.attend(session, row, None)
                return False
            if comparison_rows.find(session, candidate.version_id) is not None:
                return True  # another was faster
            seed = secrets.token_bytes(KEY_BYTES)
            reserved = self._reserve(session, line.tenant_id, candidate.version_id, plan, seed, now)
            wrapped = None
            if reserved is None:
                rollouts.judge(session, row, Verdict.NOT_CHARGED, now)
                rollouts.attend(session, row, None)
            else:
                wrapped = self._keyring.wrap(seed, _seed_purpose(candidate.version_id), now=now)
                rollouts.attend(session, row, plan.due_at(now, 0))
            comparison_rows.begin(
                session,
                plan,
                version_id=candidate.version_id,
                line_ref=line_ref,
                tenant_id=line.tenant_id,
                domain=line.domain,
                names=(candidate.served_name, current.served_name),
                salt=row.salt,
                now=now,
                reservation_id=None if reserved is None else reserved.reservation_id,
                wrapped_seed=wrapped,
            )
            return True

    def _reserve(
        self,
        session: Session,
        tenant_id: str,
        version_id: str,
        plan: ComparisonPlan,
        seed: bytes,
        now: datetime,
    ) -> Reservation | None:
        """Return the reservation, ``None`` where policy, ceilings or budget admit none."""
        version = policies.current_policy(session, tenant_id)
        if version is None or DataPurpose.EVALUATION not in version.policy.purposes:
            return None
        policy = version.policy
        if self._ceilings is not None and self._ceilings.exceeded(policy):
            return None
        digest = plan.digest()
        request = ReservationRequest(
            tenant_id=tenant_id,
            policy_version=version.version,
            period_index=policy.period_index(now),
            purpose=ReadPurpose.KPI,
            mechanisms=(plan.mechanism,),
            idempotency_key=f"comparison-{version_id}",
            epoch=EPOCH,
            caps=caps_of(policy),
            population=population_of(policy),
            binding=RunBinding(
                plan_digest=digest,
                terms_digest=digest_of(
                    {"candidate": version_id, "begun_at": now.isoformat(), "plan": digest}
                ),
                receipt_key=looks.public_key(seed),
            ),
            opened_for=_releases_of(policy),
        )
        join_declared(session, tenant_id, now=now)  # stays though the reservation be refused
        try:
            with session.begin_nested():
                return self._ledger.reserve(session, request)
        except BudgetExhaustedError:
            return None

    def _buy(self, line_ref: str, tenant_id: str, look: int, now: datetime) -> bool:
        """Write a look into the ledger; False where it was bought before and is lost, or cannot be had any more."""
        with transaction(self._engine) as session:
            join_batches(session, [tenant_id])
            registry.lock_line(session, line_ref)
            row, comparison, reservation = self._going_on(session, line_ref)
            if (
                row is None
                or comparison is None
                or len(looks.taken(session, row.candidate_version_id or "")) != look
            ):
                return False
            if reservation is None:
                self._decide(session, row, comparison, None, now)
                return False
            if reservation.state is ReservationState.RESERVED:
                self._ledger.start(session, reservation.reservation_id, EPOCH)
                self._ledger.record_draw(
                    session, reservation.reservation_id, EPOCH, self._draw(comparison, reservation)
                )
            try:
                self._ledger.record_look(session, reservation.reservation_id, EPOCH, look)
            except RetryMismatchError:
                looks.lose(session, comparison.candidate_version_id, look, now)
                reactions.empty_look(session, comparison, look)
                self._decide(session, row, comparison, reservation, now)
                return False
            rollouts.attend(session, row, now + self._alone)  # others leave it to us for so long
            return True

    def _take(self, line_ref: str, tenant_id: str, look: int, now: datetime) -> None:
        """Read, draw and store a look that was bought, unless somebody took it for lost meanwhile."""
        with transaction(self._engine) as session:
            join_batches(session, [tenant_id])  # before any row is locked
            registry.lock_line(session, line_ref)
            row, comparison, reservation = self._going_on(session, line_ref)
            if row is None or comparison is None:
                return
            if reservation is None:
                self._decide(session, row, comparison, None, now)
                return
            if len(looks.taken(session, comparison.candidate_version_id)) != look:
                return
            if look not in self._ledger.looks(session, reservation.reservation_id):
                raise RolloutError(f"look {look} is not in the ledger; nothing may be read for it")
            seed = self._seed(comparison)
            plan = comparison_rows.plan_of(comparison)
            stream = SecretStream(derive_key(seed, KeyUse.COMPARISON))
            sums = release(plan.mechanism, reactions.parts(session, comparison, plan, look), stream, look)
            looks.store(
                session, comparison.candidate_version_id, reservation.reservation_id, look, sums, seed, now
            )
            reactions.empty_look(session, comparison, look)
            self._decide(session, row, comparison, reservation, now)

    def _give_up(self, line_ref: str, tenant_id: str, now: datetime) -> None:
        """End a comparison whose seed cannot be opened any more."""
        with transaction(self._engine) as session:
            join_batches(session, [tenant_id])
            registry.lock_line(session, line_ref)
            row, comparison, _ = self._going_on(session, line_ref)
            if row is not None and comparison is not None:
                self._decide(session, row, comparison, None, now)

    def _decide(
        self,
        session: Session,
        row: RolloutRow,
        comparison: ComparisonRow,
        reservation: Reservation | None,
        now: datetime,
    ) -> None:
        """Say what the stored looks say, and end the comparison where that is final; nothing private is read."""
        plan = comparison_rows.plan_of(comparison)
        verdict = Verdict.UNDECIDED
        if reservation is not None:
            over = len(looks.taken(session, comparison.candidate_version_id))
            last = over >= plan.mechanism.looks
            sums = looks.released(session, comparison.candidate_version_id, reservation)
            if sums is None:
                _log.error("look_changed", code=RolloutError.code, line_ref=comparison.line_ref)
                verdict = Verdict.UNDECIDED
            elif sums:
                found = compare(
                    plan.mechanism, plan.arms, sums, expected_users=plan.reacting_users, last=last
                )
                verdict = found.verdict
            else:
                verdict = Verdict.UNDECIDED if last else Verdict.NONE
            if verdict is Verdict.NONE:
                rollouts.attend(session, row, plan.due_at(comparison.begun_at, over))
                return
        self._end(session, comparison, verdict, now)
        rollouts.judge(session, row, verdict, now)
        rollouts.attend(session, row, None)

    def _end(self, session: Session, comparison: ComparisonRow, verdict: Verdict, now: datetime) -> None:
        """Close a comparison: its charge stays unless nothing was read, its reactions and its seed go."""
        if comparison.reservation_id is not None:
            reservation = self._ledger.attested(session, comparison.reservation_id)
            told = [looks.sums_of(row) for row in looks.taken(session, comparison.candidate_version_id)]
            if reservation.state is ReservationState.RESERVED:
                self._ledger.release(session, reservation.reservation_id, EPOCH)
            elif reservation.state is ReservationState.RUNNING and any(told):
                self._ledger.commit(session, reservation.reservation_id, EPOCH, at=now)
            elif reservation.state is ReservationState.RUNNING:
                reason = "The comparison ended before a look told anything."
                self._ledger.forfeit(session, reservation.reservation_id, EPOCH, reason, at=now)
        reactions.drop(session, comparison.candidate_version_id)
        comparison_rows.close(session, comparison, verdict, now)

    def _going_on(
        self, session: Session, line_ref: str
    ) -> tuple[RolloutRow | None, ComparisonRow | None, Reservation | None]:
        """Return a line's open comparison as it stands under the lock; the reservation only where it may be used.

        It may not where it is for something else, nor once the policy allows no evaluation any more.
        """
        row = rollouts.find(session, line_ref)
        if row is None or not rollouts.value_of(row).comparing:
            return None, None, None
        comparison = comparison_rows.find(session, row.candidate_version_id, lock=True)
        if (
            comparison is None
            or comparison.state == comparison_rows.CLOSED
            or comparison.reservation_id is None
        ):
            return row, None, None
        reservation = self._ledger.attested(session, comparison.reservation_id)
        plan = comparison_rows.plan_of(comparison)
        binding = reservation.binding
        version = policies.current_policy(session, comparison.tenant_id)  # looks go on for weeks
        as_charged = (
            version is not None
            and DataPurpose.EVALUATION in version.policy.purposes
            and binding is not None
            and binding.plan_digest == plan.digest()
            and reservation.mechanisms == (plan.mechanism,)
            and reservation.state in {ReservationState.RESERVED, ReservationState.RUNNING}
        )
        return row, comparison, reservation if as_charged else None

    def _draw(self, comparison: ComparisonRow, reservation: Reservation) -> DrawRecord:
        """Return what fixes the comparison's output besides the users: its seed, its instants and its plan."""
        plan = comparison_rows.plan_of(comparison)
        instants = [
            plan.due_at(comparison.begun_at, look).isoformat() for look in range(plan.mechanism.looks)
        ]
        return DrawRecord(
            seed_commitment=sha256_digest(b"discreet noise seed\0" + self._seed(comparison)),
            data_digest=digest_of({"candidate": comparison.candidate_version_id, "looks": instants}),
            code_digest=digest_of({"reservation": reservation.reservation_id, "plan": plan.digest()}),
        )

    def _seed(self, comparison: ComparisonRow) -> bytes:
        return self._keyring.unwrap(
            comparison.wrapped_seed or b"", _seed_purpose(comparison.candidate_version_id)
        )

    def _put_off(self, line_ref: str, until: datetime) -> None:
        with transaction(self._engine) as session:
            registry.lock_line(session, line_ref)
            row = rollouts.find(session, line_ref)
            if row is not None and row.compare_at is not None:
                rollouts.attend(session, row, until)


def _releases_of(policy: TenantPrivacyPolicy) -> tuple[Mechanism, ...]:
    """Return what the tenant's rounds reserve, which new accounts are to suit; nothing where no noise is enough."""
    try:
        return release_mechanisms(policy, calibrate_policy(policy))
    except CalibrationError:
        return ()


def _seed_purpose(version_id: str) -> str:
    return f"{_SEEDS}{version_id}"
