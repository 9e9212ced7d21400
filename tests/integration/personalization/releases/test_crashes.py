"""A trainer may die anywhere: every noise draw stays charged once, nothing is published twice."""

from __future__ import annotations

import errno
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, select
from structlog.testing import capture_logs

from personalization.errors import LeaseLostError, RoundError
from personalization.registry.tables import AdapterVersionRow
from personalization.releases.observer import TrainerObserver
from personalization.releases.trainer import UNFORESEEN
from personalization.rounds import leases
from personalization.rounds.queries import lease_round, renew_lease
from personalization.rounds.states import OutcomeCode, RoundState
from personalization.rounds.tables import RoundRow
from privacy.errors import StorageError
from privacy.ledger import ReservationState
from privacy.ledger.tables import ReservationRow
from privacy.storage.session import transaction
from streams.contracts.topics import ADAPTER_EVENTS
from streams.outbox.tables import OutboxRow
from tests.fakes.training import Workshop, failed, outbox_events

LEASE = timedelta(seconds=60)


class KilledError(BaseException):
    """The process ends here: nothing catches this."""


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path, events=outbox_events())
    shop.add_tenant()
    return shop


@contextmanager
def dying(engine, at_commit: int, *, durable: bool, error: BaseException):
    """Raise ``error`` at the n-th commit, before it happens or (``durable``) right after it happened."""
    count = 0

    def step(*_arguments):
        nonlocal count
        count += 1
        if count == at_commit:
            raise error

    target, name = (Session, "after_commit") if durable else (engine, "commit")
    event.listen(target, name, step)
    try:
        yield lambda: count
    finally:
        event.remove(target, name, step)


def facts(shop, round_id):
    with shop.session() as session:
        row = session.get(RoundRow, round_id)
        reservations = session.exec(select(ReservationRow)).all()
        versions = session.exec(select(AdapterVersionRow)).all()
        published = [
            message
            for message in session.exec(select(OutboxRow).where(OutboxRow.topic == ADAPTER_EVENTS.name)).all()
            if b'"published"' in message.value
        ]
    return row, reservations, versions, published


def assert_sound(shop, round_id):
    row, reservations, versions, published = facts(shop, round_id)
    charged = [one for one in reservations if one.state != ReservationState.RELEASED]
    assert len(charged) == 1, "the round is charged exactly once"
    assert len(set(shop.trainer.keys)) <= 1, "one charge pays for one noise key"
    assert row.state in {RoundState.DONE, RoundState.FAILED}
    assert row.wrapped_seed is None
    if row.state == RoundState.DONE:
        assert charged[0].state == ReservationState.COMMITTED
        assert len(versions) == len(published) == 1
        assert shop.artifacts.open(versions[0].version_id).is_dir()
    else:
        assert charged[0].state == ReservationState.FORFEITED
        assert versions == []
        assert published == []


@pytest.mark.parametrize("durable", [False, True], ids=["before-commit", "after-commit"])
@pytest.mark.parametrize("kind", ["killed", "database-away"])
def test_death_at_every_commit_charges_once_and_publishes_at_most_once(
    engine, clock, tmp_path, durable, kind
):
    states = []
    for at_commit in range(1, 20):
        shop = Workshop(engine, clock, tmp_path / str(at_commit), events=outbox_events())
        tenant = f"t{at_commit}"
        shop.add_tenant(tenant)
        round_id = shop.open_round(tenant)
        error = KilledError() if kind == "killed" else OperationalError("commit", {}, Exception("gone"))
        with dying(engine, at_commit, durable=durable, error=error) as count:
            try:
                shop.process("first").run_once()
            except (KilledError, StorageError, OperationalError):
                survived = False
            else:
                survived = True
            reached = count()
        clock.advance(seconds=61)
        shop.process("second").run_once()
        with shop.session() as session:
            row = session.get(RoundRow, round_id)
            charged = session.exec(select(ReservationRow).where(ReservationRow.tenant_id == tenant)).all()
            versions = session.exec(
                select(AdapterVersionRow).where(AdapterVersionRow.tenant_id == tenant)
            ).all()
        states.append(row.outcome_code)
        assert len(charged) == 1
        assert len(set(shop.trainer.keys)) <= 1
        assert len(versions) == (1 if row.state == RoundState.DONE else 0)
        if survived and reached < at_commit:
            break
    else:
        pytest.fail("a round has fewer commits than that")
    # Only a death between the start and the recorded draw loses the round; its charge stays. Between the two the key
    # store commits the round's key, which counts as a commit that was made, and none that was asked of this engine.
    assert set(states) <= {OutcomeCode.PUBLISHED, OutcomeCode.FORFEITED}
    assert states.count(OutcomeCode.FORFEITED) == (2 if durable else 1)


