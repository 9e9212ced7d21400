"""A user's vote is the likeliest template by the base alone, and depends on nobody else."""

from __future__ import annotations

import math

import pytest

from personalization.planning.plan import PerformanceFlags
from personalization.training.child.job import vote
from personalization.training.jobs.job import Ballot, Example, UserExamples, VoteJob, Votes
from personalization.training.jobs.wire import decode_job, decode_reply, encode_job, encode_votes
from personalization.training.run.ballots import likeliest
from personalization.training.run.measure import nll_per_user
from tests.fakes.tiny_models import write_tiny_base

FLAGS = PerformanceFlags(device="cpu", threads=1)
TEMPLATES = ("{}", "Answer calmly. {}", "zzz {} ???")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"), layers=2)


def ballot(*pairs):
    return Ballot(
        candidates=tuple(
            UserExamples(
                examples=tuple(Example(prompt=template.format(one), completion=other) for one, other in pairs)
            )
            for template in TEMPLATES
        )
    )


BALLOTS = (
    ballot(("what is b?", "a b c")),
    ballot(("x", "none of it"), ("why? " * 40, "yes")),
    ballot(),
    ballot(("part 7", "12345"), ("part 8", "54321")),
)


def asked(base, ballots=BALLOTS):
    job = VoteJob(base_model=str(base), ballots=ballots, max_tokens=96, flags=FLAGS)
    assert decode_job(encode_job(job)) == job
    return vote(job).of_users


def test_each_votes_for_what_makes_the_own_answers_likeliest_whoever_else_votes(base):
    votes = asked(base)
    for place, (one, given) in enumerate(zip(BALLOTS, votes, strict=True)):
        assert asked(base, (one,)) == (given,)
        if place != 2:
            losses = [nll_per_user(base, None, [each], flags=FLAGS)[0] for each in one.candidates]
            assert given == losses.index(min(losses))
    assert votes[2] is None
    assert asked(base, BALLOTS[::-1]) == votes[::-1]


def test_equal_losses_vote_for_the_first_and_a_loss_that_is_no_number_for_none():
    assert likeliest([2.0, 1.0, 1.0]) == 1
    assert likeliest([1.0, math.nan]) is None
    assert likeliest([1.0, math.inf]) is None
    assert likeliest([]) is None


def test_votes_travel_as_they_are_and_are_never_shown():
    votes = Votes(of_users=(0, None, 2))
    assert decode_reply(encode_votes(votes)) == votes
    job = VoteJob(base_model="b", ballots=BALLOTS, max_tokens=96)
    assert "none of it" not in repr(job)
    assert "2" not in repr(votes)
