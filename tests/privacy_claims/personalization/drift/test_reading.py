"""One user's part of a reading is short, its noise is the charged one, and it is drawn once, after it was paid for."""

from __future__ import annotations

import json
import math
import statistics
from datetime import timedelta

import pytest
from sqlmodel import select

from personalization.drift import features, protocol
from personalization.drift.features import FAMILIES, SIZE, UNIT, norm_of, part_of, sum_of
from personalization.drift.tables import DriftReadingRow
from personalization.drift.tick import LEASE
from personalization.signals.rows import SignalRow
from privacy.errors import AnchorUnavailableError
from privacy.ledger.tables import ReservationRow
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.storage.session import transaction
from tests.fakes.drifting import SHORT, WEEK, DriftWorld, user
from tests.fakes.stream_records import consent, erasure


def drift(deviation=8.0):
    return Gaussian(sensitivity=1.0, standard_deviation=deviation, purpose=ReadPurpose.DRIFT)


def length(numbers):
    return math.sqrt(sum(one**2 for one in numbers))


ODD = [
    user(""),
    user("?" * 10_000, "x" * 10_000),
    user(*SHORT, *SHORT, *SHORT, edited="shown text there"),
    user(*[f"topic{number} matters" for number in range(40)]),
    user("Привет, как дела?", "你好吗", "\ud7ff\x00"),
    user("one prompt alone", edited=""),
]


@pytest.mark.parametrize("one", ODD)
def test_one_user_moves_the_sum_by_at_most_one(one):
    others = [user(SHORT[number % 4]) for number in range(20)]
    moved = [a - b for a, b in zip(sum_of([*others, one]), sum_of(others), strict=True)]
    assert 0 < length(moved) <= UNIT * norm_of(FAMILIES) <= UNIT
    assert moved == part_of(one)


def test_a_part_that_counts_each_signal_instead_of_each_user_is_found_out(monkeypatch):
    """The planted fault that the test above is for: a user who sends more counts for more."""

    def planted(one):
        return [
            sum(values)
            for values in zip(*(part_of(user(example.prompt)) for example in one.examples), strict=True)
        ]

    monkeypatch.setattr(features, "part_of", planted)
    talkative = user(*SHORT, *SHORT)
    assert length(features.sum_of([talkative])) > UNIT
    monkeypatch.undo()
    assert length(features.sum_of([talkative])) <= UNIT


def test_noise_is_as_large_as_charged_and_each_bin_has_its_own_whatever_the_data_are():
    drawn = [protocol.with_noise([0] * SIZE, drift(), number.to_bytes(32, "big")) for number in range(40)]
    values = [one / UNIT for row in drawn for one in row]
    assert statistics.stdev(values) == pytest.approx(8.0, rel=0.08)
    assert abs(statistics.mean(values)) < 1.0
    assert len(set(values)) == len(values)
    by_bin = list(zip(*drawn, strict=True))
    assert abs(statistics.correlation(by_bin[0], by_bin[1])) < 0.6
    key = bytes(range(32))
    other = protocol.with_noise(list(range(SIZE)), drift(), key)
    assert [one - place for place, one in enumerate(other)] == list(
        protocol.with_noise([0] * SIZE, drift(), key)
    )


class Watched:
    """Signals and an anchor in one, that say what was asked of them, and fail where they are told to."""

    def __init__(self, source, fails=()):
        self.source = source
        self.calls = []
        self.fails = list(fails)

    def window(self, session, *args, **options):
        states = [row.state for row in session.exec(select(ReservationRow)).all()]
        self._note(f"read while {states[-1]}")
        return self.source.window(session, *args, **options)

    def check(self, _tenant_id):
        self._note("check")

    def secure(self, _tenant_id):
        self._note("secure")

    def _note(self, what):
        self.calls.append(what)
        if self.fails and self.fails[0] == len(self.calls):
            self.fails.pop(0)
            raise AnchorUnavailableError("planted: the process dies here")

    @property
    def reads(self):
        return sum(call.startswith("read") for call in self.calls)


def begin(engine, fails=(), **policy):
    world = DriftWorld(engine, users=6, **policy)
    world.ask()
    world.now += WEEK
    return world, Watched(world.source, fails)