def test_a_killed_child_run_is_repeated_with_the_same_noise_at_no_charge(shop):
    round_id = shop.open_round()

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        shop.process("first").run_once()
    shop.trainer.during = lambda _should_stop: None
    assert shop.process("second").run_once() == 0, "the lease of the dead trainer still stands"
    shop.clock.advance(seconds=61)
    assert shop.process("second").run_once() == 1

    assert_sound(shop, round_id)
    assert facts(shop, round_id)[0].state == RoundState.DONE
    assert shop.signals.reads == 1, "a repeat reads what was sealed with the draw and nothing else"


def test_a_repeat_after_the_data_changed_is_the_run_that_was_interrupted(shop):
    round_id = shop.open_round()

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        shop.process("first").run_once()
    shop.trainer.during = lambda _should_stop: None
    shop.signals.salt = "another day"
    shop.clock.advance(seconds=61)
    shop.process("second").run_once()

    assert_sound(shop, round_id)
    assert facts(shop, round_id)[0].state == RoundState.DONE
    assert shop.signals.reads == 1


def test_a_trainer_that_wakes_up_late_is_fenced(shop, monkeypatch):
    round_id, honest = shop.open_round(), shop.trainer.train

    def pause(job, **options):
        monkeypatch.undo()
        results = honest(job, **options)
        shop.clock.advance(seconds=61)
        assert shop.process("second").run_once() == 1
        return results

    monkeypatch.setattr(shop.trainer, "train", pause)
    shop.process("first").run_once()

    assert_sound(shop, round_id)
    row = facts(shop, round_id)[0]
    assert (row.state, row.epoch) == (RoundState.DONE, 2)
    assert len(shop.trainer.keys) == 2
    assert len(set(shop.trainer.keys)) == 1


def _full(monkeypatch):
    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("personalization.artifacts.directory._write_synced", refuse)


def test_with_a_full_disk_no_round_is_begun_and_nothing_is_spent(shop, monkeypatch):
    round_id = shop.open_round()
    _full(monkeypatch)
    process = shop.process()
    assert process.run_once() == 0
    row, reservations, versions, _ = facts(shop, round_id)
    assert (row.epoch, reservations, versions) == (0, [], [])
    assert shop.outcomes.store == [False]
    monkeypatch.undo()
    assert process.run_once() == 1
    assert facts(shop, round_id)[0].state == RoundState.DONE
    assert shop.outcomes.store == [False, True]


def test_a_disk_that_fills_up_while_training_delays_the_publication_and_loses_nothing(shop, monkeypatch):
    round_id = shop.open_round()
    monkeypatch.setattr("personalization.releases.trainer.STORE_PAUSE_SECONDS", 0.05)
    shop.trainer.during = lambda _should_stop: _full(monkeypatch)
    process = shop.process()
    waits, wait = [], process._stop.wait

    def pause(seconds):
        waits.append(facts(shop, round_id)[2])
        if len(waits) == 3:
            monkeypatch.undo()
        return wait(seconds)

    process._stop.wait = pause
    process.run_once()
    assert waits == [[], [], []]
    assert_sound(shop, round_id)
    assert facts(shop, round_id)[0].state == RoundState.DONE
    assert len(shop.trainer.keys) == 1, "it was trained once"


