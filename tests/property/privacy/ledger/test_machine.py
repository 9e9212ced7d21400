"""Trainers, crashes and policies in any order: true noise draws never exceed what the ledger charges.

The machine drives model trainers one step at a time against a real database. A step may lose its connection
before any of its statements, or commit and lose the answer; trainers die, sleep and wake up with an old
lease; policies and periods change in between. A trainer draws noise only after ``record_draw`` answered, as
the real one does. The truth is the set of distinct samples drawn; after every step it must fit into the
accounts, and into the caps they were opened with.
"""

import itertools
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event

from privacy.accounting.composition import best_epsilon, total_curve
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import AccountSettings, FilterRule
from privacy.errors import LedgerError
from privacy.ledger import (
    BudgetCaps,
    DrawRecord,
    Ledger,
    RecoveryDecision,
    ReservationRequest,
    ReservationState,
)
from privacy.ledger.accounts import curve_in, filter_of, lifetime_account_id, period_account_id
from privacy.ledger.export import export_ledger
from privacy.ledger.tables import AccountRow
from privacy.ledger.verify import verify_export
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.storage.session import transaction

COUNT = Gaussian(sensitivity=1.0, standard_deviation=15.0, purpose=ReadPurpose.COHORT_COUNT)
RECIPES = [
    (COUNT, PoissonSampledGaussian(noise_multiplier=sigma, sample_rate=rate, steps=steps))
    for sigma, rate, steps in ((5.0, 0.1, 20), (9.0, 0.5, 20), (2.5, 0.05, 60), (1.0, 0.2, 10))
]
# Of the delta kept for selections, two such votes fit in a period and in a lifetime.
VOTE = PartitionSelection(noise_multiplier=12.0, delta=8e-8, unknown_keys=4)
RECIPES[1] = (VOTE, *RECIPES[1])
POLICIES = [
    BudgetCaps(period_epsilon=period, period_delta=1e-6, lifetime_epsilon=lifetime, lifetime_delta=1e-6)
    for period, lifetime in ((3.0, 6.0), (2.0, 4.0), (5.0, 12.0), (0.5, 1.0))
]
TENANTS = itertools.count(1)
OUTCOMES = ("goes well", "draws", "draws", "breaks", "answer lost")


class LostConnectionError(Exception):
    """The connection breaks; whether the transaction was committed, the caller cannot know."""


@dataclass
class Round:
    """What the round's own table would hold: a key, the public plan, and the newest lease epoch."""

    key: str
    period: int
    caps: BudgetCaps
    mechanisms: tuple
    epoch: int = 0
    reservation_id: str | None = None


@dataclass
class Trainer:
    """One process that owns, or once owned, a round's lease."""

    round: Round
    epoch: int
    seed: str
    step: str = "reserve"
    draw: DrawRecord | None = None
    drew: bool = False


@dataclass
class Truth:
    """Every sample of noise that was really drawn, by what makes it a different sample."""

    samples: dict = field(default_factory=dict)  # (reservation, draw) → round

    def curve(self, period=None):
        drawn = [one for one in self.samples.values() if period is None or one.period == period]
        return sum((total_curve(one.mechanisms) for one in drawn), RdpCurve.zero())


