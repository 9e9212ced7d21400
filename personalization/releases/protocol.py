"""One training round, in the only order of writes that keeps the guarantee under crashes.

    lease  →  plan, freeze, reserve  ⇒  start  →  read, seal, record draw  ⇒  count  →  vote → train  ⇒  commit, publish
    (txn)     (txn)                     (txn)     (txn)                       (txn)             (child)   (txn)

Every parenthesis is one committed transaction and checks the lease first. Until ``start`` nothing private
was read: the reservation may be released and the round taken up again. After ``start`` the charge stays
whatever happens, and the round goes by its frozen terms (``releases.terms``), never by the newest policy.
With a recorded draw, a new lease holder repeats exactly the same sample at no charge: same seed, same code, and
the data that were sealed with the draw (``releases.seal``), whoever left meanwhile. In any other case the
reservation is forfeited and the round fails. What happens after a crash is decided from the ledger.

At each double arrow the ledger's head is anchored outside the database, and confirmed, before the round goes on;
before it reserves, the database is compared with the anchor (``privacy.anchor.port`` says why these places suffice).
A database that was set back reads and publishes nothing, and an anchor that does not answer lets the lease run out,
which costs nothing before ``start`` and repeats the recorded draw after it.

A round that is open at the end of its public slot forfeits at that instant. What was reserved, the terms that
are run and what the run measured of itself must agree, or nothing is published.

Longer than 400 lines, because the order of these transactions is the guarantee and is to be read in one place.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from personalization.adapters.manifest import VersionState
from personalization.errors import RoundError, RoundTermsError
from personalization.gates.gate import Accepted, Rejected, RejectionReason
from personalization.planning import planner
from personalization.planning.plan import PerformanceFlags
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, announce
from personalization.registry.publishing import Candidate
from personalization.registry.remembering import may_have_notes
from personalization.registry.terming import proposed_pairs
from personalization.releases.charge import (
    departure,
    privacy_facts,
    receipt_departure,
    reservation_request,
)
from personalization.releases.code_identity import code_digest
from personalization.releases.movement import with_movement
from personalization.releases.overdue import SLOT_PASSED, give_up, told_at_of
from personalization.releases.reading import note_read
from personalization.releases.seal import seal, unseal
from personalization.releases.style import public_part_of, remembered_parts, style_facts, vote_on_style
from personalization.releases.terms import Terms
from personalization.rounds import queries as rounds
from personalization.rounds.seed_keys import seed_purpose
from personalization.rounds.slots import slot_for
from personalization.rounds.states import OutcomeCode, RoundState
from personalization.starts.choosing import (
    blend_fact,
    blend_share,
    blend_source,
    choose_start,
    open_start,
    start_sources,
)
from personalization.styles.decisions import current_edits
from personalization.suites.values import SuiteDepth
from personalization.suites.verdict import SuiteTerms, suites_of
from personalization.training.jobs.job import TenantJob
from personalization.training.jobs.receipt import public_key_of
from privacy.accounting.calibration import asks_for_terms, schedule_of
from privacy.anchor.port import Unanchored
from privacy.canonical import sha256_digest
from privacy.errors import BudgetExhaustedError, CalibrationError, RetryMismatchError
from privacy.ledger import DrawRecord, RecoveryDecision
from privacy.ledger.populations import join_declared
from privacy.ledger.spending import within_accounts
from privacy.noise.discrete import discrete_gaussian
from privacy.noise.keystream import PURPOSE_COUNT, KeyUse, SecretStream, derive_key
from privacy.policy import versions as policies
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion, AuditFacts, GateCheck
    from personalization.planning.plan import TrainingPlan
    from personalization.rounds.states import Lease
    from personalization.rounds.tables import RoundRow
    from personalization.signals.snapshot import SignalSource, TrainingSnapshot
    from personalization.starts.copies import MetaCopies
    from personalization.starts.shop import Shop
    from personalization.suites.values import SuiteScores
    from personalization.training.jobs.job import PublicPartFacts
    from personalization.training.jobs.receipt import SignedReceipt
    from privacy.anchor.port import Anchor
    from privacy.keys.keyring import Keyring
    from privacy.ledger import Ledger, Reservation
    from privacy.policy.ceilings import PolicyCeilings

_log = structlog.get_logger(__name__)
SEED_BYTES = 32
ACTOR = "trainer"
NOT_REPEATED = "The interrupted run could not be repeated exactly as it was charged; the charge stays."
NOT_AS_CHARGED = "What was to be published does not agree with what was charged; the charge stays."


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The round was closed before training."""

    code: OutcomeCode
    reason: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A round that is charged, started and read: ready for the child."""

    lease: Lease
    terms: Terms
    delta: float  # at which the release's epsilon is stated
    reservation_id: str
    draw: DrawRecord
    blend: GateCheck | None = None  # which released version is averaged into the result, and its share
    sources: tuple[str, ...] = ()  # versions whose weights go into the result
    job: TenantJob = field(repr=False)
    count_key: bytes = field(repr=False)
    style_key: bytes = field(repr=False)
    voters: int = 0  # the count of users, as it was released with noise

    @property
    def plan(self) -> TrainingPlan:
        """What is trained."""
        return self.terms.plan

    def overdue(self, now: datetime) -> bool:
        """Return whether the round's slot is over; it forfeits then."""
        return now >= self.terms.slot.ends_at


