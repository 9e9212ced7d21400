"""The trainer process: take due rounds, train those of one base together in a child, publish each by itself.

Any number of trainers may run; a lease with an epoch says who owns a round. One failing round never takes
the others of its job with it: they are trained again by themselves, which repeats the same draws and is
free. A round at which something failed that nobody foresaw is left to the ledger, as after a crash. While the
artifact store takes no files, nothing new is begun, and what is trained waits to be published.

Longer than 400 lines, because every way in which a round ends early stands beside the one in which it does not.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from personalization.canaries.verdict import audit_check, facts_of_audit
from personalization.errors import (
    ArtifactError,
    ArtifactStoreAwayError,
    LeaseLostError,
    PersonalizationError,
    TrainingFailedError,
)
from personalization.gates.forgetting import DEFAULT_FORGETTING_LIMIT, public_checks
from personalization.gates.gate import GateThresholds, PublicEvaluation, facts_of, judge
from personalization.planning.plan import PerformanceFlags
from personalization.releases.observer import TrainerObserver
from personalization.releases.overdue import SLOT_PASSED
from personalization.releases.protocol import Closed, Prepared
from personalization.rounds.leases import LeaseKeeper
from personalization.rounds.queries import lease_round
from personalization.rounds.states import OutcomeCode
from personalization.suites.verdict import suite_checks
from personalization.training.jobs.job import Progress, TrainingJob
from personalization.training.jobs.wire import decode_reply, encode_results
from privacy.errors import DiscreetError, FencedError, PrivacyError, StorageError
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from personalization.adapters.manifest import AdapterVersion, AuditFacts
    from personalization.artifacts.store import Kept
    from personalization.canaries.values import AuditRequest
    from personalization.releases.protocol import TrainingRounds
    from personalization.rounds.states import Lease
    from personalization.starts.shop import Shop
    from personalization.training.jobs.job import TenantResult

_log = structlog.get_logger(__name__)
_LOST = (LeaseLostError, FencedError)
STORE_CHECK_SECONDS = 30.0  # so long a store that took files counts as one that will
STORE_PAUSE_SECONDS = 10.0  # between two attempts to publish what is trained
LONGEST_PAUSE_SECONDS = 30.0  # between two turns that fail
MOST_DOUBLINGS = 20  # of a pause; what keeps failing for a night doubles it past every number there is
ROUNDS = "rounds"
UPKEEP = "upkeep"
UNFORESEEN = "personalization.unforeseen"  # code of an error that is none of ours
BASE_CHANGED = (
    "the base model's files are not those that this process started with, so nothing is trained on them; restore them, "
    "or start the trainer again if the new ones are meant"
)
LONGEST_KEPT = timedelta(days=62)  # longer than any round's slot


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How one trainer process works; nothing here changes a guarantee.

    Attributes:
        owner: this process's name in lease rows.
        lease: length of a lease; it is renewed every third of it.
        poll: pause when nothing is due.
        upkeep_every: least pause between two upkeeps.
        rounds_per_job: most rounds that are trained together.
        grace: how long a running job may go on after the process was asked to stop.
        flags: performance of the child.
        thresholds: limits of the gate.
        max_public_text_change: largest relative increase of the loss on public text with which a candidate is
            published; None publishes whatever was forgotten. What is measured is public, so it costs nothing.
        audit: how each release's mechanism is audited; with it, a release that was not audited, or whose canaries
            show more than is claimed, is not published. None publishes without an audit.
    """

    owner: str
    lease: timedelta = timedelta(seconds=60)
    poll: timedelta = timedelta(seconds=1)
    upkeep_every: timedelta = timedelta(seconds=30)
    rounds_per_job: int = 16
    grace: timedelta = timedelta(seconds=20)
    flags: PerformanceFlags = field(default_factory=PerformanceFlags)
    thresholds: GateThresholds = field(default_factory=GateThresholds)
    max_public_text_change: float | None = DEFAULT_FORGETTING_LIMIT
    audit: AuditRequest | None = None


