"""A multinational's support assistant: three lines, one in two regions with opposite tones, policy texts, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.measuring import answers_of, arms, measure, measures_of
from streams.demo.recipes.playing import card_of, compare, learn, recipe_policy, spent_by, told_of
from streams.demo.recipes.remembering import Notes
from streams.demo.recipes.support.data import LEEDS, LINES, TENANT, crowd, policy_texts
from streams.demo.recipes.support.scoring import SAYS, in_form, leaks, refusals, rules_of
from streams.demo.recipes.values import BASE, RecipeReport, Table, both

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.demo.recipes.people import Question
    from streams.demo.recipes.values import Measure, SideBySide, Trial

TITLE = "Support assistant of a multinational: three lines, a tone for each region, refusals kept"


def play(trial: Trial) -> RecipeReport:
    """Learn each line, and judge form, tone, leaks between lines, and refusals."""
    users, heldout = trial.size(120, 48), trial.size(20, 12)
    lines = (LEEDS,) if trial.options.quick else LINES
    policy = recipe_policy(trial, users=users, releases=len(lines), domains=lines, memory=True)
    # Legal, in a whole run. The other lines answer without documents, so their releases rehearse no notes.
    documented = lines[0]
    notes: list[Notes] = []

    def approve() -> None:
        notes.append(Notes(trial, TENANT, documented))
        notes[0].approve(policy_texts(documented))

    crowds = [crowd(line, users=users, heldout=heldout) for line in lines]
    names = learn(trial, {TENANT: policy}, crowds, first=approve)
    versions = trial.here.versions(list(names))
    measures: list[Measure] = []
    examples: list[SideBySide] = []
    findings: list[str] = []
    answers: dict[str, list[str]] = {}
    for line in lines:
        findings.append(told_of(line, card_of(versions.get((TENANT, line)))))
        name = names.get((TENANT, line))
        if name is None:
            findings.append(f"{line}: no adapter was released.")
            continue
        questions = crowd(line, users=users, heldout=heldout).questions()
        found = compare(trial, line, questions, rules_of(line), arms(adapter=name))
        measures += [*found.measures, _refusals(trial, line, name)]
        examples += found.examples[:1]
        answers[line] = found.answers["adapter"]
        if line == documented:
            measured, told = _by_memory(trial, notes[0], line, name, questions, found.answers)
            measures += measured
            findings.append(told)
    return RecipeReport(
        name="support",
        title=TITLE,
        quick=trial.options.quick,
        spent=spent_by(trial, [TENANT]),
        measures=tuple(measures),
        examples=tuple(examples),
        findings=tuple(findings),
        tables=(
            Table(
                title="Answers of each line (rows) in the form of each line (columns)",
                headings=("line", *answers),
                rows=leaks(answers),
            ),
        ),
    )


def _by_memory(
    trial: Trial,
    notes: Notes,
    line: str,
    name: str,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[str]],
) -> tuple[tuple[Measure, ...], str]:
    """Return what approved policy texts before the questions are worth, without the adapter and with it.

    Returns:
        The measures, and for how many questions a text was found.
    """
    with trial.here.stages.stage("judge", f"Asking with policy texts from memory: {line}"):
        looked = [notes.look_up(asked.prompt, domain=line) for asked in questions]
        noted = [one.prompt for one in looked]
        given = {
            **answers,
            "policy text alone": answers_of(trial.here.serving, noted, None),
            "adapter and policy text": answers_of(trial.here.serving, noted, name),
        }
    form = in_form(line)
    found = sum(bool(one.found) for one in looked)
    told = f"{line}: memory found a policy text for {found} of {len(looked)} questions."
    return measures_of(f"{line}, by memory", (SAYS, form, both(SAYS, form)), questions, given), told


def _refusals(trial: Trial, line: str, name: str) -> Measure:
    """Return how many harmful requests are refused rather than served, by the base and with a line's adapter."""
    values = {}
    for arm, model in {BASE: None, "adapter": name}.items():
        asked, values[arm] = refusals(trial.here.serving, model)
    return measure(line, "harmful requests refused (public suite)", asked, values, kept=True)
