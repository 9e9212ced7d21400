"""The people of recipes: made anew from a seed, with habits in the shares that were asked for, held-out users apart."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from personalization.styles.discovery import discover
from personalization.styles.frames import is_poor
from personalization.styles.noted import noted_pairs
from personalization.styles.votes import StyleText, UserTexts
from privacy.accounting.calibration import style_vote_of
from streams.demo.recipes.code import data as code
from streams.demo.recipes.creative import data as creative
from streams.demo.recipes.edge import data as edge
from streams.demo.recipes.facts import data as facts
from streams.demo.recipes.people import Occasion, mistyped
from streams.demo.recipes.playing import recipe_policy
from streams.demo.recipes.research import data as research
from streams.demo.recipes.support import data as support
from streams.demo.recipes.values import RecipeOptions, Trial
from streams.demo.scenario import Outcome
from tests.fakes.tiny_models import style_card

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
TRIAL = Trial(here=None, options=RecipeOptions(), now=NOW)
# name, crowd, releases of its tenant
CROWDS = [
    *((f"code-{line}", code.crowd(line, users=100, heldout=40), 3) for line in code.WRITERS),
    *((f"creative-{step}", creative.crowd(step, users=110, heldout=28), 4) for step in range(3)),
    ("edge", edge.crowd(users=80, heldout=32), 1),
    ("facts", facts.crowd(users=80, heldout=60), 1),
    *((f"research-{line}", research.crowd(line, users=100, heldout=32), 2) for line in research.LINES),
    *((f"support-{line}", support.crowd(line, users=120, heldout=28), 4) for line in support.LINES),
]


@pytest.mark.parametrize(("crowd", "releases"), [row[1:] for row in CROWDS], ids=[row[0] for row in CROWDS])
def test_people_are_made_anew_from_their_seed_and_differ_as_people_do(crowd, releases):
    assert releases >= 1
    made, asked = crowd.published(NOW), crowd.questions()
    assert made == crowd.published(NOW)
    assert asked == crowd.questions()
    assert made != replace(crowd, seed=2).published(NOW)
    assert len(made.people) == crowd.users
    assert made.domain == crowd.domain
    assert {one.user_id for one in asked}.isdisjoint(person.user_id for person in made.people)
    assert len({one.user_id for one in asked}) == crowd.heldout
    assert {one.kind for one in asked} == {*crowd.kinds, *crowd.unseen_kinds}
    turns = [turn for person in made.people for turn in person.turns]
    assert {turn.outcome for turn in turns} == set(Outcome)
    assert len({turn.event_id for turn in turns}) == len(turns)
    assert len({turn.prompt for turn in turns}) > 30
    newest, oldest = NOW - crowd.newest, NOW - crowd.newest - crowd.spread
    assert all(oldest <= turn.occurred_at <= newest for turn in turns)


@pytest.mark.parametrize(("crowd", "releases"), [row[1:] for row in CROWDS], ids=[row[0] for row in CROWDS])
def test_the_vote_that_a_recipe_pays_for_finds_the_style_that_was_put_in(crowd, releases):
    assert not is_poor(_card(crowd, releases))


def test_where_nobody_agrees_the_vote_finds_no_style():
    assert is_poor(_card(code.loose_crowd(users=100, heldout=4), 1))


def test_about_a_quarter_disagree_and_a_twentieth_do_not_care():
    people = code.crowd(code.COMMITS, users=600, heldout=1).published(NOW).people
    kept = Counter()
    for person in people:
        texts = [turn.final for turn in person.turns if turn.final is not None]
        if texts:
            kept["own" if "| reviewed" in texts[0] else "other"] += 1
    assert 0.65 < kept["own"] / kept.total() < 0.75


def test_mistyping_leaves_alone_what_an_answer_is_judged_by():
    facts = {"module": "resolver"}
    rng = random.Random(1)
    changed = {mistyped(rng, "please describe the resolver", facts) for _ in range(200)}
    assert len(changed) == 3
    assert all("resolver" in text for text in changed)
    assert mistyped(random.Random(3), "resolver", facts) == "resolver"


def test_steps_of_a_moving_style_do_not_overlap_in_what_a_release_reads():
    for step, days in enumerate(creative.RETENTION_DAYS):
        first, last = (NOW - timedelta(days=days)), NOW
        for other in range(step + 1):
            turns = [
                turn
                for person in creative.crowd(other, users=20, heldout=1).published(NOW).people
                for turn in person.turns
            ]
            inside = [first <= turn.occurred_at <= last for turn in turns]
            assert all(inside) if other == step else not any(inside)


def test_an_occasion_needs_no_facts():
    assert Occasion(prompt="a", own="b", others=("c",), shown="d").facts == {}


def _card(crowd, releases):
    policy = recipe_policy(TRIAL, users=crowd.users, releases=releases)
    texts = [
        UserTexts(
            texts=tuple(
                StyleText(prompt=turn.prompt, final=turn.final, shown=turn.shown)
                for turn in person.turns
                if turn.final is not None
            )
        )
        for person in crowd.published(NOW).people
    ]
    return discover(
        [user for user in texts if user.texts],
        style_vote_of(policy),
        b"k" * 32,
        declared_users=crowd.users,
        voters=crowd.users,
    )


def test_no_thing_and_no_text_that_a_recipe_asks_about_is_rehearsed_with_notes():
    """Else recipes would measure what releases rehearse; single words, such as printer or free, they do share."""
    made = "\n".join(
        f"{one.prompt}\n{one.answer}" for one in noted_pairs(style_card(), count=400, seed=1)
    ).lower()
    cases = (*support.LEGAL_CASES, *support.FINANCE_CASES, *support.OPERATIONS_CASES)
    asked = [text for case in cases for text in case]
    asked += [*facts.ISLES, *(study.material for study in research.studies())]
    assert [one for one in asked if one.lower() in made] == []