class TrainingRounds:
    """The protocol's steps; each is safe to be killed in.

    Args:
        shop: what versions are made with.
        ledger: the privacy ledger.
        keyring: wraps the noise seed with a key of the round.
        signals: reads private data.
        planner_settings: public limits.
        flags: of the trainer's runs, their device resolved; a repeat under others is refused.
        hardware: what they are computed on, see ``training.base.device``.
        copies: serves the meta start to a line whose round is declined; None leaves that to the upkeep.
        ceilings: what the platform allows a policy at most; a round of a policy above them is declined.
        least_suites: how much of the public suites every release is asked, whatever its tenant's policy says.
        anchor: holds the heads of ledgers outside the database; without one a restored backup spends again.
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
        hardware: str = "",
        copies: MetaCopies | None = None,
        ceilings: PolicyCeilings | None = None,
        least_suites: SuiteDepth = SuiteDepth.OFF,
        anchor: Anchor | None = None,
    ) -> None:
        self._least_suites = least_suites
        self._anchor = anchor if anchor is not None else Unanchored()
        self._engine = shop.engine
        self._clock = shop.clock
        self._shop = shop
        self._ledger = ledger
        self._keyring = keyring
        self._signals = signals
        self._planner_settings = planner_settings
        self._flags = flags or PerformanceFlags()
        self._hardware = hardware
        self._copies = copies
        self._ceilings = ceilings

    def prepare(self, lease: Lease) -> Prepared | Closed:
        """Bring a leased round to the point where the child can train, or close it.

        Raises:
            LeaseLostError: another trainer owns the round by now; nothing more was written.
            FencedError: the same, seen by the ledger.
            StorageError: the database is away or was set back, or the anchor does not confirm; the lease runs out and
                the ledger decides.
        """
        self._anchor.check(lease.tenant_id)
        closed = self._reserve_or_recover(lease)
        if closed is not None:
            return closed
        self._anchor.secure(lease.tenant_id)
        self._start(lease)
        prepared = self._read(lease)
        if isinstance(prepared, Closed):
            return prepared
        self._anchor.secure(lease.tenant_id)
        counted = self._count(prepared)
        return counted if isinstance(counted, Closed) else _voted(counted)

    def finish(
        self,
        prepared: Prepared,
        directory: Path,
        verdict: Accepted | Rejected,
        receipt: SignedReceipt | None,
        audit: AuditFacts | None = None,
        public_part: PublicPartFacts | None = None,
    ) -> AdapterVersion | Closed:
        """Commit the budget and, in the same transaction, publish the candidate or record why not.

        Nothing is published unless the reservation in the chain, the round's terms and the signed receipt of the
        run agree.

        Args:
            prepared: the round.
            directory: of the candidate's files.
            verdict: the gate's.
            receipt: what the run measured of itself.
            audit: what canaries showed of the mechanism; it stands in the manifest.
            public_part: what was made of style cards, scaled by a charged step where the plan asks; None where
                nothing was.

        Raises:
            LeaseLostError: another trainer owns the round by now; nothing was published.
            LedgerIntegrityError: the reservation is not the one in the chain; nothing was published.
            StorageError: the database is away or was set back, or the anchor does not confirm; nothing was published.
        """
        lease = prepared.lease
        self._anchor.secure(lease.tenant_id)
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, lease, self._clock.now())
            if prepared.overdue(self._clock.now()):
                return self._forfeited(session, row, lease.epoch, "its slot is over", SLOT_PASSED)
            terms = _terms_of(row)
            reserved = self._ledger.attested(session, prepared.reservation_id)
            wrong = departure(reserved, terms) or receipt_departure(reserved, terms, receipt)
            if wrong is not None or receipt is None:
                return self._forfeited(session, row, lease.epoch, wrong or "no receipt", NOT_AS_CHARGED)
            told_at = terms.slot.told_at
            if isinstance(verdict, Accepted) and _was_withdrawn(session, prepared.sources):
                verdict = Rejected(reasons=(RejectionReason.START_WITHDRAWN,))
            if isinstance(verdict, Rejected):
                self._ledger.commit(session, prepared.reservation_id, lease.epoch, at=told_at)
                return self._close(
                    session, row, RoundState.DONE, OutcomeCode.GATE_REJECTED, verdict.sentence()
                )
            line = registry.lock_line(session, row.line_ref)
            verdict = with_movement(session, self._shop.artifacts, line, row, directory, verdict)
            reservation = self._ledger.commit(
                session, prepared.reservation_id, lease.epoch, verdict.lora.tensor_digest, at=told_at
            )
            candidate = Candidate(
                directory=directory,
                accepted=verdict,
                base=self._shop.base.fingerprint(),
                privacy=privacy_facts(
                    session, self._ledger, reservation, terms, row.noisy_cohort, receipt, audit
                ),
                plan_digest=terms.plan.digest(),
                data_digest=prepared.draw.data_digest,
                code_digest=prepared.draw.code_digest,
                style=style_facts(prepared.job.card, public_part),
            )
            version = self._shop.publisher.publish(
                session, line, rounds.origin_of(row), candidate, now=told_at
            )
            row.version_id = version.version_id
            rounds.close_round(
                session,
                row,
                RoundState.DONE,
                OutcomeCode.PUBLISHED,
                "A new version was published.",
                now=self._clock.now(),
            )
            return version

    def suites_before(self, prepared: Prepared) -> SuiteScores | None:
        """Return what the version that the line serves scored on the public suites; None where nothing is known."""
        with transaction(self._engine) as session:
            line = registry.find_line(session, prepared.lease.tenant_id, prepared.lease.domain)
            before = registry.current_version(session, line)
            return None if before is None else suites_of(registry.read_version(before).manifest)

    def forfeit(self, lease: Lease, code: OutcomeCode, reason: str) -> Closed:
        """Close a round that cannot be finished; its charge stays unless it never started.

        Raises:
            LeaseLostError: another trainer owns the round by now.
        """
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, lease, self._clock.now())
            self._give_up_budget(session, row, lease.epoch, reason)
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
            now = self._clock.now()
            row = rounds.hold_round(session, lease, now)
            if row.reservation_id is None:
                return self._reserve(session, row, lease)
            if row.slot_ends_at is not None and row.slot_ends_at <= now:
                return self._forfeited(session, row, lease.epoch, "its slot is over", SLOT_PASSED)
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
        if self._ceilings is not None and (above := self._ceilings.exceeded(version.policy)):
            return self._decline(
                session,
                row,
                OutcomeCode.ABOVE_CEILING,
                f"The policy is not allowed here: {'; '.join(above)}.",
            )
        policy = within_accounts(session, row.tenant_id, row.period_index, version.policy)
        line = registry.lock_line(session, row.line_ref)
        try:
            plan = planner.propose(
                policy, self._shop.shape, line_rank=line.rank, settings=self._planner_settings
            )
        except CalibrationError as error:
            return self._decline(session, row, OutcomeCode.CALIBRATION_IMPOSSIBLE, str(error))
        if isinstance(plan, planner.Declined):
            return self._decline(session, row, OutcomeCode.of_decline(plan.code), plan.reason)
        base_digest = self._shop.base.fingerprint().digest()
        start = choose_start(session, line, policy, plan, base_digest=base_digest)
        blend_with = blend_source(session, line, policy, plan, base_digest)
        edits = current_edits(session, row.tenant_id, row.domain)
        glossary = proposed_pairs(session, line.line_ref) if asks_for_terms(policy) else None
        terms = Terms(
            plan=plan,
            beside=schedule_of(policy).beside,
            minimum_cohort=policy.minimum_cohort,
            retention=policy.retention,
            policy_version=version.version,
            slot=slot_for(row, self._clock.now(), timedelta(seconds=policy.release_padding_seconds)),
            start_sources=start_sources(session, line.line_ref, start),
            blend_with=blend_with,
            blend_share=blend_share(session, policy, blend_with),
            remembered=remembered_parts(session, policy, blend_with, edits),
            style_edits=edits,
            notes=policy.memory and may_have_notes(session, row.tenant_id, row.domain),
            votes_on_terms=glossary is not None,  # else a damaged list would open the vote to unlisted words
            glossary=glossary or (),
            suites=SuiteTerms.of_policy(policy.suites, least=self._least_suites),
        )
        seed = secrets.token_bytes(SEED_BYTES)
        receipt_key = public_key_of(derive_key(seed, KeyUse.RECEIPT))
        join_declared(
            session, row.tenant_id, now=self._clock.now()
        )  # stays though the reservation be refused
        try:
            with session.begin_nested():
                reservation = self._ledger.reserve(
                    session, reservation_request(row, lease.epoch, terms, receipt_key, policy)
                )
        except BudgetExhaustedError as error:
            _log.info("budget_exhausted", round_id=row.round_id, reason=str(error))
            return self._decline(
                session,
                row,
                OutcomeCode.BUDGET_EXHAUSTED,
                "The privacy budget of the period or of the lifetime admits no further release like this.",
            )
        row.reservation_id = reservation.reservation_id
        row.terms_json, row.slot_ends_at = terms.to_json(), terms.slot.ends_at
        row.start, row.start_version_id = start.kind, start.version_id
        row.wrapped_seed = self._keyring.wrap(seed, seed_purpose(row.round_id), now=self._clock.now())
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
        """Read the data and fix the draw, or take up the draw that is recorded from what was sealed with it."""
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, lease, self._clock.now())
            if row.reservation_id is None or row.terms_json is None or row.wrapped_seed is None:
                raise RoundError("the round was started without a plan; it cannot be read")
            terms = _terms_of(row)
            reservation = self._ledger.attested(session, row.reservation_id)
            wrong = departure(reservation, terms)
            if wrong is not None:
                return self._forfeited(session, row, lease.epoch, wrong, NOT_AS_CHARGED)
            seed = self._keyring.unwrap(row.wrapped_seed, seed_purpose(row.round_id))
            snapshot = self._snapshot(session, row, terms, reservation, seed)
            draw = DrawRecord(
                seed_commitment=sha256_digest(b"discreet noise seed\0" + seed),
                data_digest=snapshot.data_digest,
                code_digest=code_digest(
                    terms,
                    self._flags,
                    base_digest=self._shop.base.fingerprint().digest(),
                    start=row.start,
                    hardware=self._hardware,
                ),
            )
            try:
                self._ledger.record_draw(session, row.reservation_id, lease.epoch, draw)
            except RetryMismatchError as error:
                return self._forfeited(session, row, lease.epoch, str(error), NOT_REPEATED)
            artifacts = self._shop.artifacts
            job = TenantJob(
                job_key=row.reservation_id,
                plan=terms.plan,
                users=snapshot.users,
                noise_key=derive_key(seed, KeyUse.TRAINING),
                receipt_key=derive_key(seed, KeyUse.RECEIPT),
                start_adapter=open_start(artifacts, row, terms.start_sources),
                blend_with=None if terms.blend_with is None else artifacts.open(terms.blend_with),
                blend_share=terms.blend_share,
                suites=terms.suites.depth,
                notes=terms.notes,
                remembers=None
                if terms.blend_with is None or not terms.remembered
                else public_part_of(session, terms.blend_with),
            )
            blended = () if terms.blend_with is None else (terms.blend_with,)
            return Prepared(
                lease=lease,
                terms=terms,
                delta=self._stated_delta(session, row),
                reservation_id=row.reservation_id,
                draw=draw,
                blend=blend_fact(terms.blend_with, terms.blend_share),
                sources=(*terms.start_sources, *blended),
                job=job,
                count_key=derive_key(seed, KeyUse.COUNT),
                style_key=derive_key(seed, KeyUse.STYLE),
            )

    def _snapshot(
        self, session: Session, row: RoundRow, terms: Terms, reservation: Reservation, seed: bytes
    ) -> TrainingSnapshot:
        """Return the data of the round: read once and sealed with its draw, afterwards read from the seal alone.

        Raises:
            RoundSealError: a draw is recorded and its seal is not there.
        """
        if reservation.draw is not None:
            return unseal(session, row.round_id, seed)
        positions = self._shop.positions(session)  # before the signals, so all up to there had its effect
        snapshot = self._signals.load(
            session,
            row.tenant_id,
            row.domain,
            now=row.read_at or self._clock.now(),
            retention=terms.retention,
            contribution_bound=terms.contribution_bound,
            digest_key=derive_key(seed, KeyUse.DIGEST),
        )
        seal(session, row.round_id, snapshot, seed)
        note_read(session, row, positions, now=self._clock.now())
        return snapshot

    def _count(self, prepared: Prepared) -> Prepared | Closed:
        """Release the charged count of users; too small a cohort ends the round, which keeps its charge."""
        terms = prepared.terms
        with transaction(self._engine) as session:
            row = rounds.hold_round(session, prepared.lease, self._clock.now())
            spread = terms.cohort_count.standard_deviation
            noise = discrete_gaussian(SecretStream(prepared.count_key), PURPOSE_COUNT, 0, spread)
            row.noisy_cohort = len(prepared.job.users) + noise
            session.add(row)
            if row.noisy_cohort >= terms.minimum_cohort:
                return replace(prepared, voters=row.noisy_cohort)
            self._ledger.commit(session, prepared.reservation_id, prepared.lease.epoch, at=terms.slot.told_at)
            return self._decline(
                session,
                row,
                OutcomeCode.COHORT_TOO_SMALL,
                f"The noisy count of users with usable signals is {row.noisy_cohort}; the policy trains on "
                f"{terms.minimum_cohort} or more.",
            )

    def _stated_delta(self, session: Session, row: RoundRow) -> float:
        delta = self._ledger.spend(session, row.tenant_id, row.period_index).delta
        if delta is None:
            raise RoundError("the round's budget was charged to no account; it cannot go on")
        return delta

    def _forfeited(self, session: Session, row: RoundRow, epoch: int, why: str, told: str) -> Closed:
        """Forfeit the charge and close the round; ``why`` stays in the ledger and the log, ``told`` is announced."""
        _log.warning("round_forfeited", round_id=row.round_id, reason=why)
        self._give_up_budget(session, row, epoch, why)
        return self._close(session, row, RoundState.FAILED, OutcomeCode.FORFEITED, told)

    def _give_up_budget(self, session: Session, row: RoundRow, epoch: int, reason: str) -> None:
        if row.reservation_id is None:
            return
        give_up(session, self._ledger, row.reservation_id, epoch, reason, told_at=self._told_at(session, row))

    def _told_at(self, session: Session, row: RoundRow) -> datetime:
        """Return the public instant that is stamped on what comes of the round; frozen once it is reserved."""
        version = policies.current_policy(session, row.tenant_id)
        padding = 0 if version is None else version.policy.release_padding_seconds
        began = row.read_at or self._clock.now()
        return told_at_of(row, slot_for(row, began, timedelta(seconds=padding)).told_at)

    def _decline(self, session: Session, row: RoundRow, code: OutcomeCode, reason: str) -> Closed:
        """Close without training; a line with nothing of its own serves the meta start, and the event says so."""
        served = None
        if self._copies is not None:
            served = self._copies.serve(
                session,
                row.tenant_id,
                row.domain,
                period=row.period_index,
                now=self._told_at(session, row),
            )
        if served is not None:
            reason = f"{reason} The line serves the meta start as {served}."
        return self._close(session, row, RoundState.DECLINED, code, reason)

    def _close(
        self, session: Session, row: RoundRow, state: RoundState, code: OutcomeCode, reason: str
    ) -> Closed:
        """Close the round without a version and tell the line's readers why nothing came."""
        told_at = self._told_at(session, row)
        rounds.close_round(session, row, state, code, reason, now=self._clock.now())
        line = registry.lock_line(session, row.line_ref)
        act = Act(actor=ACTOR, reason=reason, code=code.value, now=told_at)
        announce(session, self._shop.events, line, AdapterEventKind.DECLINED, act, round_id=row.round_id)
        return Closed(code=code, reason=reason)


def _voted(prepared: Prepared) -> Prepared:
    """Return a round with the card that its vote gives: seconds of work with many users, so in no transaction."""
    card = vote_on_style(prepared.terms, prepared.job.users, prepared.style_key, voters=prepared.voters)
    return replace(prepared, job=replace(prepared.job, card=card))


def _was_withdrawn(session: Session, version_ids: tuple[str, ...]) -> bool:
    rows = [registry.find_version(session, version_id) for version_id in version_ids]
    return any(row.state == VersionState.WITHDRAWN.value for row in rows)


def _terms_of(row: RoundRow) -> Terms:
    if row.terms_json is None:
        raise RoundTermsError("the round has no terms; it was never reserved")
    return Terms.from_json(row.terms_json)
