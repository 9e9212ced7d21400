"""What the demonstration publishes: made or read, deterministic, with held-out users apart; and its report."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from streams.client.testing import InMemoryBroker
from streams.contracts.codec import Decoded, decode_interaction
from streams.contracts.topics import INTERACTIONS
from streams.demo.companies import COMPANIES, make_company
from streams.demo.display import Stages
from streams.demo.publishing import publish_consents, publish_interactions
from streams.demo.recordings import read_recording, recorded_tenants
from streams.demo.report import DemoReport, EventCounts, TenantFacts, show
from streams.demo.run import DemoOptions, scenarios_of
from streams.demo.scenario import Outcome
from streams.demo.tenancy import demo_policy
from streams.errors import ScenarioError

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize("tenant", COMPANIES)
def test_a_company_is_made_anew_and_equal_from_its_seed(tenant):
    one = make_company(tenant, max_users=80, now=NOW)
    assert one == make_company(tenant, max_users=80, now=NOW)
    assert one != make_company(tenant, max_users=80, now=NOW, seed=2)
    assert (len(one.people), len(one.heldout)) == (80, 20)
    published = {person.user_id for person in one.people}
    assert published.isdisjoint(person.user_id for person in one.heldout)
    turns = [turn for person in one.people for turn in person.turns]
    assert {len(person.turns) for person in one.people} == {1, 2, 3, 4}
    assert {turn.outcome for turn in turns} == set(Outcome)
    assert len({turn.event_id for turn in turns}) == len(turns)
    assert all(NOW - timedelta(days=6) <= turn.occurred_at <= NOW for turn in turns)


def test_conventions_differ_between_companies_and_vary_within_one():
    openings, texts = Counter(), {}
    for tenant in COMPANIES:
        kept = [user[0][1] for user in make_company(tenant, max_users=80, now=NOW).heldout_examples()]
        openings[tenant] = kept[0][:1]
        texts[tenant] = set(kept)
    assert len(set(openings.values())) == len(COMPANIES)
    assert all(len(kept) > 10 for kept in texts.values())


def test_rejected_answers_are_not_kept_as_held_out_text():
    scenario = make_company("pinegate", max_users=80, now=NOW)
    rejected = [
        turn for person in scenario.heldout for turn in person.turns if turn.outcome is Outcome.REJECTED
    ]
    assert rejected
    kept = {pair for user in scenario.heldout_examples() for pair in user}
    assert all(turn.final is None and (turn.prompt, turn.shown) not in kept for turn in rejected)


def _record(folder, tenant, rows):
    with gzip.open(folder / f"{tenant}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _rows(users):
    return [
        {"tenant": "t", "user": f"u{n}", "id": f"t-{n}-{k}", "at": 1_400_000_000 + 1000 * n + k, "prompt": "p",
         "completion": f"c{n}"}
        for n in range(users) for k in range(2)
    ]  # fmt: skip


def test_a_recording_keeps_order_and_moves_to_the_last_days(tmp_path):
    _record(tmp_path, "t", _rows(20))
    scenario = read_recording(tmp_path, "t", max_users=12, now=NOW)
    assert (len(scenario.people), len(scenario.heldout)) == (12, 3)
    everyone = [*scenario.people, *scenario.heldout]
    assert len({person.user_id for person in everyone}) == 15
    turns = sorted((turn for person in everyone for turn in person.turns), key=lambda turn: turn.occurred_at)
    numbers = [tuple(int(part) for part in turn.event_id.split("-")[1:]) for turn in turns]
    assert numbers == sorted(numbers)
    assert NOW - timedelta(days=7) < turns[0].occurred_at < turns[-1].occurred_at < NOW
    assert recorded_tenants(tmp_path) == ["t"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 1 is not JSON"),
        ('{"tenant": "t", "user": "u", "id": "i", "prompt": "p", "completion": "c"}', "lacks a usable at"),
    ],
)
def test_a_line_in_another_format_is_named(tmp_path, line, message):
    with gzip.open(tmp_path / "t.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ScenarioError, match=message):
        read_recording(tmp_path, "t", max_users=10, now=NOW)


def test_bounds_that_cannot_be_met_are_refused(tmp_path):
    with pytest.raises(ScenarioError, match="holds no"):
        scenarios_of(DemoOptions(data=tmp_path), NOW)
    _record(tmp_path, "t", _rows(12))
    with pytest.raises(ScenarioError, match="12 recorded users and 25 are needed"):
        scenarios_of(DemoOptions(data=tmp_path, max_users=20), NOW)
    with pytest.raises(ScenarioError, match="its tenants are t"):
        scenarios_of(DemoOptions(data=tmp_path, tenants=("other",)), NOW)
    with pytest.raises(ScenarioError, match="allowed are 10 or more"):
        scenarios_of(DemoOptions(max_users=9), NOW)
    with pytest.raises(ScenarioError, match="own are alder-bikes"):
        scenarios_of(DemoOptions(tenants=("other",)), NOW)


def test_every_published_event_is_valid_but_those_meant_to_be_refused():
    broker = InMemoryBroker()
    scenarios = [make_company(tenant, max_users=10, now=NOW) for tenant in COMPANIES]
    seen = []
    assert publish_consents(broker, scenarios, now=NOW, on_progress=seen.append) == 30
    published = publish_interactions(broker, scenarios, now=NOW, on_progress=seen.append)
    records = broker.records(INTERACTIONS.name)
    assert len(records) == published.records == len(published.interactions) + 4
    decoded = [decode_interaction(r.headers, r.value, key=r.key) for r in records]
    assert (
        sum(not isinstance(one, Decoded) for one in decoded) == 2
    )  # not JSON, too large; two more are refused later
    assert seen[-1] == published.records
    heldout = {person.user_id for scenario in scenarios for person in scenario.heldout}
    assert all(one.data.user_id not in heldout for one in decoded if isinstance(one, Decoded))


def test_the_policy_of_the_demo_is_public_and_fits_its_rounds():
    policy = demo_policy(users=40, epsilon=4.0, rounds=3, now=NOW)
    assert (policy.declared_users, policy.lifetime_epsilon, policy.planned_releases) == (40, 4.0, 3)
    assert policy.schedule.due_index(NOW + timedelta(days=365)) is None


def _facts(**changes):
    values = {
        "tenant": "t", "users": 10, "signals": 20, "heldout_users": 3, "epsilon": 1.5, "target_epsilon": 2.0,
        "delta": 1e-5, "nll_base": 3.0, "nll_adapter": 2.5, "adapter_version": 1, "served_name": "a-1",
        "ledger_state": "committed", "outcome": "A new version was published.", "prompts": 20, "styled_base": 1,
        "styled_adapter": 18, "style": ("About 60 % of answers open with “Hey”.",),
    }  # fmt: skip
    return TenantFacts(**{**values, **changes})


def test_the_report_says_why_a_tenant_has_no_adapter(tmp_path):
    declined = _facts(
        tenant="small", nll_adapter=None, adapter_version=None, served_name=None, outcome="Too few users."
    )
    events = EventCounts(published=24, stored=20, dead_lettered=4)
    report = DemoReport(tenants=(_facts(), declined), events=events, seconds={"train": 1.234})
    text = io.StringIO()
    show(report, Console(file=text, width=200))
    assert "none: Too few users." in text.getvalue()
    assert "1.50 of 2" in text.getvalue()
    assert "1 → 18" in text.getvalue()
    assert "About 60 % of answers open with" in text.getvalue()
    assert "No style was found." not in text.getvalue()
    assert "24 published = 20 stored + 4 dead-lettered" in text.getvalue()
    report.write(tmp_path / "report.json")
    document = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert document["events"] == {"published": 24, "stored": 20, "dead_lettered": 4}
    assert document["seconds"] == {"train": 1.23}


def test_a_stage_ends_when_somebody_asked_to_stop_even_if_the_interrupt_was_lost():
    asked = []
    stages = Stages(Console(file=io.StringIO()), lambda: bool(asked))
    with pytest.raises(KeyboardInterrupt), stages.stage("train", "Training") as stage:
        stage.update(1, 2)
        asked.append(True)
        stage.update(2, 2)
    with pytest.raises(KeyboardInterrupt), stages.stage("serve", "Serving"):
        pytest.fail("the stage began")
    assert stages.seconds == {}
