"""One choice among prompt templates, in the only order of writes that keeps the guarantee under crashes.

    lease  →  freeze, reserve  ⇒  start  →  read  →  ask for votes  →  record draw, store  ⇒  commit, add, try
    (txn)     (txn)               (txn)     (txn)    (child process)    (txn)                  (txn)

Every parenthesis with *txn* is one committed transaction and checks the lease first; at each double arrow the ledger's
head is anchored outside the database. Until ``start`` nothing private was read. The texts go into a child process that
answers with one vote of each user and ends. The draw is made once, and what was drawn is stored, signed, in the
transaction that records it: a repeat takes what is stored, and there is nothing to draw anew from, since the seed lives
in that transaction's memory alone. A crash between ``start`` and that transaction forfeits; what was voted nobody has
seen, and no count is ever stored.

Nothing is told before the public instant that the terms name, a failure neither; what is not drawn or told in time
forfeits. The ledger's commit names the draw by its digest, so ``discreet budget verify`` finds one that was changed.

Longer than 400 lines, because every way in which a choice ends early stands beside the one in which it does not.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

import structlog

from personalization.choices import rows
from personalization.choices.asking import refused, template_of
from personalization.choices.ballots import ballots_of, tally
from personalization.choices.freezing import departure, frozen, key_of, release_of, terms_of, waits_until
from personalization.choices.values import TERMS_FORMAT, ChoiceOutcome, ChoiceState, Drawn
from personalization.errors import PromptChoiceError, PromptNotFoundError, PromptTemplateError
from personalization.prompts import rows as prompts
from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import Origin
from personalization.registry import prompting
from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.signals.snapshot import data_digest
from personalization.training.jobs.job import VoteJob
from privacy.accounting.calibration import caps_of
from privacy.anchor.port import Unanchored
from privacy.canonical import digest_of, sha256_digest
from privacy.errors import BudgetExhaustedError
from privacy.ledger import DrawRecord, RecoveryDecision, ReservationRequest, ReservationState
from privacy.ledger.populations import join_declared, population_of
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.private_read import ReadPurpose
from privacy.noise.choice import exponential_choice
from privacy.noise.keystream import KEY_BYTES, PURPOSE_CHOICE, KeyUse, SecretStream, derive_key
from privacy.policy import versions as policies
from privacy.policy.values import DataPurpose
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.adapters.signing import ManifestSigner
    from personalization.choices.rows import ChoiceLease
    from personalization.choices.tables import PromptChoiceRow
    from personalization.choices.values import ChoiceTerms
    from personalization.planning.plan import PerformanceFlags
    from personalization.prompts.values import PromptTemplate
    from personalization.registry.announcements import AdapterEvents
    from personalization.signals.snapshot import WindowSource
    from personalization.training.base.directory import BaseModelCatalog
    from personalization.training.jobs.job import UserExamples, Votes
    from privacy.anchor.port import Anchor
    from privacy.ledger import Ledger
    from privacy.policy.ceilings import PolicyCeilings

_log = structlog.get_logger(__name__)
LEASE_MARGIN: Final = timedelta(minutes=1)  # in which what was voted can still be stored


@dataclass(frozen=True, kw_only=True)
class Voting:
    """What votes are taken with.

    Attributes:
        run: asks a child process; its second argument says when to end it.
        base: the base model that is asked.
        flags: how the child computes.
    """

    run: Callable[[VoteJob, Callable[[], bool]], Votes]
    base: BaseModelCatalog
    flags: PerformanceFlags


class PromptChoices:
    """The protocol's steps; each is safe to be killed in.

    Args:
        engine: where choices, ledger, signals and registry live.
        clock: the public clock.
        ledger: the privacy ledger.
        signals: reads private data.
        voting: asks for votes.
        signer: vouches for what is drawn, and for the template that comes of it.
        keys: raw public keys that templates may be signed with.
        events: where moves are told.
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
        voting: Voting,
        signer: ManifestSigner,
        keys: Collection[bytes],
        events: AdapterEvents,
        ceilings: PolicyCeilings | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._ledger = ledger
        self._signals = signals
        self._voting = voting
        self._signer = signer
        self._keys = frozenset({*keys, signer.public_key})
        self._events = events
        self._ceilings = ceilings
        self._anchor = anchor if anchor is not None else Unanchored()

    def take(self, lease: ChoiceLease, *, stop: Callable[[], bool] = lambda: False) -> ChoiceOutcome | None:
        """Bring a leased choice as far as it goes now; None: how it ended is told when its instant has come.

        Raises:
            LeaseLostError: another trainer owns the choice by now, or it was told to stop; nothing more was written.
            TrainingFailedError: the child could not say the votes.
            FencedError: another trainer owns the choice by now, as the ledger saw.
            StorageError: the database is away or was set back, or the anchor does not confirm; the lease runs out and
                the ledger decides.
        """
        self._anchor.check(lease.tenant_id)
        drawn = self._reserve_or_recover(lease)
        if drawn is False:
            self._anchor.secure(lease.tenant_id)
            self._start(lease)
            drawn = self._read_and_draw(lease, stop)
        if drawn is not True:
            return drawn
        self._anchor.secure(lease.tenant_id)
        return self._finish(lease)

    def forfeit(self, lease: ChoiceLease, why: str) -> ChoiceOutcome | None:
        """Close a choice that cannot be gone on with; its charge stays unless it never started.

        None: it was started, and is closed when its public instant has come.

        Raises:
            LeaseLostError: another trainer owns the choice by now.
        """
        with transaction(self._engine) as session:
            row = rows.hold_choice(session, lease, self._clock())
            return self._given_up(session, row, lease.epoch, why)

    def _reserve_or_recover(self, lease: ChoiceLease) -> ChoiceOutcome | bool | None:
        """Freeze and reserve a fresh choice, or ask the ledger about one that was taken over; True: it is drawn.

        None: it cannot be gone on with, and is closed when its instant has come.
        """
        with transaction(self._engine) as session:
            now = self._clock()
            row = rows.hold_choice(session, lease, now)
            if row.reservation_id is None:
                return self._reserve(session, row, lease) or False
            terms = terms_of(row)
            if terms.ends_at <= now:
                return self._given_up(session, row, lease.epoch, "its time is over")
            if row.drawn_json is None and self._put_off(session, row, now):
                return None  # the ledger would forfeit it at once
            decision = self._ledger.recover(session, row.reservation_id, lease.epoch).decision
            if decision is RecoveryDecision.RETRY and row.drawn_json is not None:
                return True
            if decision is RecoveryDecision.START and now < terms.drawn_by:
                return self._unusable(session, row, terms.candidates, lease) or False
            return self._given_up(
                session, row, lease.epoch, "it ended after it may have been read, or was not begun in time"
            )

    def _reserve(self, session: Session, row: PromptChoiceRow, lease: ChoiceLease) -> ChoiceOutcome | None:
        candidates, mechanism = _asked_for(row)
        version = policies.current_policy(session, row.tenant_id)
        policy = None if version is None else version.policy
        if version is None or policy is None or row.domain not in policy.domains:
            return self._declined(session, row, ChoiceOutcome.PURPOSE_NOT_ALLOWED)
        outcome = refused(policy, mechanism, self._ceilings)
        if outcome is not None:
            return self._declined(session, row, outcome)
        outcome = self._unusable(session, row, candidates, lease)
        if outcome is not None:
            return outcome
        base = self._voting.base.fingerprint().weights_digest
        terms = frozen(row, policy, version.version, mechanism, candidates, base=base, now=self._clock())
        period = policy.period_index(terms.until)
        join_declared(session, row.tenant_id, now=self._clock())  # stays though the reservation be refused
        request = ReservationRequest(
            tenant_id=row.tenant_id,
            policy_version=version.version,
            period_index=period,
            purpose=ReadPurpose.SELECTION,
            mechanisms=(mechanism,),
            idempotency_key=key_of(row, terms),
            epoch=lease.epoch,
            caps=caps_of(policy),
            population=population_of(policy),
            opened_for=release_of(session, row.tenant_id, period, policy),
        )
        try:
            with session.begin_nested():
                reservation = self._ledger.reserve(session, request)
        except BudgetExhaustedError as error:
            _log.info("prompt_choice_budget_exhausted", line_ref=row.line_ref, reason=str(error))
            return self._declined(session, row, ChoiceOutcome.BUDGET_EXHAUSTED)
        row.reservation_id, row.terms_json = reservation.reservation_id, terms.to_json()
        session.add(row)
        return None

    def _start(self, lease: ChoiceLease) -> None:
        with transaction(self._engine) as session:
            row = rows.hold_choice(session, lease, self._clock())
            if row.reservation_id is None:
                raise PromptChoiceError("the choice has no reservation; it cannot be started")
            self._ledger.start(session, row.reservation_id, lease.epoch)

    def _read_and_draw(
        self, lease: ChoiceLease, stop: Callable[[], bool]
    ) -> ChoiceOutcome | Literal[True] | None:
        """Read, ask for votes and draw once; what is drawn is stored with the record of the draw, and not told yet.

        True: it is drawn; None: it cannot be gone on with, and is closed when its instant has come.
        """
        with transaction(self._engine) as session:
            row = rows.hold_choice(session, lease, self._clock())
            if row.reservation_id is None:
                raise PromptChoiceError("the choice has no reservation; it cannot be read")
            terms, reservation_id = terms_of(row), row.reservation_id
            wrong = departure(self._ledger.attested(session, reservation_id), row, terms)
            if wrong is None and self._voting.base.fingerprint().weights_digest != terms.base:
                wrong = "the base model is another than was reserved for"
            if wrong is not None:
                return self._given_up(session, row, lease.epoch, wrong)
            templates = self._templates(session, row.line_ref, terms.candidates)
            users = self._signals.window(
                session,
                row.tenant_id,
                row.domain,
                since=terms.since,
                until=terms.until,
                contribution_bound=terms.contribution_bound,
                also=DataPurpose.EVALUATION,
            )
        last = min(terms.drawn_by, lease.expires_at - LEASE_MARGIN)
        votes = self._votes(users, templates, terms, lambda: stop() or self._clock() >= last)
        seed = secrets.token_bytes(KEY_BYTES)
        draw = DrawRecord(
            seed_commitment=sha256_digest(b"discreet choice seed\0" + seed),
            data_digest=data_digest(derive_key(seed, KeyUse.DIGEST), users),
            code_digest=digest_of([TERMS_FORMAT, terms.digest()], ascii_only=True),
        )
        place = drawn_place(votes, terms.mechanism, derive_key(seed, KeyUse.CHOICE))
        drawn = Drawn(
            line_ref=lease.line_ref,
            reservation_id=reservation_id,
            candidates=terms.candidates,
            candidate=terms.candidates[place],
        )
        with transaction(self._engine) as session:
            now = self._clock()
            row = rows.hold_choice(session, lease, now)
            if now >= terms.drawn_by:
                return self._given_up(session, row, lease.epoch, "the votes came too late")
            self._ledger.record_draw(session, reservation_id, lease.epoch, draw)
            row.drawn_json = drawn.signed(self._signer)
            session.add(row)
        return True

    def _votes(
        self,
        users: Sequence[UserExamples],
        templates: Sequence[PromptTemplate],
        terms: ChoiceTerms,
        should_stop: Callable[[], bool],
    ) -> tuple[int | None, ...]:
        job = VoteJob(
            base_model=str(self._voting.base.directory()),
            ballots=ballots_of(users, [rendering_of(one) for one in templates]),
            max_tokens=terms.max_tokens,
            flags=self._voting.flags,
        )
        return self._voting.run(job, should_stop).of_users

    def _templates(self, session: Session, line_ref: str, candidates: Sequence[str]) -> list[PromptTemplate]:
        return [
            template_of(line_ref, prompts.find(session, line_ref, candidate), self._keys)
            for candidate in candidates
        ]

    def _unusable(
        self, session: Session, row: PromptChoiceRow, candidates: Sequence[str], lease: ChoiceLease
    ) -> ChoiceOutcome | None:
        """Decline a choice with a template that cannot be used, before its charge begins; None where all can be.

        Templates are public, so nothing of it depends on what users wrote.
        """
        try:
            self._templates(session, row.line_ref, candidates)
        except (PromptTemplateError, PromptNotFoundError) as error:
            _log.warning("prompt_choice_template_unusable", line_ref=row.line_ref, reason=str(error))
        else:
            return None
        if row.reservation_id is not None:
            self._ledger.release(session, row.reservation_id, lease.epoch)
        return self._declined(session, row, ChoiceOutcome.TEMPLATE_UNUSABLE)

    def _finish(self, lease: ChoiceLease) -> ChoiceOutcome | None:
        """Tell what is stored: add the template that was drawn, and give it to who is to try it; once."""
        with transaction(self._engine) as session:
            now = self._clock()
            row = rows.hold_choice(session, lease, now)
            terms = terms_of(row)
            if row.reservation_id is None or row.drawn_json is None:
                raise PromptChoiceError("the choice has nothing stored that could be told")
            until = waits_until(session, row, terms, now)
            if until is not None:
                rows.put_down(session, row, until=until)
                return None
            terms = replace(terms, told_at=max(terms.told_at, row.due_at))
            drawn = Drawn.read(row.drawn_json, self._keys)
            if (drawn.line_ref, drawn.reservation_id, drawn.candidates) != (
                row.line_ref,
                row.reservation_id,
                terms.candidates,
            ):
                raise PromptChoiceError("what was drawn belongs to another choice; it is not used")
            registry.lock_line(session, row.line_ref)  # before the ledger's head, as whoever publishes does
            self._ledger.commit(session, row.reservation_id, lease.epoch, drawn.digest(), at=terms.told_at)
            row.chosen = self._added(session, row, terms, drawn)
            rows.close_choice(session, row, ChoiceState.DONE, ChoiceOutcome.CHOSEN, now=terms.told_at)
            return ChoiceOutcome.CHOSEN

    def _added(self, session: Session, row: PromptChoiceRow, terms: ChoiceTerms, drawn: Drawn) -> str:
        """Add what was drawn as a version that says so, give it to who is to try it, and return its digest."""
        (template,) = self._templates(session, row.line_ref, (drawn.candidate,))
        act = Act(actor=row.actor, reason=row.reason, code="chosen", now=terms.told_at)
        chosen = replace(template, origin=Origin.SELECTION)
        added = prompting.add(session, self._signer, row.tenant_id, row.domain, chosen, act)
        stands = prompting.stands(session, row.tenant_id, row.domain)
        used = None if stands.current is None else stands.current.template.version_id
        if terms.percent > 0 and used != added.version_id:
            prompting.use(
                session,
                self._events,
                row.tenant_id,
                row.domain,
                added.version_id,
                act,
                percent=terms.percent,
            )
        return added.version_id

    def _declined(self, session: Session, row: PromptChoiceRow, outcome: ChoiceOutcome) -> ChoiceOutcome:
        rows.close_choice(session, row, ChoiceState.DECLINED, outcome, now=self._clock())
        return outcome

    def _given_up(self, session: Session, row: PromptChoiceRow, epoch: int, why: str) -> ChoiceOutcome | None:
        """Give up a choice: what never started gives its budget back, the charge of anything else stays.

        None: it was started, and its instant has not come; whoever takes it then gives it up.
        """
        if self._put_off(session, row, self._clock()):
            _log.warning("prompt_choice_put_off", line_ref=row.line_ref, reason=why)
            return None
        if row.reservation_id is not None:
            state = self._ledger.reservation(session, row.reservation_id).state
            if state is ReservationState.RESERVED:
                self._ledger.release(session, row.reservation_id, epoch)
            elif state is ReservationState.RUNNING:
                self._ledger.forfeit(session, row.reservation_id, epoch, why, at=row.asked_at)
        _log.warning("prompt_choice_forfeited", line_ref=row.line_ref, reason=why)
        rows.close_choice(session, row, ChoiceState.FAILED, ChoiceOutcome.FORFEITED, now=self._clock())
        return ChoiceOutcome.FORFEITED

    def _put_off(self, session: Session, row: PromptChoiceRow, now: datetime) -> bool:
        """Leave a choice that was started until its public instant, if that has not come; say whether it was left.

        When votes failed depends on what users wrote. Ledger, budget and line show it running until then, and nobody
        can tell by asking for another choice.
        """
        if row.reservation_id is None or row.terms_json is None:
            return False
        if self._ledger.reservation(session, row.reservation_id).state is not ReservationState.RUNNING:
            return False
        try:
            told_at = terms_of(row).told_at
        except PromptChoiceError:
            return False  # nobody knows until when
        if now >= told_at:
            return False
        rows.put_down(session, row, until=told_at)
        return True


def _asked_for(row: PromptChoiceRow) -> tuple[tuple[str, ...], ExponentialChoice]:
    """Return the candidates and the draw that was asked for.

    Raises:
        PromptChoiceError: what is stored is damaged.
    """
    try:
        candidates = tuple(map(str, json.loads(row.candidates_json)))
        return candidates, ExponentialChoice(epsilon=row.epsilon, candidates=len(candidates))
    except (TypeError, ValueError) as error:
        raise PromptChoiceError(
            "what was asked for in a choice cannot be read; ask for another one"
        ) from error


def drawn_place(votes: Sequence[int | None], mechanism: ExponentialChoice, key: bytes) -> int:
    """Return the place of the candidate that the charged draw takes after these votes."""
    counts = tally(votes, mechanism.candidates)
    return exponential_choice(SecretStream(key), PURPOSE_CHOICE, 0, counts, mechanism.epsilon)