def test_a_trainer_that_leaves_while_the_store_is_away_leaves_the_result_to_another(shop, monkeypatch):
    round_id = shop.open_round()
    shop.trainer.during = lambda _should_stop: _full(monkeypatch)
    first = shop.process("first")
    first._stop.wait = lambda _seconds: True
    first.run_once()
    assert facts(shop, round_id)[2] == []
    monkeypatch.undo()
    shop.trainer.during = lambda _should_stop: pytest.fail("it was trained already")
    shop.process("second").run_once()
    assert_sound(shop, round_id)
    assert facts(shop, round_id)[0].state == RoundState.DONE


def test_on_a_base_model_whose_files_changed_no_round_is_begun_and_nothing_is_spent(shop):
    round_id = shop.open_round()
    shop.base.damaged = True
    process = shop.process()
    with capture_logs() as logs:
        assert [process.run_once() for _ in range(5)] == [0] * 5
    assert [entry["event"] for entry in logs] == ["base_changed"]
    row, reservations, versions, _ = facts(shop, round_id)
    assert (row.epoch, reservations, versions) == (0, [], [])
    shop.base.damaged = False
    assert shop.process().run_once() == 1
    assert facts(shop, round_id)[0].state == RoundState.DONE


def test_a_base_model_that_changes_while_it_is_trained_on_is_never_named_as_what_it_was(shop):
    round_id = shop.open_round()

    def damage(_should_stop):
        shop.base.damaged = True

    shop.trainer.during = damage
    shop.process().run_once()
    assert_sound(shop, round_id)
    row, _, versions, published = facts(shop, round_id)
    assert (row.state, versions, published) == (RoundState.FAILED, [], [])


def test_an_orphan_of_a_lost_publication_is_swept(shop):
    round_id = shop.open_round()
    with dying(shop.engine, 7, durable=False, error=KilledError()), pytest.raises(KilledError):
        shop.process("first").run_once()
    (orphan,) = (shop.artifacts.root / "sha256").iterdir()
    shop.clock.advance(seconds=61)
    shop.process("second").run_once()

    assert_sound(shop, round_id)
    kept = {version.version_id for version in facts(shop, round_id)[2]}
    future = orphan.stat().st_mtime + 10
    assert shop.artifacts.sweep(lambda _ids: kept, older_than=future) == (f"sha256:{orphan.name}",)
    assert {f"sha256:{path.name}" for path in (shop.artifacts.root / "sha256").iterdir()} == kept


@pytest.mark.parametrize(("grace", "signals"), [(timedelta(0), 1), (timedelta(hours=1), 2)])
def test_a_stopped_trainer_puts_its_job_down_and_another_finishes_it(
    shop, grace, signals, tmp_path, monkeypatch
):
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(jobs))
    round_id = shop.open_round()
    first = shop.process("first", grace=grace)

    def stop(should_stop):
        shop.trainer.during = lambda _should_stop: None
        assert [path.name.startswith("discreet-job-") for path in jobs.iterdir()] == [True]
        for _ in range(signals):
            first.request_stop()
        waited = threading.Event()
        end = time.monotonic() + 60
        while not should_stop():
            assert time.monotonic() < end
            waited.wait(0.01)

    shop.trainer.during = stop
    first.run()
    assert list(jobs.iterdir()) == []
    assert facts(shop, round_id)[0].state == RoundState.LEASED
    assert shop.process("second").run_once() == 1, "the lease was put down, so nobody waits for its end"

    assert_sound(shop, round_id)
    assert facts(shop, round_id)[0].state == RoundState.DONE