class LedgerMachine(RuleBasedStateMachine):
    engine = None  # set by the test
    rule_of_filter = FilterRule.FIXED_ORDER

    trainers = Bundle("trainers")

    def __init__(self):
        super().__init__()
        self.tenant = f"tenant-{next(TENANTS)}"
        self.ledger = Ledger(
            lambda: datetime(2026, 1, 1, tzinfo=UTC), AccountSettings(rule=self.rule_of_filter)
        )
        self.truth = Truth()
        self.period = 0
        self.keys, self.seeds = itertools.count(1), itertools.count(1)
        self.periods = {0}

    # what happens around the trainers

    @initialize(target=trainers, mechanisms=st.sampled_from(RECIPES))
    def first_round_falls_due(self, mechanisms):
        return self.round_falls_due(POLICIES[0], mechanisms, rolls_over=False)

    @rule(
        target=trainers,
        caps=st.sampled_from(POLICIES),
        mechanisms=st.sampled_from(RECIPES),
        rolls_over=st.booleans(),
    )
    def round_falls_due(self, caps, mechanisms, rolls_over):
        """Under today's policy, which may have changed, in this period or the next."""
        self.period += rolls_over
        self.periods.add(self.period)
        return self._leased(Round(f"round-{next(self.keys)}", self.period, caps, mechanisms))

    @rule(target=trainers, other=trainers)
    def another_trainer_takes_the_lease(self, other):
        """The owner before it may be dead, asleep or still running: it is not told."""
        return self._leased(other.round)

    def _leased(self, due):
        due.epoch += 1
        step = "reserve" if due.epoch == 1 else "recover"
        return Trainer(due, due.epoch, f"seed-{next(self.seeds)}", step=step)

    # what one trainer does, with its faults

    @rule(
        trainer=trainers,
        outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=6),
        at=st.integers(0, 12),
    )
    def trainer_runs(self, trainer, outcomes, at):
        for outcome in outcomes:
            self._try_step(trainer, at if outcome == "breaks" else None, answer_lost=outcome == "answer lost")
            if outcome == "draws":
                self._draw_noise(trainer)

    @rule(trainer=trainers)
    def trainer_wakes_up_and_draws(self, trainer):
        """Needs no database and no lease: it may have lost both long ago."""
        self._draw_noise(trainer)

    @rule(trainer=consumes(trainers), how=st.sampled_from(["dies", "forfeit", "release"]))
    def trainer_ends(self, trainer, how):
        if how == "dies" or trainer.round.reservation_id is None:
            return
        arguments = ("gave up",) if how == "forfeit" else ()
        try:
            with transaction(self.engine) as session:
                verb = getattr(self.ledger, how)
                verb(session, trainer.round.reservation_id, trainer.epoch, *arguments)
        except LedgerError:
            pass  # fenced, closed, or it started
        trainer.step = "end"

    def _draw_noise(self, trainer):
        if trainer.draw is not None:
            self.truth.samples[trainer.round.reservation_id, trainer.draw] = trainer.round
            trainer.drew = True

    def _try_step(self, trainer, breaks_before, *, answer_lost):
        if trainer.step == "end":
            return
        try:
            self._database_step(trainer, breaks_before, answer_lost)
        except LostConnectionError:
            return  # it will repeat the step, or die, or lose its lease
        except LedgerError:
            trainer.step = "end"  # no budget, fenced or forbidden: a correct trainer stops here

    def _database_step(self, trainer, breaks_before, answer_lost):
        left = [breaks_before if breaks_before is not None else 10**9]

        def listener(*_arguments):
            left[0] -= 1
            if left[0] < 0:
                raise LostConnectionError

        event.listen(self.engine, "before_cursor_execute", listener)
        try:
            with transaction(self.engine) as session:
                after = getattr(self, f"_{trainer.step}")(session, trainer)
        finally:
            event.remove(self.engine, "before_cursor_execute", listener)
        if answer_lost:
            raise LostConnectionError
        after()

    def _reserve(self, session, trainer):
        due = trainer.round
        reservation = self.ledger.reserve(
            session,
            ReservationRequest(
                tenant_id=self.tenant,
                policy_version=1,
                period_index=due.period,
                purpose=ReadPurpose.TRAINING,
                mechanisms=due.mechanisms,
                idempotency_key=due.key,
                epoch=trainer.epoch,
                caps=due.caps,
            ),
        )

        def after():
            due.reservation_id = reservation.reservation_id
            trainer.step = "start"

        return after

    def _recover(self, session, trainer):
        due = trainer.round
        if due.reservation_id is None:
            return self._reserve(session, trainer)
        recovery = self.ledger.recover(session, due.reservation_id, trainer.epoch)
        if recovery.decision is RecoveryDecision.RETRY:  # the wrapped seed is found again: same draw

            def after():
                trainer.seed = recovery.reservation.draw.seed_commitment
                trainer.step = "record"
        else:

            def after():
                trainer.step = "start" if recovery.decision is RecoveryDecision.START else "end"

        return after

    def _start(self, session, trainer):
        self.ledger.start(session, trainer.round.reservation_id, trainer.epoch)

        def after():
            trainer.step = "record"

        return after

    def _record(self, session, trainer):
        draw = DrawRecord(seed_commitment=trainer.seed, data_digest=trainer.round.key, code_digest="code")
        self.ledger.record_draw(session, trainer.round.reservation_id, trainer.epoch, draw)

        def after():
            trainer.draw, trainer.step = draw, "commit"

        return after

    def _commit(self, session, trainer):
        if not trainer.drew:
            return lambda: None  # training is not over yet
        self.ledger.commit(session, trainer.round.reservation_id, trainer.epoch, trainer.draw.seed_commitment)

        def after():
            trainer.step = "end"

        return after

    # what must hold after every step

    @invariant()
    def draws_never_exceed_the_ledger(self):
        with transaction(self.engine) as session:
            lifetime = session.get(AccountRow, lifetime_account_id(self.tenant))
            self._holds(lifetime, self.truth.curve())
            for period in self.periods:
                self._holds(
                    session.get(AccountRow, period_account_id(self.tenant, period)), self.truth.curve(period)
                )

    def _holds(self, account, truth):
        if account is None:
            assert truth.is_zero
            return
        charged = curve_in(account)
        assert all(drawn <= held for drawn, held in zip(truth.values, charged.values, strict=True))
        assert truth.delta <= charged.delta
        assert filter_of(account).admits(charged, RdpCurve.zero())
        # what is proved of it, without asking the filter
        assert best_epsilon(charged, account.delta)[0] <= account.epsilon

    @invariant()
    def a_reservation_has_one_sample(self):
        drawn = [reservation for reservation, _ in self.truth.samples]
        assert len(drawn) == len(set(drawn))

    @invariant()
    def what_was_drawn_stays_charged(self):
        with transaction(self.engine) as session:
            for reservation_id, draw in self.truth.samples:
                reservation = self.ledger.reservation(session, reservation_id)
                assert reservation.draw == draw
                assert reservation.state not in (ReservationState.RESERVED, ReservationState.RELEASED)

    def teardown(self):
        with transaction(self.engine) as session:
            opened = self.ledger.spend(session, self.tenant, 0).lifetime_cap is not None
        if opened:
            report = verify_export(export_ledger(self.engine, [self.tenant]))
            assert report.findings == []


