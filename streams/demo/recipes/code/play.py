"""The code assistant: three lines of one repository, and one repository without a common style."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.quality.conventions import Conventions
from streams.demo.recipes.code.data import (
    COMMITS,
    DOCSTRINGS,
    LOOSE_TENANT,
    REVIEWS,
    TENANT,
    crowd,
    loose_crowd,
)
from streams.demo.recipes.code.scoring import RULES
from streams.demo.recipes.measuring import arms
from streams.demo.recipes.people import Question
from streams.demo.recipes.playing import card_of, compare, learn, recipe_policy, spent_by, told_of
from streams.demo.recipes.values import RecipeReport, Rule
from streams.demo.recordings import read_recording, recorded_tenants

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streams.demo.installation import Line
    from streams.demo.recipes.people import Crowd
    from streams.demo.recipes.values import Measure, SideBySide, Trial
    from streams.demo.scenario import TenantScenario

TITLE = "Code assistant: commits, review comments and docstrings in the house's conventions"
MOST_RECORDED = 3  # repositories of a folder
ASKED = 30  # prompts of a recorded repository's held-out users


def play(trial: Trial) -> RecipeReport:
    """Learn the conventions of each line and judge them on held-out users."""
    if trial.options.data is not None:
        return _recorded(trial, trial.options.data)
    users, heldout = trial.size(100, 40), trial.size(32, 16)
    lines = (COMMITS,) if trial.options.quick else (COMMITS, REVIEWS, DOCSTRINGS)
    crowds = [crowd(line, users=users, heldout=heldout) for line in lines]
    tenants = {TENANT: recipe_policy(trial, users=users, releases=len(lines), domains=lines)}
    if not trial.options.quick:
        crowds.append(loose_crowd(users=users, heldout=heldout))
        tenants[LOOSE_TENANT] = recipe_policy(trial, users=users, domains=(COMMITS,))
    names = learn(trial, tenants, crowds)
    versions = trial.here.versions(list(names))
    measures: list[Measure] = []
    examples: list[SideBySide] = []
    findings: list[str] = []
    for one in crowds:
        line = (one.tenant, one.domain)
        label = one.domain if one.tenant == TENANT else "no common style"
        findings.append(told_of(label, card_of(versions.get(line))))
        if line not in names:
            findings.append(f"{label}: no adapter was released.")
            continue
        found = compare(trial, label, one.questions(), _rules(one), arms(adapter=names[line]))
        measures += found.measures
        examples += found.examples if one.tenant == TENANT else ()
    if not trial.options.quick:
        findings.append(
            "The repository without a common style is here to see that nothing is made up: its share of answers in the "
            "other repository's form should stay at nothing."
        )
    return RecipeReport(
        name="code",
        title=TITLE,
        quick=trial.options.quick,
        spent=spent_by(trial, list(tenants)),
        measures=tuple(measures),
        examples=tuple(examples),
        findings=tuple(findings),
    )


def _rules(one: Crowd) -> tuple[Rule, ...]:
    return RULES[one.domain] if one.tenant == TENANT else RULES[one.domain][:1]


def _recorded(trial: Trial, folder: Path) -> RecipeReport:
    """Do the same with recorded repositories; what their conventions are is read from their held-out users."""
    users = trial.size(100, 60)
    tenants = recorded_tenants(folder)[: trial.size(MOST_RECORDED, 1)]
    scenarios = [read_recording(folder, tenant, max_users=users, now=trial.now) for tenant in tenants]
    here = trial.here
    policies = {tenant: recipe_policy(trial, users=users) for tenant in tenants}
    names = learn(trial, policies, scenarios)
    versions = here.versions(list(names))
    measures: list[Measure] = []
    examples: list[SideBySide] = []
    findings: list[str] = []
    for scenario in scenarios:
        line: Line = (scenario.tenant, scenario.domain)
        findings.append(told_of(scenario.tenant, card_of(versions.get(line))))
        if line not in names:
            findings.append(f"{scenario.tenant}: no adapter was released.")
            continue
        rule = Rule(name="opens or closes as its unseen people do", holds=like_its_people(scenario))
        found = compare(
            trial, scenario.tenant, _questions(scenario)[:ASKED], (rule,), arms(adapter=names[line])
        )
        measures += found.measures
        examples += found.examples
    return RecipeReport(
        name="code",
        title=f"{TITLE} (recorded)",
        quick=trial.options.quick,
        spent=spent_by(trial, tenants),
        measures=tuple(measures),
        examples=tuple(examples),
        findings=tuple(findings),
    )


def like_its_people(scenario: TenantScenario) -> Callable[[str, Question], bool]:
    """Return what says whether an answer follows a convention that the held-out users' own texts show."""
    pairs = [pair for user in scenario.heldout_examples() for pair in user]
    ends = (Conventions.of(pairs), Conventions.of(pairs, backward=True))
    return lambda answer, asked: any(end.name(answer, asked.prompt) for end in ends)


def _questions(scenario: TenantScenario) -> list[Question]:
    return [
        Question(user_id=person.user_id, kind="recorded", prompt=turn.prompt, written=turn.final, facts={})
        for person in scenario.heldout
        for turn in person.turns[:1]
        if turn.final is not None
    ]
