"""The ledger's verbs on both databases: charged once, never too little, fenced and tamper-evident."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from privacy.errors import (
    BudgetExhaustedError,
    FencedError,
    LedgerIntegrityError,
    ReservationStateError,
    RetryMismatchError,
    StorageError,
)
from privacy.ledger import (
    BudgetCaps,
    DrawRecord,
    Ledger,
    PopulationCap,
    RecoveryDecision,
    ReservationRequest,
    ReservationState,
)
from privacy.ledger.export import export_ledger
from privacy.ledger.tables import AccountRow
from privacy.ledger.verify import verify_export
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.noisy_comparison import NoisyComparison
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.storage.session import open_engine, transaction

CAPS = BudgetCaps(period_epsilon=2.0, period_delta=1e-6, lifetime_epsilon=4.0, lifetime_delta=1e-6)
ROUND = (
    Gaussian(sensitivity=1.0, standard_deviation=20.0, purpose=ReadPurpose.COHORT_COUNT),
    PoissonSampledGaussian(noise_multiplier=10.0, sample_rate=0.2, steps=60),
)
DRAW = DrawRecord(seed_commitment="sha256:seed", data_digest="sha256:data", code_digest="sha256:code")


def request(key, *, epoch=1, period=0, caps=CAPS, mechanisms=ROUND, tenant="acme", population=None):
    return ReservationRequest(
        tenant_id=tenant,
        policy_version=1,
        period_index=period,
        purpose=ReadPurpose.TRAINING,
        mechanisms=mechanisms,
        idempotency_key=key,
        epoch=epoch,
        caps=caps,
        population=population,
    )


@pytest.fixture
def ledger(clock):
    return Ledger(clock)


def reserve(engine, ledger, key, **changes):
    with transaction(engine) as session:
        return ledger.reserve(session, request(key, **changes))


def call(engine, verb, *arguments):
    with transaction(engine) as session:
        return verb(session, *arguments)


def spend(engine, ledger, period=0, tenant="acme"):
    with transaction(engine) as session:
        return ledger.spend(session, tenant, period)


def used(engine, ledger, period=0, tenant="acme"):
    view = spend(engine, ledger, period, tenant)
    return view.period_used, view.lifetime_used


def findings(engine):
    return verify_export(export_ledger(engine)).findings


def fill(engine, ledger, period=0, tenant="acme"):
    """Reserve until refused; return how many fitted."""
    for number in range(1000):
        try:
            reserve(engine, ledger, f"fill-{period}-{number}", period=period, tenant=tenant)
        except BudgetExhaustedError:
            return number
    raise AssertionError("the filter never refused")


def refusal(engine, ledger, *, caps, period=0):
    """Reserve until refused; return what the refusal says."""
    for number in range(1000):
        try:
            reserve(engine, ledger, f"{caps.period_epsilon}-{period}-{number}", caps=caps, period=period)
        except BudgetExhaustedError as error:
            return str(error)
    raise AssertionError("the filter never refused")


def test_a_round_from_reservation_to_release(engine, ledger):
    held = reserve(engine, ledger, "round-1")
    assert held.state is ReservationState.RESERVED
    assert call(engine, ledger.start, held.reservation_id, 1).state is ReservationState.RUNNING
    assert call(engine, ledger.record_draw, held.reservation_id, 1, DRAW).draw == DRAW
    done = call(engine, ledger.commit, held.reservation_id, 1, "sha256:artifact")
    assert done.state is ReservationState.COMMITTED
    view = spend(engine, ledger)
    assert view.releases == 1
    assert 0 < view.period_epsilon == view.lifetime_epsilon < view.period_cap == 2.0
    with transaction(engine) as session:
        assert ledger.reservation(session, held.reservation_id) == done
        assert ledger.entry_digest(session, held.reservation_id).startswith("sha256:")
    assert findings(engine) == []


def test_both_caps_hold_together(engine, ledger):
    first = fill(engine, ledger, period=0)
    assert first > 3
    assert used(engine, ledger)[0] <= 1
    total, period = first, 1
    while (more := fill(engine, ledger, period=period)) > 0:
        total, period = total + more, period + 1
    assert total > first
    period_used, lifetime_used = used(engine, ledger, period=period)
    assert period_used == 0.0  # the lifetime cap stopped it, not this period's
    assert 0.5 < lifetime_used <= 1
    with pytest.raises(BudgetExhaustedError, match="lifetime"):
        reserve(engine, ledger, "one-more", period=period + 1)
    assert findings(engine) == []


def test_the_refusal_names_asked_spent_and_cap_and_debits_nothing(engine, ledger):
    fill(engine, ledger)
    before = used(engine, ledger)
    with pytest.raises(
        BudgetExhaustedError, match=r"asks for epsilon .* is spent .* cap is 2 at delta 1e-06"
    ):
        reserve(engine, ledger, "too-much")
    assert used(engine, ledger) == before


def test_a_repeated_request_is_charged_once(engine, ledger):
    first = reserve(engine, ledger, "round-1")
    before = used(engine, ledger)
    assert reserve(engine, ledger, "round-1") == first
    assert used(engine, ledger) == before
    with pytest.raises(RetryMismatchError, match="idempotency key"):
        reserve(engine, ledger, "round-1", mechanisms=ROUND[:1])
    with pytest.raises(RetryMismatchError, match="idempotency key"):
        reserve(engine, ledger, "round-1", period=1)


def test_only_what_never_started_is_given_back(engine, ledger):
    kept = reserve(engine, ledger, "kept")
    before = used(engine, ledger)
    held = reserve(engine, ledger, "held")
    assert call(engine, ledger.release, held.reservation_id, 1).state is ReservationState.RELEASED
    assert used(engine, ledger) == before
    call(engine, ledger.release, held.reservation_id, 1)  # an answer that was lost: nothing happens twice
    assert used(engine, ledger) == before
    call(engine, ledger.start, kept.reservation_id, 1)
    with pytest.raises(ReservationStateError, match="release a reservation that is running"):
        call(engine, ledger.release, kept.reservation_id, 1)
    call(engine, ledger.forfeit, kept.reservation_id, 1, "the child crashed")
    with pytest.raises(ReservationStateError, match="forfeited"):
        call(engine, ledger.release, kept.reservation_id, 1)
    assert used(engine, ledger) == before
    with pytest.raises(ReservationStateError, match="released"):
        call(engine, ledger.start, held.reservation_id, 1)
    assert findings(engine) == []


def test_the_deterministic_retry_is_free_and_any_other_is_refused(engine, ledger):
    held = reserve(engine, ledger, "round-1")
    with pytest.raises(ReservationStateError, match="record a draw"):
        call(engine, ledger.record_draw, held.reservation_id, 1, DRAW)
    call(engine, ledger.start, held.reservation_id, 1)
    with pytest.raises(ReservationStateError, match="no draw"):
        call(engine, ledger.commit, held.reservation_id, 1, "sha256:artifact")
    call(engine, ledger.record_draw, held.reservation_id, 1, DRAW)
    before = used(engine, ledger)
    recovery = call(engine, ledger.recover, held.reservation_id, 2)
    assert recovery.decision is RecoveryDecision.RETRY
    assert recovery.reservation.draw == DRAW
    call(engine, ledger.record_draw, held.reservation_id, 2, DRAW)
    for name in ("seed_commitment", "data_digest", "code_digest"):
        other = DrawRecord(**{**vars(DRAW), name: "sha256:other"})
        with pytest.raises(RetryMismatchError, match=name):
            call(engine, ledger.record_draw, held.reservation_id, 2, other)
    call(engine, ledger.commit, held.reservation_id, 2, "sha256:artifact")
    call(engine, ledger.commit, held.reservation_id, 2, "sha256:artifact")
    with pytest.raises(RetryMismatchError, match="another artifact"):
        call(engine, ledger.commit, held.reservation_id, 2, "sha256:else")
    assert used(engine, ledger) == before


def test_recovery_decides_from_the_ledger_alone(engine, ledger):
    reserved = reserve(engine, ledger, "reserved").reservation_id
    assert call(engine, ledger.recover, reserved, 2).decision is RecoveryDecision.START
    call(engine, ledger.start, reserved, 2)
    lost = call(engine, ledger.recover, reserved, 3)
    assert lost.decision is RecoveryDecision.FORFEITED
    assert lost.reservation.state is ReservationState.FORFEITED
    assert call(engine, ledger.recover, reserved, 4).decision is RecoveryDecision.CLOSED
    done = reserve(engine, ledger, "done").reservation_id
    call(engine, ledger.start, done, 1)
    call(engine, ledger.record_draw, done, 1, DRAW)
    call(engine, ledger.commit, done, 1, "sha256:artifact")
    recovery = call(engine, ledger.recover, done, 2)
    assert recovery.decision is RecoveryDecision.DONE
    assert recovery.reservation.artifact_digest == "sha256:artifact"
    assert findings(engine) == []


def test_a_paused_trainer_that_wakes_up_is_fenced(engine, ledger):
    held = reserve(engine, ledger, "round-1").reservation_id
    call(engine, ledger.start, held, 1)
    call(engine, ledger.recover, held, 2)
    for verb, arguments in (
        (ledger.start, ()),
        (ledger.record_draw, (DRAW,)),
        (ledger.commit, ("sha256:artifact",)),
        (ledger.forfeit, ("late",)),
        (ledger.release, ()),
        (ledger.recover, ()),
    ):
        with pytest.raises(FencedError):
            call(engine, verb, held, 1, *arguments)
    with pytest.raises(FencedError):
        reserve(engine, ledger, "round-1", epoch=1)


def test_a_newer_lease_must_recover_before_it_runs(engine, ledger):
    held = reserve(engine, ledger, "round-1").reservation_id
    with pytest.raises(ReservationStateError, match="recover"):
        call(engine, ledger.start, held, 2)
    assert reserve(engine, ledger, "round-1", epoch=2).epoch == 2
    call(engine, ledger.start, held, 2)


def test_a_lower_cap_binds_at_once_and_a_higher_one_only_new_periods(engine, ledger):
    reserve(engine, ledger, "opens")
    tight = BudgetCaps(period_epsilon=0.5, period_delta=1e-6, lifetime_epsilon=0.6, lifetime_delta=1e-6)
    assert "cap is 0" in refusal(engine, ledger, caps=tight)
    wide = BudgetCaps(period_epsilon=3.0, period_delta=1e-6, lifetime_epsilon=20.0, lifetime_delta=1e-6)
    assert "cap is 2" in refusal(engine, ledger, caps=wide)
    assert "cap is 3" in refusal(engine, ledger, caps=wide, period=1)
    view = spend(engine, ledger, period=1)
    assert (view.period_cap, view.lifetime_cap) == (3.0, 4.0)
    assert findings(engine) == []


def test_tenants_of_one_population_share_a_cap(engine, ledger):
    shared = PopulationCap(population_id="staff", epsilon=2.0, delta=1e-6)
    total = 0
    for tenant in ("acme", "zenith"):
        for number in range(200):
            try:
                reserve(engine, ledger, f"{number}", tenant=tenant, population=shared, period=number)
                total += 1
            except BudgetExhaustedError as error:
                assert "population" in str(error)  # noqa: PT017  # the loop ends at the first refusal
                break
    alone = fill(engine, ledger, tenant="other")
    assert total == alone  # one cap of the same size, whoever spends it
    released = reserve(engine, ledger, "released", tenant="fourth", period=1).reservation_id
    call(engine, ledger.release, released, 1)
    assert findings(engine) == []


def test_the_database_refuses_to_change_an_entry(engine, ledger):
    reserve(engine, ledger, "round-1")
    statements = ["UPDATE ledger_entry SET kind = 'released'", "DELETE FROM ledger_entry"]
    if engine.dialect.name == "postgresql":
        statements.append("TRUNCATE ledger_entry")
    else:
        columns = "tenant_id, sequence, kind, recorded_at, reservation_id, document, previous_digest, digest"
        statements.append(
            f"INSERT OR REPLACE INTO ledger_entry ({columns}) SELECT {columns} FROM ledger_entry"
        )
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_account SET curve = replace(curve, '[', '[1') WHERE scope = 'lifetime'",
        "UPDATE ledger_account SET entry_sequence = 1 WHERE scope = 'lifetime'",
        "UPDATE ledger_head SET digest = 'sha256:0'",
        "UPDATE ledger_head SET sequence = 99",
    ],
)
def test_admission_stops_at_a_changed_row(engine, ledger, statement):
    reserve(engine, ledger, "round-1")
    with engine.begin() as connection:
        connection.execute(text(statement))
    with pytest.raises(LedgerIntegrityError, match="budget verify"):
        reserve(engine, ledger, "round-2")
    assert findings(engine) != []


def statements_of(engine, work):
    """Run ``work`` and return how many statements it sent."""
    sent = []
    listener = lambda *arguments: sent.append(arguments[2])  # noqa: E731  # the event wants a function
    event.listen(engine, "before_cursor_execute", listener)
    try:
        work()
    finally:
        event.remove(engine, "before_cursor_execute", listener)
    return len(sent)


class CrashError(Exception):
    """The process dies here."""


def dying_at(engine, number, work):
    """Run ``work`` in a process that dies before its statement ``number``."""
    left = [number]

    def listener(*_arguments):
        left[0] -= 1
        if left[0] < 0:
            raise CrashError

    event.listen(engine, "before_cursor_execute", listener)
    try:
        with pytest.raises(CrashError):
            work()
    finally:
        event.remove(engine, "before_cursor_execute", listener)


def test_a_crash_before_any_statement_of_any_verb_changes_nothing(engine, ledger):
    """What is not committed never happened; the same call afterwards works and is charged once."""
    held = {}

    def reserving():
        held["id"] = reserve(engine, ledger, "round-1").reservation_id

    verbs = [
        reserving,
        lambda: call(engine, ledger.start, held["id"], 1),
        lambda: call(engine, ledger.record_draw, held["id"], 1, DRAW),
        lambda: call(engine, ledger.recover, held["id"], 2),
        lambda: call(engine, ledger.commit, held["id"], 2, "sha256:artifact"),
    ]
    twin = Ledger(ledger._clock)
    twin_id = reserve(engine, twin, "twin", tenant="twin").reservation_id
    twin_verbs = [
        lambda: reserve(engine, twin, "second", tenant="twin-2"),
        lambda: call(engine, twin.start, twin_id, 1),
        lambda: call(engine, twin.record_draw, twin_id, 1, DRAW),
        lambda: call(engine, twin.recover, twin_id, 2),
        lambda: call(engine, twin.commit, twin_id, 2, "sha256:artifact"),
    ]
    for verb, twin_verb in zip(verbs, twin_verbs, strict=True):
        count = statements_of(engine, twin_verb)  # the same verb on another tenant sends as many
        assert count >= 3
        before = list(export_ledger(engine, ["acme"])) if held else None
        for number in range(count):
            dying_at(engine, number, verb)
            if before is not None:
                assert list(export_ledger(engine, ["acme"])) == before
        verb()
    assert spend(engine, ledger).releases == 1
    assert findings(engine) == []


def test_admission_costs_the_same_after_many_releases(engine, ledger):
    """As many statements, each with as many rows read, after one release as after many."""
    reserve(engine, ledger, "opens the accounts")
    first = statements_of(engine, lambda: reserve(engine, ledger, "early"))
    small = (Gaussian(sensitivity=1.0, standard_deviation=900.0, purpose=ReadPurpose.KPI),)
    for number in range(40):
        reserve(engine, ledger, f"kpi-{number}", mechanisms=small)
    assert statements_of(engine, lambda: reserve(engine, ledger, "late", mechanisms=small)) == first


def test_a_round_sends_few_statements(engine, ledger):
    """The head's lock, one reading, the accounts' locks; on PostgreSQL one writing. Each is a round trip."""
    reserve(engine, ledger, "opens the accounts")
    held = {}

    def reserving():
        held["id"] = reserve(engine, ledger, "round-1").reservation_id

    reserved = statements_of(engine, reserving)
    later = [
        statements_of(engine, lambda verb=verb, rest=rest: call(engine, verb, held["id"], 1, *rest))
        for verb, rest in ((ledger.start, ()), (ledger.record_draw, (DRAW,)), (ledger.commit, ("sha256:a",)))
    ]
    writes_are_one = engine.dialect.name == "postgresql"
    assert reserved == (4 if writes_are_one else 10)  # on SQLite BEGIN is one of them
    assert later == [3 if writes_are_one else 7] * 3
    assert findings(engine) == []


def test_an_answer_lost_after_the_commit_is_repeated_without_a_second_charge(engine, ledger):
    """The connection breaks after the database committed: the caller asks again, uncharged."""
    held = {reserve(engine, ledger, "round-1").reservation_id for _ in range(2)}
    assert len(held) == 1
    for verb, arguments in (
        (ledger.start, ()),
        (ledger.record_draw, (DRAW,)),
        (ledger.commit, ("sha256:artifact",)),
    ):
        answers = [call(engine, verb, *held, 1, *arguments) for _ in range(2)]
        assert answers[0] == answers[1]
    assert reserve(engine, ledger, "round-1").state is ReservationState.COMMITTED
    assert spend(engine, ledger).reservations == {ReservationState.COMMITTED: 1}


def test_many_trainers_at_once_never_pass_the_cap(engine, ledger):
    alone = fill(engine, ledger, tenant="alone")
    admitted, refused = [], []

    def trainer(name):
        for number in range(alone):
            try:
                admitted.append(reserve(engine, ledger, f"{name}-{number}"))
            except BudgetExhaustedError:
                refused.append(name)
                return

    threads = [threading.Thread(target=trainer, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == alone
    assert refused
    assert findings(engine) == []


def test_two_trainers_race_for_one_key(engine, ledger):
    held, barrier = [], threading.Barrier(3)

    def trainer():
        barrier.wait()
        held.append(reserve(engine, ledger, "round-1").reservation_id)

    threads = [threading.Thread(target=trainer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 3
    assert len(set(held)) == 1
    assert spend(engine, ledger).reservations == {ReservationState.RESERVED: 1}


def test_a_killed_connection_charges_nothing(engine, ledger, database_url):
    if engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no connection to kill")
    killer = open_engine(database_url)

    def killed():
        with transaction(engine) as session:
            ledger.reserve(session, request("round-1"))
            pid = session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with killer.begin() as connection:
                connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")

    with pytest.raises(StorageError):
        killed()
    killer.dispose()
    assert spend(engine, ledger).lifetime_cap is None  # not even the account was opened
    reserve(engine, ledger, "round-1")


def test_a_full_disk_charges_nothing_and_loses_nothing(engine, ledger):
    if engine.dialect.name != "sqlite":
        pytest.skip("only SQLite lets a test fill its disk")
    reserve(engine, ledger, "first")
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.commit()
    before = used(engine, ledger)
    refused = 0
    for number in range(200):
        try:
            reserve(engine, ledger, f"more-{number}", period=number)
            before = (None, used(engine, ledger)[1])
        except StorageError:
            refused = number + 1
            break
    assert refused
    assert used(engine, ledger)[1] == before[1]
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        connection.commit()
    assert findings(engine) == []
    reserve(engine, ledger, f"more-{refused - 1}", period=refused - 1)


def test_one_charge_buys_each_of_its_looks_once(engine, ledger):
    comparison = (NoisyComparison(noise_multiplier=20.0, looks=2),)
    reservation_id = reserve(engine, ledger, "c", mechanisms=comparison).reservation_id
    with pytest.raises(ReservationStateError, match="cannot look"):
        call(engine, ledger.record_look, reservation_id, 1, 0)
    call(engine, ledger.start, reservation_id, 1)
    with pytest.raises(ReservationStateError, match="no draw is recorded"):
        call(engine, ledger.record_look, reservation_id, 1, 0)
    call(engine, ledger.record_draw, reservation_id, 1, DRAW)
    call(engine, ledger.record_look, reservation_id, 1, 0)
    for look, refused in ((0, "taken before"), (2, "the charge pays for 2"), (-1, "the charge pays")):
        with pytest.raises(RetryMismatchError, match=refused):
            call(engine, ledger.record_look, reservation_id, 1, look)
    assert call(engine, ledger.looks, reservation_id) == {0}
    call(engine, ledger.record_look, reservation_id, 1, 1)
    call(engine, ledger.commit, reservation_id, 1)
    with pytest.raises(ReservationStateError, match="committed"):
        call(engine, ledger.record_look, reservation_id, 1, 1)
    assert verify_export(export_ledger(engine)).ok


def test_a_new_account_is_opened_to_suit_what_will_be_charged_to_it_most(engine, ledger):
    with transaction(engine) as session:
        comparison = (NoisyComparison(noise_multiplier=20.0, looks=2),)
        asked = request("c", mechanisms=comparison)
        ledger.reserve(session, replace(asked, opened_for=ROUND))
    reserve(engine, ledger, "r", tenant="other")
    with transaction(engine) as session:
        found = {row.account_id: row.orders for row in session.exec(select(AccountRow))}
    assert found["period:acme:0"] == found["period:other:0"]
