"""Seeded users behind real handlers: what they take better is promoted, what they take worse is left; it is charged."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import event
from sqlmodel import select

from personalization.registry import steering
from personalization.registry.facts import rollout_facts
from personalization.releases.story import story_of
from personalization.rollouts import comparison_rows
from personalization.rollouts.evidence import Verdict
from personalization.rollouts.tables import ComparisonRow, LookRow, RolloutRow
from personalization.rollouts.values import Flag, Stage
from privacy.errors import BudgetExhaustedError
from privacy.ledger import ReservationState
from privacy.ledger.export import export_ledger
from privacy.ledger.spending import spend_of
from privacy.ledger.verify import verify_export
from privacy.mechanisms.private_read import ReadPurpose
from privacy.policy.ceilings import PolicyCeilings
from privacy.reports.statement import BY_CHECKS, BY_REACTIONS, privacy_statement
from streams.cli.explain import page
from streams.contracts.consent import ConsentPurpose
from streams.contracts.interaction import Edited, Rating
from tests.fakes.compared import LOOK_SECONDS, ComparedShop
from tests.integration.personalization.registry.test_rollouts import ONE_DATABASE, assert_replayed

# Looks are noisy and who gets which version is drawn: what these tests say is of draws that are typical.
pytestmark = pytest.mark.usefixtures("fixed_draws")


@pytest.fixture
def shop(engine, clock, tmp_path):
    return ComparedShop(engine, clock, tmp_path)


@pytest.mark.parametrize(
    ("candidate", "version", "stage", "verdict"),
    [(0.95, 0.05, Stage.PROMOTED, Verdict.BETTER), (0.05, 0.95, Stage.ROLLED_BACK, Verdict.WORSE)],
)
def test_users_decide_and_the_ledger_says_what_it_cost(shop, candidate, version, stage, verdict):
    first, second = shop.to_comparison()
    assert shop.reservation(second).state is ReservationState.RESERVED, "paid for before anybody reacts"
    for look in range(2):
        shop.crowd(random.Random(look), 60, candidate=candidate, version=version, first=1_000 * look)
        shop.look()
        if shop.stands().stage is not Stage.CANARY:
            break
    assert shop.stands().stage is stage
    assert shop.serving() == (second if stage is Stage.PROMOTED else first)
    assert_replayed(shop)
    comparison, charged = shop.comparison(second), shop.reservation(second)
    assert (comparison.state, comparison.verdict, comparison.wrapped_seed) == ("closed", verdict, None)
    assert (charged.state, charged.purpose) == (ReservationState.COMMITTED, ReadPurpose.KPI)
    assert shop.rows() == [], "reactions are dropped with the comparison"
    assert shop.comparisons.forget_closed() == 1
    assert shop.comparisons.forget_closed() == 0
    report = verify_export(export_ledger(shop.engine))
    with shop.session() as session:
        told = privacy_statement(session, "acme", now=shop.clock.now())
        story = story_of(session, shop_version(session, second))
        facts = rollout_facts(session, "acme")[0]
        spent = spend_of(session, "acme", 0)
    assert report.ok, report.findings
    trained = sum(one["purpose"] == "training" for one in told.facts["releases"])
    assert (told.facts["releases_committed"], spent.releases) == (trained, trained), (
        "a comparison is no release"
    )
    assert len(told.facts["releases"]) == trained + 1
    assert BY_REACTIONS in told.facts["assumptions"]
    assert any("users' reactions to two versions" in line for line in told.to_text().splitlines())
    assert facts["verdict"] == facts["comparison"]["verdict"] == verdict.value
    lines = "\n".join(page(story, []))
    assert f"reactions  {verdict.value}" in lines
    assert "look 1 at" in lines
    assert "points so far, of about" in lines


def shop_version(session, version_id):
    from personalization.registry import queries as registry

    return registry.get_version(session, version_id)


@ONE_DATABASE
@pytest.mark.parametrize(("undecided", "stage"), [("hold", Stage.HELD), ("roll_back", Stage.ROLLED_BACK)])
def test_without_enough_users_by_the_last_look_nobody_is_promoted(engine, clock, tmp_path, undecided, stage):
    shop = ComparedShop(engine, clock, tmp_path, **{"rollout.undecided": undecided})
    first, second = shop.to_comparison()
    shop.crowd(random.Random(1), 8, candidate=1.0, version=0.0)
    for _ in range(3):
        assert shop.stands().stage is Stage.CANARY
        shop.look()
    assert shop.stands().stage is stage
    assert shop.serving() == first
    assert len(shop.looks()) == 3
    assert shop.comparison(second).verdict == Verdict.UNDECIDED
    assert shop.reservation(second).state is ReservationState.COMMITTED


@ONE_DATABASE
def test_a_budget_or_ceiling_that_admits_no_comparison_reads_nothing(shop, monkeypatch):
    shop.publish()
    second = shop.publish()
    shop.verify(second)
    shop.run_tick()

    def exhausted(*_arguments):
        raise BudgetExhaustedError("nothing is left")

    monkeypatch.setattr(shop.ledger, "reserve", exhausted)
    shop.compare()
    shop.look()
    assert shop.stands().stage is Stage.HELD
    assert shop.comparison(second).verdict == Verdict.NOT_CHARGED
    assert shop.looks() == []
    with shop.session() as session:
        assert BY_CHECKS in privacy_statement(session, "acme", now=shop.clock.now()).facts["assumptions"]
        row = session.exec(select(RolloutRow)).one()
        row.compare_at = shop.clock.now()  # whatever wakes it: it is not tried again
    assert shop.process_of_comparisons(ceilings=PolicyCeilings()).run(now=shop.clock.now()) == 0


@ONE_DATABASE
def test_a_platform_ceiling_refuses_the_comparison(shop):
    shop.publish()
    second = shop.publish()
    shop.verify(second)
    shop.run_tick()
    shop.comparisons = shop.process_of_comparisons(ceilings=PolicyCeilings(lifetime_epsilon=1.0))
    shop.compare()
    assert shop.comparison(second).verdict == Verdict.NOT_CHARGED


@ONE_DATABASE
def test_what_ends_a_rollout_early_ends_its_comparison(shop):
    _, second = shop.to_comparison()
    shop.crowd(random.Random(1), 5, candidate=1.0, version=0.0)
    with shop.session() as session:
        steering.leave_candidate(session, shop.events, "acme", "default", shop.act())
    shop.compare()
    assert shop.rows() == []
    assert shop.reservation(second).state is ReservationState.RELEASED, (
        "nothing was read, so nothing is spent"
    )
    third = shop.publish()
    shop.verify(third)
    shop.run_tick()
    shop.compare()
    shop.look()  # taken, and nobody reacted
    with shop.session() as session:
        steering.set_flag(session, shop.events, "acme", "default", Flag.SHADOW, shop.act())
    shop.compare()
    assert shop.comparison(third).verdict == Verdict.UNDECIDED, "the share that was compared is gone"
    assert shop.reservation(third).state is ReservationState.COMMITTED, "a look was read, so it is spent"
    with shop.session() as session:
        assert session.exec(select(RolloutRow.verdict)).one() == Verdict.UNDECIDED


@ONE_DATABASE
def test_only_consenting_users_of_the_drawn_version_are_counted(shop):
    shop.to_comparison()
    candidate, version = shop.names()
    shop.agree("ada", "bob", "cem", "dan")
    shop.agree("eve", purposes=[ConsentPurpose.TRAINING])
    shop.clock.advance(seconds=1)
    users = [("ada", True), ("eve", True), ("nobody", True)]
    shop.react([("bob", True)], served=version if shop.drawn("bob") else candidate)
    shop.react([("dan", True)], served="a-000000000000-v9")
    shop.react(users)
    shop.react([("cem", Rating(rating=4)), ("cem", Edited(final_text="x")), ("cem", True)])
    found = sorted((row.total, row.reactions, row.candidate) for row in shop.rows())
    assert found == sorted([(4, 1, shop.drawn("ada")), (3 + 2 + 4, 3, shop.drawn("cem"))])
    shop.react([("cem", True)] * 9)
    assert max(row.reactions for row in shop.rows()) == 5, "the first few reactions count"
    shop.forget("ada")
    shop.agree("cem", purposes=[ConsentPurpose.EVALUATION], granted=False)
    (row,) = shop.rows()
    assert (row.total, row.reactions) == (0, 0), "who withdrew has nothing in it, and is not counted again"


@ONE_DATABASE
def test_a_plan_is_read_once_for_all_reactions_of_a_batch(shop, monkeypatch):
    shop.to_comparison()
    shop.agree("ada", "bob", "cem")
    shop.clock.advance(seconds=1)
    read, asked = comparison_rows.plan_of, []
    monkeypatch.setattr(comparison_rows, "plan_of", lambda one: (asked.append(one), read(one))[1])
    shop.react([(user, True) for user in ("ada", "bob", "cem")])
    assert len(shop.rows()) == 3
    assert len(asked) == 1


def test_who_withdraws_waits_for_a_look_and_not_over_its_rows(shop):
    shop.to_comparison()
    shop.agree("ada", "bob")
    shop.clock.advance(seconds=1)
    shop.react([("ada", True), ("bob", True)])
    asked = []

    def note(_, __, statement, *___):
        asked.append(statement)

    event.listen(shop.engine, "before_cursor_execute", note)
    shop.agree("bob", "ada", purposes=[ConsentPurpose.EVALUATION], granted=False)
    event.remove(shop.engine, "before_cursor_execute", note)
    (held,) = [at for at, one in enumerate(asked) if "FROM rollout_comparisons" in one]
    emptied = [at for at, one in enumerate(asked) if one.startswith("UPDATE rollout_reactions")]
    assert len(emptied) == 2
    assert held < min(emptied), "a look that is taken now locks the rows in an order of its own"
    assert shop.engine.dialect.name == "sqlite" or asked[held].rstrip().endswith("FOR SHARE")


@ONE_DATABASE
def test_a_policy_that_leaves_reactions_out_meanwhile_counts_nobody_more(shop):
    from privacy.policy import versions as policies

    shop.to_comparison()
    shop.agree("ada")
    with shop.session() as session:
        policies.set_policy(
            session, "acme", {"rollout.decide": "checks"}, actor="t", reason="t", now=shop.clock.now()
        )
    shop.react([("ada", True)])
    assert shop.rows() == []


@ONE_DATABASE
def test_a_policy_that_allows_no_evaluation_any_more_ends_the_comparison_unread(shop):
    from privacy.policy import versions as policies

    _, second = shop.to_comparison()
    shop.crowd(random.Random(4), 60, candidate=1.0, version=0.0)
    changes = {"rollout.decide": "checks", "purposes": ["training"]}
    with shop.session() as session:
        policies.set_policy(session, "acme", changes, actor="t", reason="t", now=shop.clock.now())
    shop.look()
    assert shop.looks() == []
    assert shop.rows() == []
    assert shop.comparison(second).verdict == Verdict.UNDECIDED
    assert shop.reservation(second).state is ReservationState.RELEASED


@ONE_DATABASE
def test_a_held_candidate_is_compared_on_and_a_worse_one_is_left(shop):
    first, _ = shop.to_comparison()
    with shop.session() as session:
        steering.hold(session, shop.events, "acme", "default", shop.act())
    shop.crowd(random.Random(3), 70, candidate=0.0, version=1.0)
    shop.look()
    assert shop.stands().stage is Stage.ROLLED_BACK
    assert shop.serving() == first


@ONE_DATABASE
def test_looks_that_are_overdue_are_taken_one_by_one(shop):
    shop.to_comparison()
    shop.clock.advance(seconds=5 * LOOK_SECONDS)
    shop.compare()
    assert [row.look for row in shop.rows(LookRow)] == [0, 1, 2]
    assert [row.state for row in shop.rows(ComparisonRow)] == ["closed"]
