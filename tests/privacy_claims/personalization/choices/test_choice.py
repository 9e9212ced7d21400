"""A user has one vote, the draw is the charged one, and it is made once, after it was paid for and anchored."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlmodel import select

from personalization.choices import ballots, protocol
from personalization.choices.ballots import ballots_of, tally
from personalization.choices.tables import PromptChoiceRow
from personalization.choices.tick import LEASE
from personalization.choices.values import ChoiceOutcome
from personalization.errors import TrainingFailedError
from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import PromptTemplate
from personalization.training.jobs.job import Example, UserExamples
from privacy.errors import AnchorUnavailableError
from privacy.ledger.tables import ReservationRow
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.storage.session import transaction
from streams.contracts.consent import ConsentPurpose
from tests.fakes.choosing import SOURCES, ChoosingWorld
from tests.fakes.stream_records import consent, erasure

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
RENDERINGS = [rendering_of(PromptTemplate(source=source)) for source in SOURCES]


def user(*answers):
    return UserExamples(examples=tuple(Example(prompt="p", completion=one) for one in answers))


ODD = [user("a"), user(*"abcdefghij"), user(""), user("x" * 10_000, "\ud7ff\x00"), user("{{ prompt }}")]


@pytest.mark.parametrize("vote", [0, 1, 2, None, 3, -1])
def test_one_user_moves_one_count_by_one_at_most_and_no_other(vote):
    others = [0, 1, 1, 2, None]
    moved = [a - b for a, b in zip(tally([*others, vote], 3), tally(others, 3), strict=True)]
    assert sorted(moved) in ([0, 0, 0], [0, 0, 1])
    assert sum(moved) == (vote in {0, 1, 2})


@pytest.mark.parametrize("one", ODD)
def test_one_user_has_one_ballot_however_much_the_user_sent(one):
    (ballot,) = ballots_of([one], RENDERINGS)
    assert len(ballot.candidates) == len(RENDERINGS)
    assert {len(each.examples) for each in ballot.candidates} == {min(4, len(one.examples))}
    assert len(ballots_of([one, user("b")], RENDERINGS)) == 2


def counts_seen(world, monkeypatch):
    seen = []
    draw = protocol.exponential_choice

    def noted(stream, purpose, step, counts, epsilon):
        seen.append((list(counts), epsilon))
        return draw(stream, purpose, step, counts, epsilon)

    monkeypatch.setattr(protocol, "exponential_choice", noted)
    world.ask()
    world.tick()
    return seen


@SQLITE
def test_a_talkative_user_counts_once_in_what_is_drawn_from(engine, monkeypatch):
    world = ChoosingWorld(engine, users=5, contribution_bound=20)
    world.answer(0, names=world.names[:1], count=15)
    world.answer(1, names=world.names[1:])
    assert counts_seen(world, monkeypatch) == [([1, 4, 0], 1.0)]


@SQLITE
def test_votes_that_are_counted_for_each_example_are_found_out(engine, monkeypatch):
    """The planted fault that the test above is for: a user who sent more has more ballots."""
    honest = ballots.ballots_of
    monkeypatch.setattr(
        protocol,
        "ballots_of",
        lambda users, renderings: honest(
            [user(one.completion) for each in users for one in each.examples], renderings
        ),
    )
    world = ChoosingWorld(engine, users=5, contribution_bound=20)
    world.answer(0, names=world.names[:1], count=15)
    world.answer(1, names=world.names[1:])
    assert counts_seen(world, monkeypatch) == [([4, 4, 0], 1.0)]


@SQLITE
def test_who_did_not_agree_to_evaluation_or_was_erased_has_no_vote(engine, monkeypatch):
    world = ChoosingWorld(engine, users=6)
    world.answer(2)
    world.take(world.erasures, erasure("user-0", at=world.now))
    for offset, (name, purpose) in enumerate(
        [("user-1", ConsentPurpose.EVALUATION), ("user-2", ConsentPurpose.TRAINING)]
    ):
        world.take(
            world.consents, consent(name, granted=False, offset=90 + offset, at=world.now, purpose=purpose)
        )
    assert counts_seen(world, monkeypatch) == [([0, 0, 3], 1.0)]


def test_the_draw_follows_the_charged_law_with_fresh_randomness_whatever_the_votes_are():
    mechanism = ExponentialChoice(epsilon=1.0, candidates=3)
    votes, tries = [0, 0, 1, None], 1_500
    drawn = [protocol.drawn_place(votes, mechanism, number.to_bytes(32, "big")) for number in range(tries)]
    weights = [math.exp(count) for count in (2, 1, 0)]
    for place, weight in enumerate(weights):
        share = weight / sum(weights)
        deviation = math.sqrt(share * (1 - share) / tries)
        assert abs(drawn.count(place) / tries - share) < 5 * deviation
    assert protocol.drawn_place(votes, mechanism, bytes(32)) == protocol.drawn_place(
        votes, mechanism, bytes(32)
    )


class Watched:
    """Signals, votes and an anchor in one, that say what was asked of them, and fail where they are told to."""

    def __init__(self, world, fails=()):
        self.world = world
        self.source = world.source
        self.calls = []
        self.fails = list(fails)
        world.voting.during = lambda _stop: self._note("vote")

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
    world = ChoosingWorld(engine, users=6, **policy)
    world.answer(1)
    world.ask()
    return world, Watched(world, fails)


def test_nothing_is_read_before_the_charge_is_running_and_anchored_nor_told_before_the_draw_is(engine):
    world, watched = begin(engine)
    world.tick(signals=watched, anchor=watched)
    assert watched.calls == ["check", "secure", "read while running", "vote", "secure"]
    (one,) = world.reservations()
    assert one.mechanisms == (ExponentialChoice(epsilon=1.0, candidates=3),)


@SQLITE
def test_a_budget_that_admits_nothing_reads_nothing(engine, monkeypatch):
    world, watched = begin(engine)

    def refused(*_):
        raise protocol.BudgetExhaustedError("planted")

    monkeypatch.setattr(world.ledger, "reserve", refused)
    world.tick(signals=watched)
    assert watched.reads == 0
    assert [row.outcome for row in world.rows()] == ["budget_exhausted"]


# Calls of one choice: 1 check, 2 secure (reserved), 3 read, 4 vote, 5 secure (drawn and stored).
@pytest.mark.parametrize(
    ("dies_at", "state", "reads"),
    [(2, "committed", 1), (3, "forfeited", 1), (4, "forfeited", 1), (5, "committed", 1)],
)
def test_whoever_dies_anywhere_pays_once_reads_once_and_draws_once(
    engine, monkeypatch, dies_at, state, reads
):
    drawn = []
    draw = protocol.drawn_place
    monkeypatch.setattr(protocol, "drawn_place", lambda *asked: drawn.append(1) or draw(*asked))
    world, watched = begin(engine, fails=[dies_at])
    with pytest.raises(AnchorUnavailableError):
        world.tick(signals=watched, anchor=watched)
    (before,) = world.rows()
    world.now += LEASE
    world.tick(signals=watched, anchor=watched)
    (reservation,) = world.reservations()
    (row,) = world.rows()
    assert (reservation.state.value, watched.reads) == (state, reads)
    assert len(drawn) == (0 if state == "forfeited" else 1)
    if dies_at == 5:
        assert before.drawn_json == row.drawn_json
        assert before.chosen is None
    if state == "forfeited":
        assert (row.drawn_json, row.chosen) == (None, None)


@SQLITE
@pytest.mark.parametrize("dies_at", [3, 4])
def test_when_a_padded_choice_ended_without_a_draw_nobody_learns_before_its_public_instant(engine, dies_at):
    """Who takes it over after a crash leaves it running until then, reads nothing more, and draws nothing."""
    world, watched = begin(engine, fails=[dies_at], release_padding_seconds=14_400)
    asked_at = world.now
    with pytest.raises(AnchorUnavailableError):
        world.tick(signals=watched, anchor=watched)
    for hours, state, outcome in ((2.5, "running", None), (8, "forfeited", "forfeited")):
        world.now = asked_at + timedelta(hours=hours)
        world.tick(signals=watched, anchor=watched)
        assert [one.state.value for one in world.reservations()] == [state]
        assert [row.outcome for row in world.rows()] == [outcome]
    assert watched.reads == 1


@SQLITE
@pytest.mark.parametrize("stops", [False, True])
def test_votes_that_fail_or_are_ended_forfeit_the_charge_and_nothing_is_drawn(engine, stops):
    world, _ = begin(engine)
    leaving = []

    def fail(should_stop):
        leaving.append(1)
        assert should_stop() is stops
        raise TrainingFailedError("planted")

    world.voting.during = fail
    world.tick(stop=lambda: stops and bool(leaving))
    assert [one.state.value for one in world.reservations()] == ["forfeited"]
    assert [(row.outcome, row.drawn_json) for row in world.rows()] == [("forfeited", None)]


@SQLITE
def test_the_ledger_says_the_same_true_thing_whether_votes_failed_or_their_taker_died(engine):
    """Which of them it was depends on what users wrote; that nothing was drawn is told at the public instant anyway."""
    world = ChoosingWorld(engine, users=6, release_padding_seconds=14_400)
    for planted in (TrainingFailedError("planted"), AnchorUnavailableError("planted: the process dies here")):
        world.answer(1)
        world.ask()

        def fail(_should_stop, planted=planted):
            raise planted

        world.voting.during = fail
        with suppress(AnchorUnavailableError):
            assert world.tick() == []
        world.now += timedelta(hours=9)
        assert world.tick() == [ChoiceOutcome.FORFEITED]
    told = [one.reason for one in world.reservations()]
    assert told == ["it ended before its draw was recorded"] * 2


@SQLITE
def test_terms_that_were_changed_after_they_were_paid_for_are_not_read_under(engine):
    world, watched = begin(engine, fails=[2])
    with pytest.raises(AnchorUnavailableError):
        world.tick(signals=watched, anchor=watched)
    with transaction(engine) as session:
        row = session.exec(select(PromptChoiceRow)).one()
        row.terms_json = json.dumps({**json.loads(row.terms_json), "contribution_bound": 1000})
    world.now += LEASE
    world.tick(signals=watched, anchor=watched)
    assert watched.reads == 0
    assert [row.outcome for row in world.rows()] == ["forfeited"]


@SQLITE
@pytest.mark.parametrize("resigned", [False, True])
def test_a_draw_that_was_changed_before_it_was_told_is_not_used(engine, resigned):
    world, watched = begin(engine, fails=[5])
    with pytest.raises(AnchorUnavailableError):
        world.tick(signals=watched, anchor=watched)
    with transaction(engine) as session:
        row = session.exec(select(PromptChoiceRow)).one()
        told = json.loads(row.drawn_json)
        drawn = told["drawn"]
        if resigned:  # what was truly drawn and signed, of another reservation
            other = protocol.Drawn(
                line_ref=drawn["line_ref"],
                reservation_id="another",
                candidates=tuple(drawn["candidates"]),
                candidate=drawn["candidate"],
            )
            row.drawn_json = other.signed(world.signer)
        else:
            drawn["candidate"] = next(one for one in drawn["candidates"] if one != drawn["candidate"])
            row.drawn_json = json.dumps(told)
        session.add(row)
    world.now += LEASE
    world.tick(signals=watched, anchor=watched)
    (row,) = world.rows()
    assert (row.outcome, row.chosen, row.drawn_json) == ("forfeited", None, None)
    assert [one.state.value for one in world.reservations()] == ["forfeited"]