class AdapterTrainer(Protocol):
    """Runs one fused job in a child process."""

    def train(
        self, job: TrainingJob, *, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> tuple[TenantResult, ...]:
        """Return one result per tenant of the job.

        Raises:
            TrainingFailedError: the child died or failed.
            LeaseLostError: ``should_stop`` became true and the child was ended.
        """


class Trainer:
    """Takes due rounds until it is told to stop.

    Args:
        shop: what versions are made with.
        rounds: the protocol.
        trainer: runs jobs.
        options: see there.
        observer: told what happens.
        upkeep: chores between jobs, at most every ``options.upkeep_every`` (meta starts, for example).
        between: what is done after each job, and where there is none: other work that takes the device.
        between_name: what that work is called where it fails.
    """

    def __init__(
        self,
        shop: Shop,
        *,
        rounds: TrainingRounds,
        trainer: AdapterTrainer,
        options: TrainerOptions,
        observer: TrainerObserver | None = None,
        upkeep: Sequence[Callable[[], object]] = (),
        between: Callable[[], object] = lambda: None,
        between_name: str = "between",
    ) -> None:
        self._upkeep = upkeep
        self._between = between
        self._between_name, self._chore = between_name, ROUNDS
        self._shop = shop
        self._candidates = shop.artifacts.candidates
        self._next_store_check = 0.0
        self._in_the_way: set[str] = set()  # what keeps rounds from being begun, as far as it was said
        self._rounds = rounds
        self._trainer = trainer
        self._options = options
        self._observer = observer or TrainerObserver()
        self._stop = threading.Event()
        self._kill = threading.Event()
        self._next_upkeep = 0.0
        self._stumbled = False  # in this turn, over what nobody foresaw

    def request_stop(self) -> None:
        """Ask the trainer to leave: no new rounds; a running job gets ``grace``, then is put down.

        Asked again, it puts the job down at once. Safe to call from a signal handler.
        """
        if self._stop.is_set():
            self._kill.set()
        else:
            self._stop.set()
            timer = threading.Timer(self._options.grace.total_seconds(), self._kill.set)
            timer.daemon = True
            timer.start()

    @property
    def stopping(self) -> bool:
        """Whether the grace of a stop is over, and what runs must be put down."""
        return self._kill.is_set()

    def run(self) -> None:
        """Work until ``request_stop``; a database that is away is waited for, with growing pauses.

        So is whatever nobody foresaw: a process that ended of it would leave its rounds to the next trainer, and each
        would end in its turn. The leases run out meanwhile and the ledger decides, as after a crash.
        """
        pause = self._options.poll.total_seconds()
        away = failing = 0
        while not self._stop.is_set():
            self._observer.turned()
            self._stumbled, self._chore = False, ROUNDS
            try:
                worked = self.run_once()
            except StorageError as error:
                away += 1
                if away == 1:
                    _log.warning("database_away", code=error.code, reason=str(error))
                self._stop.wait(min(LONGEST_PAUSE_SECONDS, pause * 2 ** min(away, MOST_DOUBLINGS)))
                continue
            except Exception as error:  # noqa: BLE001  # see above; its text may hold what somebody wrote
                worked = 0
                self._unforeseen(self._chore, error)
            if away:
                _log.info("database_back", attempts=away)
            away, failing = 0, failing + 1 if self._stumbled else 0
            self._keep_up()
            if failing:
                self._stop.wait(min(LONGEST_PAUSE_SECONDS, pause * 2 ** min(failing, MOST_DOUBLINGS)))
            elif not worked:
                self._stop.wait(pause)

    def _keep_up(self) -> None:
        """Do the upkeep when it is time; a chore that fails ends neither the process nor the others."""
        if time.monotonic() < self._next_upkeep:
            return
        self._next_upkeep = time.monotonic() + self._options.upkeep_every.total_seconds()
        for chore in (self._forget_left, *self._upkeep):
            try:
                chore()
            except (PersonalizationError, PrivacyError, OSError) as error:
                _log.warning("upkeep_failed", code=_code_of(error), reason=str(error))
            except Exception as error:  # noqa: BLE001  # two that do one chore at once may trip over each other
                self._unforeseen(UPKEEP, error)

    def _unforeseen(self, chore: str, error: Exception, **where: str) -> None:
        """Tell of an error by its code, name and place alone; one of a turn makes the pause after it longer."""
        self._stumbled = self._stumbled or chore != UPKEEP
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None
        self._observer.chore_failed(chore)
        _log.error(
            "chore_failed",
            chore=chore,
            code=_code_of(error),
            error=type(error).__name__,
            place=place,
            **where,
        )

    def _forget_left(self) -> None:
        self._candidates.sweep(older_than=time.time() - LONGEST_KEPT.total_seconds())

    def run_once(self) -> int:
        """Take what is due now, up to one job, and bring it to an end; return how many rounds were taken.

        Raises:
            StorageError: the database is away; leases run out and the ledger decides.
        """
        if not self._store_is_ready() or not self._base_is_ready():
            return 0
        leases = self._take()
        if leases:
            self._work(leases)
        if not self._stop.is_set():
            self._chore = self._between_name
            self._between()
        return len(leases)

    def _work(self, leases: list[Lease]) -> None:
        self._observer.leased(leases)
        _log.info("rounds_leased", rounds=[lease.round_id for lease in leases])
        with LeaseKeeper(self._shop.engine, self._shop.clock, leases, self._options.lease) as keeper:
            prepared = []
            for lease in leases:
                with self._by_itself(lease, keeper):
                    if (one := self._prepare(lease, keeper)) is not None:
                        prepared.append(one)
            self._train(prepared, keeper)

    def _store_is_ready(self) -> bool:
        """Say whether what would be trained could be stored, before any budget is spent on it."""
        if time.monotonic() < self._next_store_check:
            return True
        try:
            self._shop.artifacts.ready()
        except ArtifactStoreAwayError as error:
            if "store" not in self._in_the_way:  # said once, and not at every poll of a night
                _log.warning("artifact_store_away", code=error.code, reason=str(error))
            self._in_the_way.add("store")
            self._observer.store_answered(ready=False)
            return False
        self._in_the_way.discard("store")
        self._observer.store_answered(ready=True)
        self._next_store_check = time.monotonic() + STORE_CHECK_SECONDS
        return True

    def _base_is_ready(self) -> bool:
        """Say whether the base model is what this process knows it as, before any budget is spent on it."""
        if self._shop.base.unchanged():
            self._in_the_way.discard("base")
            return True
        if "base" not in self._in_the_way:
            _log.error("base_changed", reason=BASE_CHANGED)
        self._in_the_way.add("base")
        return False

    def _take(self) -> list[Lease]:
        leases: list[Lease] = []
        while len(leases) < self._options.rounds_per_job and not self._stop.is_set():
            with transaction(self._shop.engine) as session:
                lease = lease_round(session, self._options.owner, self._shop.clock.now(), self._options.lease)
            if lease is None:
                break
            leases.append(lease)
        return leases

    @contextmanager
    def _by_itself(self, lease: Lease, keeper: LeaseKeeper) -> Iterator[None]:
        """Keep what nobody foresaw at one round from the others, whose turn it would end.

        The round's lease runs out and the ledger decides, so it is charged once and what was drawn is repeated.
        """
        try:
            yield
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001  # see above
            self._leave(lease, keeper, error)

    def _prepare(self, lease: Lease, keeper: LeaseKeeper) -> Prepared | None:
        try:
            outcome = self._rounds.prepare(lease)
        except _LOST as error:
            self._give_up(lease, keeper, error)
            return None
        except ArtifactStoreAwayError as error:  # of what the round starts from; it is taken up again later
            self._put_down(lease, keeper, error)
            return None
        except (PersonalizationError, PrivacyError) as error:
            if isinstance(error, StorageError):
                raise
            self._forfeit(lease, keeper, error)
            return None
        if isinstance(outcome, Closed):
            self._ended(lease, keeper, outcome)
            return None
        return outcome

    def _train(self, prepared: list[Prepared], keeper: LeaseKeeper) -> None:
        waiting = [one for one in prepared if self._is_untrained(one, keeper)]
        if not waiting:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="discreet-job-") as folder:
                self._train_in(Path(folder), waiting, keeper)
        except OSError as error:  # of the folder alone: what happens in it is told of each round by itself
            left = [one for one in waiting if keeper.holds(one.lease)]
            for one in left:
                self._leave(one.lease, keeper, error)
            if not left:
                self._unforeseen(ROUNDS, error)

    def _train_in(self, folder: Path, waiting: list[Prepared], keeper: LeaseKeeper) -> None:
        while waiting:
            try:
                results = self._run_job(waiting, folder, keeper)
            except LeaseLostError as error:
                waiting = self._without_lost(waiting, keeper, error)
                continue
            except StorageError:
                raise
            except Exception as error:  # noqa: BLE001  # told below, and of whose round it is
                self._without_results(waiting, keeper, error)
                return
            for one in waiting:
                with self._by_itself(one.lease, keeper):
                    self._finish(one, results[one.reservation_id], keeper)
            return

    def _without_results(self, waiting: list[Prepared], keeper: LeaseKeeper, error: Exception) -> None:
        """Train the rounds of a failed job one by one; one that fails by itself is at an end, or is left."""
        if len(waiting) > 1:
            foreseen = isinstance(error, TrainingFailedError)
            reason = str(error) if foreseen else type(error).__name__
            _log.warning("job_split", rounds=len(waiting), reason=reason)
            for one in waiting:
                self._train([one], keeper)
            return
        (one,) = waiting
        if not isinstance(error, TrainingFailedError):
            self._leave(one.lease, keeper, error)
            return
        with self._by_itself(one.lease, keeper):
            self._forfeit(one.lease, keeper, error)

    def _is_untrained(self, prepared: Prepared, keeper: LeaseKeeper) -> bool:
        """Say whether a round is to be trained; one whose reservation has a stored result already is finished."""
        with self._by_itself(prepared.lease, keeper):
            try:
                kept = self._candidates.find(prepared.reservation_id)
            except ArtifactStoreAwayError as error:
                self._put_down(prepared.lease, keeper, error)
                return False
            except ArtifactError as error:
                self._forfeit(prepared.lease, keeper, error)
                return False
            if kept is None:
                return True
            _log.info("result_reused", round_id=prepared.lease.round_id)
            self._finish(prepared, _result_in(kept), keeper)
        return False

    def _run_job(
        self, prepared: Sequence[Prepared], folder: Path, keeper: LeaseKeeper
    ) -> dict[str, TenantResult]:
        output = folder / "adapters"
        shutil.rmtree(output, ignore_errors=True)
        job = TrainingJob(
            base_model=str(self._shop.base.directory()),
            tenants=tuple(one.job for one in prepared),
            output=output,
            flags=self._options.flags,
            audit=self._options.audit,
        )
        began, succeeded = time.monotonic(), False
        try:
            results = self._trainer.train(
                job,
                on_progress=lambda progress: self._observer.progress(prepared, progress),
                should_stop=lambda: (
                    self._kill.is_set()
                    or any(keeper.lost(one.lease) or self._overdue(one) for one in prepared)
                ),
            )
            if not self._shop.base.unchanged():
                raise TrainingFailedError(BASE_CHANGED)
            succeeded = True
        finally:
            self._observer.trained(time.monotonic() - began, succeeded=succeeded)
        return {result.job_key: result for result in results}

    def _without_lost(
        self, prepared: list[Prepared], keeper: LeaseKeeper, error: LeaseLostError
    ) -> list[Prepared]:
        """Return the rounds to train again after the child ended; put all down if the process must leave."""
        leaving, going_on = self._kill.is_set(), []
        for one in prepared:
            with self._by_itself(one.lease, keeper):
                if leaving:
                    self._put_down(one.lease, keeper, None)
                elif keeper.lost(one.lease):
                    self._give_up(one.lease, keeper, error)
                elif self._overdue(one):
                    _log.warning("slot_passed", round_id=one.lease.round_id)
                    self._close(one.lease, keeper, OutcomeCode.FORFEITED, SLOT_PASSED)
                else:
                    going_on.append(one)
        return going_on

    def _finish(self, prepared: Prepared, result: TenantResult, keeper: LeaseKeeper) -> None:
        lease = prepared.lease
        try:
            outcome = self._published(prepared, result)
            while outcome is None and self._waits_for_the_store(prepared, keeper):
                outcome = self._published(prepared, result)
            if outcome is None:
                return
        except _LOST as error:
            self._give_up(lease, keeper, error)
        except (PersonalizationError, PrivacyError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            self._forfeit(lease, keeper, error)
        else:
            self._ended(lease, keeper, outcome)
            self._forget(prepared.reservation_id)

    def _published(self, prepared: Prepared, result: TenantResult) -> AdapterVersion | Closed | None:
        """Store, judge and publish a result; None while the artifact store is away: nothing has happened then."""
        try:
            result = _result_in(
                self._candidates.keep(prepared.reservation_id, result.adapter, encode_results((result,)))
            )
            audit = self._audit(prepared, result)
            public = self._public(prepared, result, audit)
            verdict = judge(
                result.adapter,
                prepared.plan,
                public,
                self._options.thresholds,
                combined=result.public_part is not None,
            )
            _log.info("candidate_judged", round_id=prepared.lease.round_id, **facts_of(verdict))
            outcome = self._rounds.finish(
                prepared, result.adapter, verdict, result.receipt, audit, result.public_part
            )
        except ArtifactStoreAwayError as error:
            _log.warning(
                "artifact_store_away", round_id=prepared.lease.round_id, code=error.code, reason=str(error)
            )
            self._observer.store_answered(ready=False)
            self._next_store_check = 0.0
            return None
        return outcome

    def _waits_for_the_store(self, prepared: Prepared, keeper: LeaseKeeper) -> bool:
        """Wait a while with a trained result in hand; say whether to try again."""
        self._observer.turned()
        if self._stop.wait(min(STORE_PAUSE_SECONDS, self._options.lease.total_seconds() / 3)):
            self._put_down(prepared.lease, keeper, None)
            return False
        if keeper.lost(prepared.lease):
            self._give_up(
                prepared.lease, keeper, LeaseLostError("the lease ran out while the store was away")
            )
            return False
        if self._overdue(prepared):
            _log.warning("slot_passed", round_id=prepared.lease.round_id)
            self._close(prepared.lease, keeper, OutcomeCode.FORFEITED, SLOT_PASSED)
            return False
        return True

    def _put_down(self, lease: Lease, keeper: LeaseKeeper, error: ArtifactStoreAwayError | None) -> None:
        """Leave a round for later, here or in another trainer."""
        if error is not None:
            _log.warning("artifact_store_away", round_id=lease.round_id, code=error.code, reason=str(error))
            self._observer.store_answered(ready=False)
            self._next_store_check = 0.0
        keeper.drop(lease)
        try:
            self._rounds.put_down(lease)
        except _LOST as lost:
            self._give_up(lease, keeper, lost)
        else:
            _log.info("round_put_down", round_id=lease.round_id)

    def _forget(self, reservation_id: str) -> None:
        try:
            self._candidates.forget(reservation_id)
        except ArtifactStoreAwayError as error:  # the upkeep deletes it later
            _log.warning("artifact_store_away", code=error.code, reason=str(error))

    def _audit(self, prepared: Prepared, result: TenantResult) -> AuditFacts | None:
        """Return what the canaries showed; a bound above the claim raises the alarm."""
        if self._options.audit is None or result.audit is None:
            return None
        facts = facts_of_audit(result.audit, prepared.plan, prepared.delta)
        say = _log.error if facts.empirical_epsilon > facts.claimed_epsilon else _log.info
        say("release_audited", round_id=prepared.lease.round_id, **asdict(facts))
        return facts

    def _public(self, prepared: Prepared, result: TenantResult, audit: AuditFacts | None) -> PublicEvaluation:
        """Return what public data say about a result, and the public facts that later releases are compared with."""
        checks = public_checks(result.public_losses, result.noise_norm, self._options.max_public_text_change)
        if self._options.audit is not None:
            checks = (*checks, audit_check(audit))
        before = None if result.suites is None else self._rounds.suites_before(prepared)
        checks = (*checks, *suite_checks(result.suites, prepared.terms.suites, before))
        if prepared.blend is not None:
            checks = (*checks, prepared.blend)
        return PublicEvaluation(checks=checks, activation=result.activation, suites=result.suites)

    def _forfeit(self, lease: Lease, keeper: LeaseKeeper, error: Exception) -> None:
        # What failed stays in the log: the announced reason is the same for every failure.
        _log.error("round_failed", round_id=lease.round_id, code=_code_of(error), reason=str(error))
        self._close(
            lease,
            keeper,
            OutcomeCode.TRAINING_FAILED,
            "The round could not be finished; its charge stays.",
        )

    def _leave(self, lease: Lease, keeper: LeaseKeeper, error: Exception) -> None:
        """Leave a round at which nobody foresaw what happened: its lease runs out and the ledger decides."""
        keeper.drop(lease)
        self._unforeseen(ROUNDS, error, round_id=lease.round_id)
        self._observer.given_up(lease)

    def _overdue(self, prepared: Prepared) -> bool:
        return prepared.overdue(self._shop.clock.now())

    def _close(self, lease: Lease, keeper: LeaseKeeper, code: OutcomeCode, reason: str) -> None:
        try:
            outcome = self._rounds.forfeit(lease, code, reason)
        except _LOST as lost:
            self._give_up(lease, keeper, lost)
        else:
            self._ended(lease, keeper, outcome)

    def _ended(self, lease: Lease, keeper: LeaseKeeper, outcome: AdapterVersion | Closed) -> None:
        keeper.drop(lease)
        if isinstance(outcome, Closed):
            _log.info("round_closed", round_id=lease.round_id, code=outcome.code.value, reason=outcome.reason)
        else:
            _log.info("adapter_published", round_id=lease.round_id, served_name=outcome.served_name)
        self._observer.closed(lease, outcome)

    def _give_up(self, lease: Lease, keeper: LeaseKeeper, error: Exception) -> None:
        keeper.drop(lease)
        _log.warning("round_given_up", round_id=lease.round_id, reason=str(error))
        self._observer.given_up(lease)


def _code_of(error: Exception) -> str:
    if isinstance(error, DiscreetError):
        return error.code
    return "os.error" if isinstance(error, OSError) else UNFORESEEN


def _result_in(kept: Kept) -> TenantResult:
    """Return a stored result as the run reported it, with its files where they are stored."""
    reply = decode_reply(kept.notes)
    assert isinstance(reply, tuple)  # ``_finish`` stores results alone
    return replace(reply[0], adapter=kept.adapter)