@pytest.mark.parametrize("rule_of_filter", FilterRule)
def test_no_interleaving_draws_more_noise_than_is_charged(engine, rule_of_filter):
    class Machine(LedgerMachine):
        pass

    Machine.engine, Machine.rule_of_filter = engine, rule_of_filter
    examples = int(os.environ.get("DISCREET_LEDGER_EXAMPLES", "12"))
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class ForgetfulLedger(Ledger):
    """A planted bug: a crash after the start gives the debit back."""

    def forfeit(self, session, reservation_id, epoch, reason):
        row_state = self.reservation(session, reservation_id).state
        if row_state is ReservationState.RUNNING:
            from privacy.ledger.reservations import reservation_row

            reservation_row(session, reservation_id).state = ReservationState.RESERVED.value
            session.flush()
            return self.release(session, reservation_id, epoch)
        return super().forfeit(session, reservation_id, epoch, reason)


class UnfencedLedger(Ledger):
    """A planted bug: nobody looks at the lease epoch."""

    def _fence(self, row, epoch):
        row.epoch = min(row.epoch, epoch)


class CarelessRetryLedger(Ledger):
    """A planted bug: a retry with another seed replaces the recorded draw."""

    def record_draw(self, session, reservation_id, epoch, draw):
        from privacy.ledger.reservations import reservation_row

        row = reservation_row(session, reservation_id)
        row.seed_commitment = row.data_digest = row.code_digest = None
        session.flush()
        return super().record_draw(session, reservation_id, epoch, draw)


@pytest.mark.parametrize("planted", [ForgetfulLedger, UnfencedLedger, CarelessRetryLedger])
def test_planted_bugs_are_caught(engine, planted):
    if engine.dialect.name != "sqlite":
        pytest.skip("the bug is in Python; one database is enough")

    class Machine(LedgerMachine):
        def __init__(self):
            super().__init__()
            self.ledger = planted(self.ledger._clock)

        @rule(trainer=LedgerMachine.trainers)
        def trainer_takes_a_new_seed(self, trainer):
            trainer.seed = f"seed-{next(self.seeds)}"  # the wrapped seed was lost

    Machine.engine = engine
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=200,  # it stops at the first that shows the bug
                stateful_step_count=30,
                deadline=None,
                derandomize=True,
                database=None,
                print_blob=False,
                phases=(Phase.generate,),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