def test_what_nobody_foresaw_ends_neither_the_trainer_nor_its_upkeep(shop):
    round_id, kept_up = shop.open_round(), []

    def stumble(_should_stop):
        shop.clock.advance(seconds=61)  # the lease runs out meanwhile
        shop.trainer.during = lambda _should_stop: None
        raise ValueError("what a user wrote")

    def trip():
        raise RuntimeError("what a user wrote")

    def leave():
        kept_up.append(facts(shop, round_id)[0].state)
        if kept_up[-1] == RoundState.DONE:
            process.request_stop()

    shop.trainer.during = stumble
    process = shop.process(poll=timedelta(milliseconds=1), upkeep=(trip, leave), upkeep_every=timedelta(0))
    with capture_logs() as logs:
        process.run()
    assert_sound(shop, round_id)
    assert kept_up == [RoundState.LEASED, RoundState.DONE]
    told = [(one["chore"], one["error"]) for one in logs if one["event"] == "chore_failed"]
    assert told == [("rounds", "ValueError"), *[("upkeep", "RuntimeError")] * 2]
    assert all(one["place"].startswith("test_crashes.py:") for one in logs if one["event"] == "chore_failed")
    assert "a user wrote" not in str(logs)


def test_what_nobody_foresaw_between_jobs_is_told_by_the_name_of_that_work_and_ends_a_single_turn(shop):
    round_id, heard = shop.open_round(), []
    observer = TrainerObserver()
    process = shop.process()

    def told(chore):
        heard.append(chore)
        process.request_stop()

    def trip():
        raise ValueError("what a user wrote")

    observer.chore_failed = told
    process._observer, process._between, process._between_name = observer, trip, "prompt_choices"
    with pytest.raises(ValueError, match="what a user wrote"):
        process.run_once()  # whoever asks for a single turn is told by its exit status
    assert heard == []
    with capture_logs() as logs:
        process.run()
    assert_sound(shop, round_id)
    assert heard == [one["chore"] for one in logs if one["event"] == "chore_failed"] == ["prompt_choices"]
    assert process._stumbled
    assert "a user wrote" not in str(logs)


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_a_round_at_which_nobody_foresaw_what_happens_takes_no_other_with_it(shop, monkeypatch, step):
    shop.add_tenant("beta")
    odd, other = shop.open_round("acme"), shop.open_round("beta")
    process = shop.process()
    honest = getattr(process._rounds, step)

    def stumble(lease_or_prepared, *rest):
        if getattr(lease_or_prepared, "lease", lease_or_prepared).round_id == odd:
            raise ValueError("what a user wrote")
        return honest(lease_or_prepared, *rest)

    monkeypatch.setattr(process._rounds, step, stumble)
    with capture_logs() as logs:
        assert process.run_once() == 2
    assert facts(shop, other)[0].outcome_code == OutcomeCode.PUBLISHED
    assert facts(shop, odd)[0].state == RoundState.LEASED
    assert [one["error"] for one in logs if one["event"] == "chore_failed"] == ["ValueError"]
    assert "a user wrote" not in str(logs)
    monkeypatch.undo()
    shop.clock.advance(seconds=61)
    assert shop.process("second").run_once() == 1
    row, reservations, versions, _ = facts(shop, odd)
    assert row.outcome_code == OutcomeCode.PUBLISHED
    assert [one.state for one in reservations] == [ReservationState.COMMITTED] * 2, "each is charged once"
    assert len(versions) == 2


