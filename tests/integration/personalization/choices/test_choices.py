"""Choices over real signals: what users vote for is drawn, signed, told, tried and rolled back as any template."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlmodel import select
from structlog.testing import capture_logs

from personalization.adapters.signing import signed_by
from personalization.choices.rows import choices_between, choices_of, chosen_digests, lease_choice
from personalization.choices.tables import PromptChoiceRow
from personalization.choices.tick import LEASE, ChoiceTick
from personalization.choices.values import ChoiceOutcome
from personalization.errors import PromptChoiceError, PromptTemplateError, TrainingFailedError
from personalization.prompts import rows as prompts
from personalization.prompts.tables import PromptTemplateRow
from personalization.prompts.values import Origin, PromptTemplate, SignedTemplate, signed_bytes
from personalization.registry import prompting
from personalization.registry import queries as registry
from privacy.audit import trail
from privacy.errors import BudgetExhaustedError
from privacy.ledger.export import export_ledger
from privacy.ledger.verify import verify_export
from privacy.policy import versions as policies
from privacy.policy.ceilings import PolicyCeilings
from privacy.reports.statement import privacy_statement
from privacy.storage.session import transaction
from streams.contracts.codec import decode_adapter_event
from streams.contracts.topics import ADAPTER_EVENTS
from streams.outbox.tables import OutboxRow
from tests.fakes.choosing import SOURCES, ChoosingWorld
from tests.fakes.query_plans import noted_statements, without_index

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def verified(world):
    def stored():
        with transaction(world.engine) as session:
            return chosen_digests(session)

    return verify_export(list(export_ledger(world.engine, None)), registered=frozenset, readings=stored)


def told(engine):
    with transaction(engine) as session:
        rows = session.exec(select(OutboxRow).where(OutboxRow.topic == ADAPTER_EVENTS.name)).all()
    return [
        decode_adapter_event(
            [(name, value.encode()) for name, value in row.headers], row.value, key=row.key
        ).data
        for row in rows
    ]


def test_what_users_vote_for_is_added_signed_told_tried_and_rolled_back(engine):
    world = ChoosingWorld(engine)
    world.answer(2)
    row, forecast = world.ask()
    assert forecast.users_needed <= forecast.declared_users
    assert 0 < forecast.epsilon_at_delta < 2
    asked_at = row.asked_at
    assert world.tick() == [ChoiceOutcome.CHOSEN]
    (job,) = world.voting.jobs
    assert len(job.ballots) == 20
    prompts_of_one = [one.examples[0].prompt for one in job.ballots[0].candidates]
    assert prompts_of_one == [source.replace("{{ prompt }}", "what of part 0?") for source in SOURCES]
    (row,) = world.rows()
    with transaction(engine) as session:
        stands = prompting.stands(session, "acme", "default")
        added = prompts.find(session, row.line_ref, "v4")
        signed = prompts.read_signed(added)
        facts = choices_between(session, "acme", "default", asked_at, None)
        actions = [one.action for one in trail.read(session, "acme")]
    assert (signed.template.origin, signed.template.source) == (Origin.SELECTION, SOURCES[2])
    payload = signed_bytes(row.line_ref, signed.template)
    assert signed_by([world.signer.public_key], payload, key=signed.key_id, signature=signed.signature)
    assert not signed_by([bytes(32)], payload, key=signed.key_id, signature=signed.signature)
    assert row.chosen == added.version_id == stands.candidate.template.version_id
    assert (stands.current, stands.candidate_percent) == (None, 10.0)
    assert actions[-3:] == ["prompt.choice_asked", "prompt.added", "prompt.try"]
    (event,) = told(engine)
    assert (event.kind, event.prompts.candidate, event.occurred_at) == (
        "prompt_moved", row.chosen, asked_at,
    )  # fmt: skip
    (one,) = facts
    assert (one["outcome"], one["template"], one["closed_at"]) == (
        "chosen", signed.template.name, asked_at.isoformat(),
    )  # fmt: skip
    with transaction(engine) as session:
        prompting.roll_back(session, world.events, "acme", "default", world.act("not for us"))
        assert prompting.stands(session, "acme", "default").candidate is None
    dump = " ".join(str(vars(row)) for row in world.rows())
    assert "user-" not in dump
    assert "answer" not in dump


def test_a_share_of_nobody_only_registers_and_what_is_used_by_all_is_not_moved_again(engine):
    world = ChoosingWorld(engine)
    world.answer(1)
    world.ask(percent=0)
    assert world.tick() == [ChoiceOutcome.CHOSEN]
    assert told(engine) == []
    with transaction(engine) as session:
        prompting.use(session, world.events, "acme", "default", "v4", world.act())
    world.now += timedelta(minutes=1)
    world.ask()
    assert world.tick() == [ChoiceOutcome.CHOSEN]
    first, second = world.rows()
    assert first.chosen == second.chosen
    assert len(told(engine)) == 1
    with transaction(engine) as session:
        assert prompting.stands(session, "acme", "default").candidate is None


def test_what_was_drawn_is_charged_verified_and_stated(engine):
    world = ChoosingWorld(engine)
    world.answer(0)
    world.ask()
    world.tick()
    (reserved,) = world.reservations()
    assert (reserved.state.value, reserved.purpose.value) == ("committed", "selection")
    report = verified(world)
    assert report.ok, report.findings
    (row,) = world.rows()
    with transaction(engine) as session:
        text = privacy_statement(session, "acme", now=world.now).to_text()
        held = session.get(type(row), row.choice_id)
        document = json.loads(held.drawn_json)
        document["drawn"]["candidate"] = document["drawn"]["candidates"][1]
        held.drawn_json = json.dumps(document)
        session.add(held)
    assert "selection: one of 3 public candidates" in text
    assert "Choices of a prompt template" in text
    assert "0 releases" in text
    (found,) = verified(world).findings
    assert "the choice of a template of reservation" in found.text
    assert "is not what was committed" in found.text
    with transaction(engine) as session:
        session.delete(session.get(type(row), row.choice_id))
    (found,) = verified(world).findings
    assert "has no choice of a template" in found.text


@SQLITE
@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"purposes": ["training"]}, "purposes=training,evaluation"),
        (
            {"declared_users": 25, "minimum_cohort": 10},
            "25 users are declared, and 3 candidates at epsilon 1 need",
        ),
    ],
)
def test_what_a_policy_refuses_is_not_asked_for(engine, policy, said):
    world = ChoosingWorld(engine, users=1, **policy)
    with pytest.raises(PromptChoiceError) as error:
        world.ask()
    assert said in str(error.value)
    assert world.rows() == []


@SQLITE
def test_what_public_numbers_refuse_is_not_asked_for(engine):
    world = ChoosingWorld(engine, users=1)
    for asked, said in (
        ({"epsilon": 0.05}, "200 users are declared, and 3 candidates at epsilon 0.05 need"),
        ({"epsilon": 9.0}, "allowed is 0.05 to 4"),
        ({"percent": 101.0}, "allowed is 0 (nobody) to 100"),
        ({"names": ("v1", "v1")}, "allowed are 2 to 16 different templates"),
        ({"ceilings": PolicyCeilings(lifetime_epsilon=1.0)}, "above what the platform allows"),
    ):
        with pytest.raises(PromptChoiceError) as error:
            world.ask(**asked)
        assert said in str(error.value)
    assert world.rows() == []


@SQLITE
@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"purposes": ["training"]}, ChoiceOutcome.PURPOSE_NOT_ALLOWED),
        ({"declared_users": 25, "minimum_cohort": 10}, ChoiceOutcome.TOO_FEW_USERS),
        ({"period_epsilon": 0.05, "lifetime_epsilon": 0.05}, ChoiceOutcome.BUDGET_EXHAUSTED),
    ],
)
def test_a_policy_that_changed_since_it_was_asked_for_declines_it_without_a_charge(engine, change, outcome):
    world = ChoosingWorld(engine, users=1)
    world.ask()
    with transaction(engine) as session:
        policies.set_policy(session, "acme", change, actor="ann", reason="less", now=world.now)
    assert world.tick() == [outcome]
    assert world.voting.jobs == []
    assert world.reservations() == []
    assert world.rows()[0].state == "declined"


@SQLITE
def test_a_budget_that_does_not_admit_it_is_said_at_once_and_how_many_releases_it_takes(engine):
    world = ChoosingWorld(engine, users=1, lifetime_epsilon=4.0, period_epsilon=4.0)
    _, forecast = world.ask(epsilon=2.0)
    assert forecast.releases_after < forecast.releases_before
    with pytest.raises(BudgetExhaustedError, match="does not admit a choice at epsilon 2"):
        for _ in range(12):
            world.tick()
            world.now += timedelta(minutes=1)
            world.ask(epsilon=2.0)
    assert all(one.state.value == "committed" for one in world.reservations())


def test_a_second_choice_of_a_line_waits_until_the_first_is_done(engine):
    world = ChoosingWorld(engine, users=1)
    world.ask()
    with pytest.raises(PromptChoiceError, match="is not done yet"):
        world.ask()
    world.tick()
    world.now += timedelta(minutes=1)
    world.ask()


@SQLITE
def test_of_choices_asked_for_within_one_second_the_open_one_is_the_newest_and_the_only_one(engine):
    """Their ids are drawn at random, so which of them comes first by its id is no answer."""
    world = ChoosingWorld(engine, users=1, lifetime_epsilon=8.0, period_epsilon=8.0)
    asked = []
    for _ in range(6):
        row, _ = world.ask(epsilon=0.5)
        asked.insert(0, row.choice_id)
        with pytest.raises(PromptChoiceError, match="is not done yet"):
            world.ask(epsilon=0.5)
        with transaction(engine) as session:
            assert [one.choice_id for one in choices_of(session, "acme", "default", limit=9)] == asked
        with transaction(engine) as session:
            stored = session.get(PromptChoiceRow, row.choice_id)
            stored.state, stored.outcome, stored.closed_at = "done", "chosen", world.now
            session.add(stored)
            world.now += timedelta(milliseconds=10)


@SQLITE
def test_a_template_that_the_database_alone_vouches_for_is_no_candidate(engine):
    """What is drawn is signed anew, so a row that somebody wrote must not become what the platform signed."""
    world = ChoosingWorld(engine, users=1)
    with pytest.raises(PromptTemplateError, match="signed by no key"):
        world.ask(keys=[bytes(32)])
    world.ask()
    with transaction(engine) as session:
        row = session.exec(select(PromptTemplateRow).where(PromptTemplateRow.number == 2)).one()
        row.document = row.document.replace("calmly", "rudely")
        session.add(row)
    assert world.tick() == [ChoiceOutcome.TEMPLATE_UNUSABLE]
    assert world.voting.jobs == []


def unrenderable(world):
    """A template that an earlier version took and signed, and this one does not render; return its name."""
    template = PromptTemplate(source="{% if 1 %}{{ prompt }}{% endif %}")
    with transaction(world.engine) as session:
        line = registry.require_line(session, "acme", "default")
        signature = world.signer.sign_bytes(signed_bytes(line.line_ref, template))
        signed = SignedTemplate(
            template=template, number=9, key_id=signature.key_id, signature=signature.signature
        )
        prompts.keep(session, line.line_ref, signed, actor="ann", reason="long ago", now=world.now)
    return template.name


class NothingIsRead:
    """Signals that nobody may ask for."""

    def window(self, *_arguments, **_options):
        raise AssertionError("something was read")


@SQLITE
def test_a_template_that_cannot_be_rendered_is_not_asked_for_and_the_error_says_what_to_do(engine):
    world = ChoosingWorld(engine, users=1)
    name = unrenderable(world)
    with pytest.raises(PromptTemplateError) as error:
        world.ask(names=("v1", "v9"))
    assert str(error.value).startswith(
        f"the template {name} cannot be used: the template holds a if in line 1"
    )
    assert str(error.value).endswith("; add a corrected one and ask with that")
    assert world.rows() == []


@SQLITE
@pytest.mark.parametrize("spoilt", ["unrenderable", "unsigned", "gone"])
def test_templates_are_looked_at_before_anything_is_charged_or_read(engine, spoilt):
    world = ChoosingWorld(engine, users=2)
    world.answer(1)
    world.ask()
    with transaction(engine) as session:
        (row,) = session.exec(select(PromptChoiceRow)).all()
        third = session.exec(select(PromptTemplateRow).where(PromptTemplateRow.number == 3)).one()
        if spoilt == "gone":
            session.delete(third)
        elif spoilt == "unsigned":
            third.signature = "AAAA"
        session.add(row)
    if spoilt == "unrenderable":
        unrenderable(world)
        with transaction(engine) as session:
            old = session.exec(select(PromptTemplateRow).where(PromptTemplateRow.number == 9)).one()
            held = session.get(PromptChoiceRow, row.choice_id)
            held.candidates_json = json.dumps([*json.loads(held.candidates_json)[:2], old.version_id])
            session.add(held)
    with capture_logs() as logs:
        assert world.tick(signals=NothingIsRead()) == [ChoiceOutcome.TEMPLATE_UNUSABLE]
    (row,) = world.rows()
    assert (row.state, row.reservation_id, row.terms_json) == ("declined", None, None)
    (told,) = [one for one in logs if one["event"] == "prompt_choice_template_unusable"]
    assert told["reason"].startswith(("the template ", "the line has no prompt template "))
    world.now += timedelta(minutes=1)
    world.ask(names=("v1", "v2"))
    assert world.tick() == [ChoiceOutcome.CHOSEN], "the line takes another one, and has the budget for it"


@SQLITE
def test_a_template_that_is_spoilt_after_the_reservation_gives_the_budget_back(engine):
    world = ChoosingWorld(engine, users=2)
    world.answer(1)
    world.ask()
    choices = world.choices(signals=NothingIsRead())
    with transaction(engine) as session:
        lease = lease_choice(session, "dies after it reserved", world.now, LEASE)
    assert choices._reserve_or_recover(lease) is False
    with transaction(engine) as session:
        second = session.exec(select(PromptTemplateRow).where(PromptTemplateRow.number == 2)).one()
        second.signature = "AAAA"
        session.add(second)
    world.now += LEASE
    assert world.tick(signals=NothingIsRead()) == [ChoiceOutcome.TEMPLATE_UNUSABLE]
    assert world.rows()[0].state == "declined"
    assert [one.state.value for one in world.reservations()] == ["released"]


def test_a_padded_choice_is_told_at_the_end_of_its_window_and_one_that_is_late_forfeits(engine):
    world = ChoosingWorld(engine, users=2, release_padding_seconds=3600)
    world.answer(1)
    began = world.now
    world.ask()
    assert world.tick() == []
    (row,) = world.rows()
    assert (row.state, row.chosen, row.due_at) == ("leased", None, began + timedelta(hours=2))
    world.now = began + timedelta(hours=1, minutes=59)
    assert world.tick() == []
    world.now = began + timedelta(hours=2)
    assert world.tick() == [ChoiceOutcome.CHOSEN]
    assert world.rows()[0].closed_at == began + timedelta(hours=2)
    asked = world.now
    world.ask()
    stopped = []

    def slow(should_stop):
        world.now = asked + timedelta(hours=1, minutes=58)
        stopped.append(should_stop())
        world.now = asked + timedelta(hours=2)
        stopped.append(should_stop())

    world.voting.during = slow
    assert world.tick() == [ChoiceOutcome.FORFEITED]
    assert stopped == [False, True]
    assert world.reservations()[1].state.value == "forfeited"


def test_one_choice_is_taken_at_a_time_and_whoever_takes_it_is_heard_of_meanwhile(engine):
    """Votes may take hours: rounds come before the next choice, and a trainer that waits must not be ended as dead."""
    world = ChoosingWorld(engine, users=2)
    world.answer(1)
    row, _ = world.ask()
    with transaction(engine) as session:
        session.add(type(row)(**{**row.model_dump(), "choice_id": "a second one"}))
    heard = []

    def wait(should_stop):
        assert not any(should_stop() for _ in range(3))

    world.voting.during = wait
    tick = ChoiceTick(engine, lambda: world.now, world.choices(), heard=lambda: heard.append(1))
    assert tick.run() is ChoiceOutcome.CHOSEN
    assert (len(world.voting.jobs), len(heard)) == (1, 3)
    assert tick.run(stop=lambda: True) is None
    assert sorted(row.state for row in world.rows()) == ["done", "due"]
    assert tick.run() is ChoiceOutcome.CHOSEN
    assert tick.run() is None


@SQLITE
def test_whoever_watches_trainers_is_told_of_a_choice_that_failed(engine):
    world = ChoosingWorld(engine, users=2)
    world.answer(1)
    world.ask()

    def fail(_should_stop):
        raise TrainingFailedError("planted")

    world.voting.during = fail
    failed = []
    tick = ChoiceTick(engine, lambda: world.now, world.choices(), failed=failed.append)
    assert tick.run() is ChoiceOutcome.FORFEITED
    assert failed == ["prompt_choices"]


@SQLITE
@pytest.mark.parametrize("damage", ["[1", "[1]"])
def test_a_choice_whose_row_is_damaged_ends_and_no_trainer_with_it(engine, damage):
    world = ChoosingWorld(engine, users=2)
    world.answer(1)
    world.ask()
    with transaction(engine) as session:
        (row,) = session.exec(select(PromptChoiceRow)).all()
        row.candidates_json = damage
        session.add(row)
    assert world.tick() == [ChoiceOutcome.FORFEITED]
    assert world.reservations() == []
    assert world.voting.jobs == []


@SQLITE
@pytest.mark.parametrize(
    ("column", "damage", "told"),
    [
        ("drawn_json", "{", {"drawn": None}),
        ("drawn_json", '{"drawn": {"format": "discreet.prompt-choice.v1", "candidate": 1, "candidates": [1]}}',
         {"drawn": None}),
        ("candidates_json", "[1", {"candidates": [], "drawn": None}),
    ],
)  # fmt: skip
def test_a_choice_whose_row_is_damaged_is_said_to_be_and_the_others_are_told(engine, column, damage, told):
    world = ChoosingWorld(engine, users=2)
    world.answer(1)
    first, _ = world.ask(percent=0)
    asked_at = first.asked_at
    world.tick()
    world.now += timedelta(minutes=1)
    world.ask(percent=0)
    world.tick()
    with transaction(engine) as session:
        row = session.get(PromptChoiceRow, first.choice_id)
        setattr(row, column, damage)
        session.add(row)
    with transaction(engine) as session:
        found = choices_between(session, "acme", "default", asked_at, None)
    assert [one["damaged"] for one in found] == [True, False]
    assert found[0] == {**found[0], **told, "outcome": "chosen"}
    assert found[1]["drawn"] in found[1]["candidates"]


@SQLITE
def test_every_statement_of_a_choice_has_an_index(engine):
    world = ChoosingWorld(engine, users=2)
    world.answer(1)
    with noted_statements(engine) as statements:
        world.ask()
        world.tick()
    read = {
        statement: found
        for statement, parameters in statements.items()
        if (found := without_index(engine, statement, parameters))
    }
    assert len(statements) > 10
    assert read == {}