def test_nothing_is_read_before_the_charge_is_running_and_anchored_nor_told_before_the_draw_is(engine):
    world, watched = begin(engine)
    world.tick(signals=watched, anchor=watched)
    assert watched.calls == ["check", "secure", "read while running", "secure"]
    (one,) = world.reservations()
    (row,) = world.rows()
    assert one.mechanisms == (Gaussian.from_fields(one.mechanisms[0].to_fields()),)
    assert json.loads(row.histogram_json)["noise_multiplier"] == one.mechanisms[0].noise_multiplier


def test_a_budget_that_admits_nothing_reads_nothing(engine, monkeypatch):
    world, watched = begin(engine)

    def refused(*_):
        raise protocol.BudgetExhaustedError("planted")

    monkeypatch.setattr(world.ledger, "reserve", refused)
    world.tick(signals=watched)
    assert watched.reads == 0
    assert [row.outcome for row in world.rows()] == ["budget_exhausted"]


# Calls of one reading: 1 check, 2 secure (reserved), 3 read, 4 secure (drawn and stored).
@pytest.mark.parametrize(
    ("dies_at", "state", "reads"), [(2, "committed", 1), (3, "forfeited", 1), (4, "committed", 1)]
)
def test_whoever_dies_anywhere_pays_once_reads_once_and_draws_once(
    engine, monkeypatch, dies_at, state, reads
):
    drawn = []
    noise = protocol.with_noise
    monkeypatch.setattr(protocol, "with_noise", lambda *asked: drawn.append(1) or noise(*asked))
    world, watched = begin(engine, fails=[dies_at])
    with pytest.raises(AnchorUnavailableError):
        world.tick(signals=watched, anchor=watched)
    (before,) = world.rows()
    world.ask(
        changed=True
    )  # what comes meanwhile is of another window, and another draw would not be the same
    world.now += LEASE
    world.tick(signals=watched, anchor=watched)
    (reservation,) = world.reservations()
    (row,) = world.rows()
    assert (reservation.state.value, watched.reads) == (state, reads)
    assert len(drawn) == (0 if state == "forfeited" else 1)
    if dies_at == 4:
        assert before.histogram_json == row.histogram_json
        assert before.state == "leased"
    if state == "forfeited":
        assert row.histogram_json is None


def test_a_reading_that_nobody_finishes_in_time_forfeits_and_what_was_drawn_is_destroyed(engine):
    world, watched = begin(engine, fails=[4])
    with pytest.raises(AnchorUnavailableError):
        world.tick(signals=watched, anchor=watched)
    world.now += timedelta(days=2)
    world.tick(signals=watched, anchor=watched)
    assert [one.state.value for one in world.reservations()] == ["forfeited"]
    assert [(row.outcome, row.histogram_json) for row in world.rows()] == [("forfeited", None)]


def test_terms_that_were_changed_after_they_were_paid_for_are_not_read_under(engine):
    world, watched = begin(engine, fails=[2])
    with pytest.raises(AnchorUnavailableError):
        world.tick(signals=watched, anchor=watched)
    with transaction(engine) as session:
        row = session.exec(select(DriftReadingRow)).one()
        terms = json.loads(row.terms_json)
        row.terms_json = json.dumps({**terms, "contribution_bound": 1000})
    world.now += LEASE
    world.tick(signals=watched, anchor=watched)
    assert watched.reads == 0
    assert [row.outcome for row in world.rows()] == ["forfeited"]


def test_who_is_erased_or_no_longer_agrees_is_in_no_later_reading(engine):
    world, watched = begin(engine)
    seen = []
    source = world.source.window
    watched.source = type(
        "Counted", (), {"window": lambda _, *a, **o: seen.append(source(*a, **o)) or seen[-1]}
    )()
    world.tick(signals=watched)
    world.ask()
    world.take(world.erasures, erasure("user-0", at=world.now))
    world.take(world.consents, consent("user-1", granted=False, offset=99, at=world.now))
    world.now += WEEK
    world.tick(signals=watched)
    assert [len(users) for users in seen] == [6, 4]
    assert world.count(SignalRow) == 10
    with transaction(engine) as session:
        dump = " ".join(str(vars(row)) for row in session.exec(select(DriftReadingRow)).all())
    assert "user-" not in dump
    assert not [word for prompt in SHORT for word in prompt.split() if f" {word} " in dump]