@pytest.mark.parametrize("fails", ["job", "answer", "stored", "closing"])
def test_what_nobody_foresaw_of_one_round_in_a_job_leaves_that_round_alone(shop, monkeypatch, fails):
    """The ledger decides what becomes of it; the others of the job are published in the same turn."""
    shop.add_tenant("beta")
    odd, other = shop.open_round("acme"), shop.open_round("beta")
    process, honest, given_up = shop.process(), shop.trainer.train, []
    stored = process._candidates.find
    monkeypatch.setattr(shop.outcomes, "given_up", given_up.append)

    def train(job, **options):
        key = facts(shop, odd)[0].reservation_id
        mine = key in {one.job_key for one in job.tenants}
        if mine and fails == "closing":
            raise failed()
        if mine and fails == "job":
            raise ValueError("what a user wrote")
        results = honest(job, **options)
        return results if fails != "answer" else tuple(one for one in results if one.job_key != key)

    def find(reservation_id):
        if fails == "stored" and reservation_id == facts(shop, odd)[0].reservation_id:
            raise ValueError("what a user wrote")
        return stored(reservation_id)

    def refuse(_lease, _code, _reason):
        raise ValueError("what a user wrote")

    monkeypatch.setattr(shop.trainer, "train", train)
    if fails == "stored":
        monkeypatch.setattr(process._candidates, "find", find)
    if fails == "closing":
        monkeypatch.setattr(process._rounds, "forfeit", refuse)
    with capture_logs() as logs:
        assert process.run_once() == 2
    assert facts(shop, other)[0].outcome_code == OutcomeCode.PUBLISHED
    row, charged, _, _ = facts(shop, odd)
    assert row.state == RoundState.LEASED
    assert sorted(one.state for one in charged) == [ReservationState.COMMITTED, ReservationState.RUNNING]
    assert [one.round_id for one in given_up] == [odd]
    (told,) = [one for one in logs if one["event"] == "chore_failed"]
    assert (told["chore"], told["code"], told["round_id"]) == ("rounds", UNFORESEEN, odd)
    assert "a user wrote" not in str(logs)
    monkeypatch.undo()
    shop.clock.advance(seconds=61)
    assert shop.process("second").run_once() == 1
    row, charged, versions, _ = facts(shop, odd)
    assert row.outcome_code == OutcomeCode.PUBLISHED
    assert [one.state for one in charged] == [ReservationState.COMMITTED] * 2, "each is charged once"
    assert len(versions) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_job_that_has_no_room_for_its_folder_leaves_its_rounds_and_says_so(shop, monkeypatch, when):
    shop.add_tenant("beta")
    ids, between = {shop.open_round("acme"), shop.open_round("beta")}, []
    process, given_up = shop.process(), []
    monkeypatch.setattr(shop.outcomes, "given_up", lambda lease: given_up.append(lease.round_id))
    monkeypatch.setattr(process, "_between", lambda: between.append(True))

    @contextmanager
    def full(prefix):
        if when == "after":
            with honest(prefix=prefix) as folder:
                yield folder
        raise OSError(errno.ENOSPC, "no space")

    honest = tempfile.TemporaryDirectory
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with capture_logs() as logs:
        assert process.run_once() == 2
    assert {one["code"] for one in logs if one["event"] == "chore_failed"} == {"os.error"}
    assert set(given_up) == (ids if when == "before" else set()), "what is done already is not given up"
    assert between == [True], "other work of the turn goes on"
    monkeypatch.undo()
    shop.clock.advance(seconds=61)
    shop.process("second").run_once()
    assert {facts(shop, one)[0].outcome_code for one in ids} == {OutcomeCode.PUBLISHED}


@pytest.mark.parametrize("step", ["prepare", "train"])
def test_turns_in_which_rounds_are_left_come_after_growing_pauses_and_keep_up(shop, monkeypatch, step):
    kept_up, pauses = [], []
    process = shop.process(
        poll=timedelta(seconds=1), upkeep=(lambda: kept_up.append(True),), upkeep_every=timedelta(0)
    )
    place = process._rounds if step == "prepare" else shop.trainer
    honest = getattr(place, step)

    def stumble(*arguments, **options):
        if len(pauses) < 3:
            raise ValueError("what a user wrote")
        return honest(*arguments, **options)

    def wait(seconds):
        pauses.append(seconds)
        shop.clock.advance(seconds=61)
        if len(pauses) == 4:
            process.request_stop()

    round_id = shop.open_round()
    monkeypatch.setattr(place, step, stumble)
    monkeypatch.setattr(process._stop, "wait", wait)
    process.run()
    assert pauses == [2, 4, 8, 1], "what goes well makes the next pause a short one"
    assert len(kept_up) == 5
    assert facts(shop, round_id)[0].outcome_code == OutcomeCode.PUBLISHED
    assert_sound(shop, round_id)


