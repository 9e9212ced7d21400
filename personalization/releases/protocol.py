"""One training round, in the only order of writes that keeps the guarantee under crashes.

    lease  →  plan and reserve  →  start  →  read, record the draw  →  count  →  train  →  commit and publish
    (txn)     (txn)                (txn)     (txn)                               (child)   (txn)

Every parenthesis is one committed transaction and checks the lease first. Until ``start`` nothing private
was read: the reservation may be released and the round taken up again. After ``start`` the charge stays
whatever happens. With a recorded draw, a new lease holder may repeat exactly the same sample (same seed,
data and code) at no charge; in any other case the reservation is forfeited and the round fails. What happens
after a crash is decided from the ledger.

Longer than 400 lines, because the order of these transactions is the guarantee and is to be read in one place.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from personalization.adapters.manifest import GateCheck, VersionState
from personalization.errors import RoundError
from personalization.gates.gate import Accepted, Rejected, RejectionReason
from personalization.planning import planner
from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, announce
from personalization.registry.publishing import Candidate
from personalization.releases.charge import cohort_count_of, privacy_facts, reservation_request
from personalization.releases.code_identity import code_digest
from personalization.releases.movement import with_movement
from personalization.rounds import queries as rounds
from personalization.rounds.states import OutcomeCode, RoundState
from personalization.starts.choosing import blend_source, choose_start, open_start, start_sources
from personalization.training.jobs.job import TenantJob
from privacy.canonical import sha256_digest
from privacy.errors import BudgetExhaustedError, CalibrationError, RetryMismatchError
from privacy.ledger import DrawRecord, RecoveryDecision, ReservationState
from privacy.ledger.populations import join_declared
from privacy.noise.discrete import discrete_gaussian
from privacy.noise.keystream import PURPOSE_COUNT, KeyUse, SecretStream, derive_key
from privacy.policy import versions as policies
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from pathlib import Path

    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion
    from personalization.rounds.states import Lease
    from personalization.rounds.tables import RoundRow
    from personalization.signals.snapshot import SignalSource
    from personalization.starts.copies import MetaCopies
    from personalization.starts.shop import Shop
    from privacy.keys.keyring import Keyring
    from privacy.ledger import Ledger
    from privacy.policy.values import TenantPrivacyPolicy

_log = structlog.get_logger(__name__)
SEED_BYTES = 32
ACTOR = "trainer"


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The round was closed before training."""

    code: OutcomeCode
    reason: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A round that is charged, started and read: ready for the child."""

    lease: Lease
    plan: TrainingPlan
    reservation_id: str
    draw: DrawRecord
    blend: GateCheck | None = None  # which released version is averaged into the result, and its share
    sources: tuple[str, ...] = ()  # versions whose weights go into the result
    job: TenantJob = field(repr=False)
    count_key: bytes = field(repr=False)


class TrainingRounds:
    """The protocol's steps; each is safe to be killed in.

    Args:
        shop: what versions are made with.
        ledger: the privacy ledger.
        keyring: wraps the noise seed with the master key.
        signals: reads private data.
        planner_settings: public limits.
        flags: what changes speed only.
        copies: serves the meta start to a line whose round is declined; None leaves that to the upkeep.
    """

    def __init__(
        self,
        shop: Shop,
        *,
        ledger: Ledger,
        keyring: Keyring,
        signals: SignalSource,
        planner_settings: planner.PlannerSettings | None = None,
        flags: PerformanceFlags | None = None,
        copies: MetaCopies | None = None,
    ) -> None:
        self._engine = shop.engine
        self._clock = shop.clock
        self._shop = shop
        self._ledger = ledger
        self._keyring = keyring
        self._signals = signals
        self._planner_settings = planner_settings
        self._flags = flags or PerformanceFlags()
        self._copies = copies

    def prepare(self, lease: Lease) -> Prepared | Closed:
        """Bring a leased round to the point where the child can train, or close it.

        Raises:
            LeaseLostError: another trainer owns the round by now; nothing more was written.
            FencedError: the same, seen by the ledger.
            StorageError: the database is away; the lease runs out and the ledger decides.
        """
        closed = self._reserve_or_recover(lease)
        if closed is not None:
            return closed
        self._start(lease)
        prepared = self._read(lease)
        if isinstance(prepared, Closed):
            return prepared
        return self._count(prepared)

    def finish(
        self, prepared: Prepared, directory: Path, verdict: Accepted | Rejected
    ) -> AdapterVersion | Closed:
        """Commit the budget and, in the same transaction, publish the candidate or record why not.

        Raises:
            LeaseLostError: another trainer owns the round by now; nothing was published.
        """
        lease = prepared.lease
        with transaction(self._engine) as session:
            now = self._clock.now()
            row = rounds.hold_round(session, lease, now)
            if isinstance(verdict, Accepted) and _was_withdrawn(session, prepared.sources):
                verdict = Rejected(reasons=(RejectionReason.START_WITHDRAWN,))
            if isinstance(verdict, Rejected):
                self._ledger.commit(session, prepared.reservation_id, lease.epoch)
                return self._close(
                    session, row, RoundState.DONE, OutcomeCode.GATE_REJECTED, verdict.sentence()
                )
            line = registry.lock_line(session, row.line_ref)
            verdict = with_movement(session, self._shop.artifacts, line, row, directory, verdict)
            reservation = self._ledger.commit(
                session, prepared.reservation_id, lease.epoch, verdict.lora.tensor_digest
            )
            policy = self._policy(session, row.tenant_id)
            candidate = Candidate(
                directory=directory,
                accepted=verdict,
                base=self._shop.base.fingerprint(),
                privacy=privacy_facts(
                    session, self._ledger, reservation, prepared.plan, policy, row.noisy_cohort
                ),
                plan_digest=prepared.plan.digest(),
                data_digest=prepared.draw.data_digest,
                code_digest=prepared.draw.code_digest,
            )
            version = self._shop.publisher.publish(session, line, rounds.origin_of(row), candidate, now=now)
            row.version_id = version.version_id
            rounds.close_round(
                session, row, RoundState.DONE, OutcomeCode.PUBLISHED, "A new version was published.", now=now
            )
            return version

    def forfeit(self, lease: Lease, code: OutcomeCode, reason: str) -> Closed:
        """Close a round that cannot be finished; its charge stays unless it never started.

        Raises:
            LeaseLostError: another trainer owns the round by now.
        """
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, lease, self._clock.now())
            if row.reservation_id is not None:
                self._give_up_budget(session, row.reservation_id, lease.epoch, reason)
            return self._close(session, row, RoundState.FAILED, code, reason)

    def put_down(self, lease: Lease) -> None:
        """End the lease at once, so that another trainer may take the round up from what the ledger says.

        Raises:
            LeaseLostError: another trainer owns the round by now.
        """
        with transaction(self._engine) as session:
            now = self._clock.now()
            row = rounds.hold_round(session, lease, now)
            row.lease_expires_at = now
            session.add(row)

    def _reserve_or_recover(self, lease: Lease) -> Closed | None:
        """Plan and reserve a fresh round, or ask the ledger what may happen to one that was taken over."""
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, lease, self._clock.now())
            if row.reservation_id is None:
                return self._reserve(session, row, lease)
            recovery = self._ledger.recover(session, row.reservation_id, lease.epoch)
            if recovery.decision in {RecoveryDecision.START, RecoveryDecision.RETRY}:
                return None
            return self._close(
                session,
                row,
                RoundState.FAILED,
                OutcomeCode.FORFEITED,
                "The trainer stopped after private data may have been read; the charge stays.",
            )

    def _reserve(self, session: Session, row: RoundRow, lease: Lease) -> Closed | None:
        version = policies.current_policy(session, row.tenant_id)
        if version is None:
            return self._decline(session, row, OutcomeCode.NO_POLICY, "The tenant has no privacy policy.")
        policy = version.policy
        line = registry.lock_line(session, row.line_ref)
        try:
            plan = planner.propose(
                policy, self._shop.shape, line_rank=line.rank, settings=self._planner_settings
            )
        except CalibrationError as error:
            return self._decline(session, row, OutcomeCode.CALIBRATION_IMPOSSIBLE, str(error))
        if isinstance(plan, planner.Declined):
            return self._decline(session, row, OutcomeCode.of_decline(plan.code), plan.reason)
        start = choose_start(session, line, policy, plan, base_digest=self._shop.base.fingerprint().digest())
        join_declared(
            session, row.tenant_id, now=self._clock.now()
        )  # stays though the reservation be refused
        request = reservation_request(row, lease.epoch, version.version, policy, plan)
        try:
            with session.begin_nested():
                reservation = self._ledger.reserve(session, request)
        except BudgetExhaustedError as error:
            _log.info("budget_exhausted", round_id=row.round_id, reason=str(error))
            return self._decline(
                session,
                row,
                OutcomeCode.BUDGET_EXHAUSTED,
                "The privacy budget of the period or of the lifetime admits no further release like this.",
            )
        row.reservation_id = reservation.reservation_id
        row.plan_json = json.dumps(plan.to_document(), sort_keys=True)
        row.start, row.start_version_id = start.kind, start.version_id
        row.wrapped_seed = self._keyring.wrap(secrets.token_bytes(SEED_BYTES), _seed_purpose(row))
        session.add(row)
        return None

    def _start(self, lease: Lease) -> None:
        with transaction(self._engine) as session:
            now = self._clock.now()
            row = rounds.hold_round(session, lease, now)
            if row.reservation_id is None:
                raise RoundError("the round has no reservation; it cannot be started")
            self._ledger.start(session, row.reservation_id, lease.epoch)
            if row.read_at is None:
                row.read_at = now  # a repeated run reads at the same instant of the public clock
                session.add(row)

    def _read(self, lease: Lease) -> Prepared | Closed:
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, lease, self._clock.now())
            if row.reservation_id is None or row.plan_json is None or row.wrapped_seed is None:
                raise RoundError("the round was started without a plan; it cannot be read")
            plan = TrainingPlan.from_document(json.loads(row.plan_json))
            seed = self._keyring.unwrap(row.wrapped_seed, _seed_purpose(row))
            snapshot = self._signals.load(
                session,
                row.tenant_id,
                row.domain,
                now=row.read_at or self._clock.now(),
                contribution_bound=plan.contribution_bound,
                digest_key=derive_key(seed, KeyUse.DIGEST),
            )
            draw = DrawRecord(
                seed_commitment=sha256_digest(b"discreet noise seed\0" + seed),
                data_digest=snapshot.data_digest,
                code_digest=code_digest(
                    plan,
                    self._flags,
                    base_digest=self._shop.base.fingerprint().digest(),
                    start_version_id=row.start_version_id,
                ),
            )
            try:
                self._ledger.record_draw(session, row.reservation_id, lease.epoch, draw)
            except RetryMismatchError as error:
                self._ledger.forfeit(session, row.reservation_id, lease.epoch, str(error))
                _log.warning("repeat_refused", round_id=row.round_id, reason=str(error))
                return self._close(
                    session,
                    row,
                    RoundState.FAILED,
                    OutcomeCode.FORFEITED,
                    "The interrupted run could not be repeated exactly as it was charged; the charge stays.",
                )
            blended, blend = blend_source(
                session,
                row,
                self._policy(session, row.tenant_id),
                plan,
                self._shop.base.fingerprint().digest(),
            )
            job = TenantJob(
                job_key=row.reservation_id,
                plan=plan,
                users=snapshot.users,
                noise_key=derive_key(seed, KeyUse.TRAINING),
                start_adapter=open_start(session, self._shop.artifacts, row),
                blend_with=None if blended is None else self._shop.artifacts.open(blended),
                blend_share=0.0 if blend is None or blend.value is None else blend.value,
            )
            return Prepared(
                lease=lease,
                plan=plan,
                reservation_id=row.reservation_id,
                draw=draw,
                blend=blend,
                sources=(*start_sources(session, row), *(() if blended is None else (blended,))),
                job=job,
                count_key=derive_key(seed, KeyUse.COUNT),
            )

    def _count(self, prepared: Prepared) -> Prepared | Closed:
        """Release the charged count of users; too small a cohort ends the round, which keeps its charge."""
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, prepared.lease, self._clock.now())
            reservation = self._ledger.reservation(session, prepared.reservation_id)
            spread = cohort_count_of(reservation).standard_deviation
            noise = discrete_gaussian(SecretStream(prepared.count_key), PURPOSE_COUNT, 0, spread)
            row.noisy_cohort = len(prepared.job.users) + noise
            session.add(row)
            minimum = self._policy(session, row.tenant_id).minimum_cohort
            if row.noisy_cohort >= minimum:
                return prepared
            self._ledger.commit(session, prepared.reservation_id, prepared.lease.epoch)
            return self._decline(
                session,
                row,
                OutcomeCode.COHORT_TOO_SMALL,
                f"The noisy count of users with usable signals is {row.noisy_cohort}; the policy trains on "
                f"{minimum} or more.",
            )

    def _give_up_budget(self, session: Session, reservation_id: str, epoch: int, reason: str) -> None:
        if self._ledger.reservation(session, reservation_id).state is ReservationState.RESERVED:
            self._ledger.release(session, reservation_id, epoch)  # nothing private was read
        else:
            self._ledger.forfeit(session, reservation_id, epoch, reason)

    def _policy(self, session: Session, tenant_id: str) -> TenantPrivacyPolicy:
        version = policies.current_policy(session, tenant_id)
        if version is None:  # a policy is never deleted, so this round was not planned by this protocol
            raise RoundError("the tenant of a running round has no policy; the round cannot go on")
        return version.policy

    def _decline(self, session: Session, row: RoundRow, code: OutcomeCode, reason: str) -> Closed:
        """Close without training; a line with nothing of its own serves the meta start, and the event says so."""
        served = None
        if self._copies is not None:
            version = policies.current_policy(session, row.tenant_id)
            served = self._copies.serve(
                session,
                row.tenant_id,
                row.domain,
                None if version is None else version.policy,
                now=self._clock.now(),
            )
        if served is not None:
            reason = f"{reason} The line serves the meta start as {served}."
        return self._close(session, row, RoundState.DECLINED, code, reason)

    def _close(
        self, session: Session, row: RoundRow, state: RoundState, code: OutcomeCode, reason: str
    ) -> Closed:
        """Close the round without a version and tell the line's readers why nothing came."""
        now = self._clock.now()
        rounds.close_round(session, row, state, code, reason, now=now)
        line = registry.lock_line(session, row.line_ref)
        act = Act(actor=ACTOR, reason=reason, code=code.value, now=now)
        announce(session, self._shop.events, line, AdapterEventKind.DECLINED, act, round_id=row.round_id)
        return Closed(code=code, reason=reason)


def _was_withdrawn(session: Session, version_ids: tuple[str, ...]) -> bool:
    rows = [registry.find_version(session, version_id) for version_id in version_ids]
    return any(row.state == VersionState.WITHDRAWN.value for row in rows)


def _seed_purpose(row: RoundRow) -> str:
    return f"round-seed:{row.round_id}"