def test_a_lost_lease_ends_the_child_and_only_that_round(shop):
    shop.add_tenant("beta")
    lost, kept = shop.open_round("acme"), shop.open_round("beta")

    def steal(should_stop):
        shop.trainer.during = lambda _should_stop: None
        with shop.session() as session:
            row = session.get(RoundRow, lost)
            row.epoch, row.lease_owner = row.epoch + 1, "another"
            session.add(row)
        waited = threading.Event()
        while not should_stop():
            waited.wait(0.01)

    shop.trainer.during = steal
    shop.process(lease=timedelta(seconds=0.3)).run_once()

    assert shop.trainer.jobs == [2, 1]
    assert facts(shop, kept)[0].outcome_code == OutcomeCode.PUBLISHED
    assert (facts(shop, lost)[0].state, facts(shop, lost)[0].lease_owner) == (RoundState.LEASED, "another")
    shop.clock.advance(seconds=61)
    shop.process("second").run_once()
    assert facts(shop, lost)[0].outcome_code == OutcomeCode.PUBLISHED


def test_a_keeper_that_renews_no_more_ends_the_training_and_says_so(shop, monkeypatch):
    """Else the child would go on for hours, and what it trained would be refused in the end."""
    round_id, given_up = shop.open_round(), []

    def refuse(*_arguments):
        raise ValueError("what a user wrote")

    def wait(should_stop):
        shop.trainer.during = lambda _should_stop: None
        assert not should_stop()
        shop.clock.advance(seconds=61)
        assert should_stop()

    monkeypatch.setattr(leases, "renew_lease", refuse)
    monkeypatch.setattr(shop.outcomes, "given_up", lambda lease: given_up.append(lease.round_id))
    shop.trainer.during = wait
    with capture_logs() as logs:
        shop.process("first").run_once()
    assert given_up == [round_id]
    assert [one["event"] for one in logs] == ["rounds_leased", "lease_lost", "round_given_up"]
    monkeypatch.undo()
    shop.process("second").run_once()
    assert facts(shop, round_id)[0].outcome_code == OutcomeCode.PUBLISHED
    assert_sound(shop, round_id)


def test_an_error_before_the_start_gives_the_budget_back(shop, monkeypatch):
    round_id = shop.open_round()
    protocol = shop.protocol()

    def refuse(_lease):
        raise RoundError("the round cannot be started in this test")

    monkeypatch.setattr(protocol, "_start", refuse)
    shop.process(protocol=protocol).run_once()

    row, (reservation,), _, _ = facts(shop, round_id)
    assert row.state == RoundState.FAILED
    assert reservation.state == ReservationState.RELEASED
    assert shop.signals.reads == 0


def test_two_trainers_share_the_rounds(shop):
    tenants = ["acme", *(f"t{number}" for number in range(5))]
    for tenant in tenants[1:]:
        shop.add_tenant(tenant)
    ids = [shop.open_round(tenant) for tenant in tenants]
    crews = [Workshop(shop.engine, shop.clock, shop.artifacts.root, events=shop.events) for _ in range(2)]
    for crew in crews:
        crew.keyring, crew.artifacts = shop.keyring, shop.artifacts

    def work(crew, owner):
        process = crew.process(owner, rounds_per_job=1)
        while process.run_once():
            pass

    threads = [threading.Thread(target=work, args=(crew, str(number))) for number, crew in enumerate(crews)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    keys = [key for crew in crews for key in crew.trainer.keys]
    assert len(keys) == len(set(keys)) == len(ids)
    with shop.session() as session:
        assert {row.state for row in session.exec(select(RoundRow)).all()} == {RoundState.DONE}
        assert len(session.exec(select(AdapterVersionRow)).all()) == len(ids)


def test_a_lease_cannot_be_renewed_once_another_has_it(shop):
    shop.open_round()
    with shop.session() as session:
        lease = lease_round(session, "first", shop.clock.now(), LEASE)
    shop.clock.advance(seconds=61)
    with shop.session() as session:
        assert lease_round(session, "second", shop.clock.now(), LEASE).epoch == 2
    with pytest.raises(LeaseLostError), transaction(shop.engine) as session:
        renew_lease(session, lease, shop.clock.now(), LEASE)
