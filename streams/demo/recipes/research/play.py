"""A research assistant: one audience a line, numbers and sources from memory, form from the adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.measuring import answers_of, loss_measure, measure, measures_of, side_by_side
from streams.demo.recipes.playing import card_of, learn, recipe_policy, spent_by, told_of
from streams.demo.recipes.remembering import Notes
from streams.demo.recipes.research.data import EXPERT, LINES, TENANT, crowd, studies
from streams.demo.recipes.research.scoring import SOURCED, rules_of, sourced, words_per_answer
from streams.demo.recipes.values import BASE, RecipeReport, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.demo.recipes.people import Question
    from streams.demo.recipes.remembering import Looked
    from streams.demo.recipes.values import Measure, SideBySide, Trial

TITLE = "Research assistant: answers for experts and executives, with sources from memory"
ADAPTER, MEMORY, BOTH = "adapter alone", "memory alone", "memory and adapter"


def play(trial: Trial) -> RecipeReport:
    """Learn each audience's form, approve the studies, and judge form, number and source."""
    users, heldout = trial.size(100, 40), trial.size(32, 10)
    lines = (EXPERT,) if trial.options.quick else LINES
    policy = recipe_policy(trial, users=users, releases=len(lines), domains=lines, memory=True)
    names = learn(trial, {TENANT: policy}, [crowd(line, users=users, heldout=heldout) for line in lines])
    versions = trial.here.versions(list(names))
    notes = Notes(trial, TENANT)
    with trial.here.stages.stage("memory", "Approving the studies"):
        notes.approve({study.name: study.document for study in studies()})
    measures: list[Measure] = []
    examples: list[SideBySide] = []
    findings: list[str] = []
    rows = []
    for line in lines:
        findings.append(told_of(line, card_of(versions.get((TENANT, line)))))
        name = names.get((TENANT, line))
        if name is None:
            findings.append(f"{line}: no adapter was released.")
            continue
        questions = crowd(line, users=users, heldout=heldout).questions()
        plain = [asked.prompt for asked in questions]
        with trial.here.stages.stage("memory", "Looking questions up"):
            looked = [notes.look_up(prompt, domain=line) for prompt in plain]
        noted = [one.prompt for one in looked]
        sent = sum(bool(one.found) for one in looked)
        findings.append(f"{line}: memory found a study for {sent} of {len(looked)} questions.")
        arms = {BASE: (plain, None), ADAPTER: (plain, name), MEMORY: (noted, None), BOTH: (noted, name)}
        answers = {}
        with trial.here.stages.stage("judge", f"Asking about users never trained on: {line}") as stage:
            for number, (arm, (prompts, model)) in enumerate(arms.items()):
                answers[arm] = answers_of(trial.here.serving, prompts, model)
                stage.update((number + 1) * len(plain), len(arms) * len(plain), "answers")
            loss = loss_measure(line, questions, trial.here.serving, {BASE: None, ADAPTER: name})
        measures += [*measures_of(line, rules_of(line), questions, answers), loss]
        measures.append(_sourced(line, questions, looked, answers))
        examples += side_by_side(line, questions, answers, shown=1)
        rows.append((line, *(f"{words_per_answer(given):.0f}" for given in answers.values())))
    how = "words and meaning" if notes.by_meaning else "words alone (no embedder is installed)"
    findings.append(f"Memory finds by {how}.")
    return RecipeReport(
        name="research",
        title=TITLE,
        quick=trial.options.quick,
        spent=spent_by(trial, [TENANT]),
        measures=tuple(measures),
        examples=tuple(examples),
        findings=tuple(findings),
        tables=(
            Table(
                title="Words in an answer, by audience and arm",
                headings=("audience", BASE, ADAPTER, MEMORY, BOTH),
                rows=tuple(rows),
            ),
        ),
    )


def _sourced(
    line: str, questions: Sequence[Question], looked: Sequence[Looked], answers: Mapping[str, Sequence[str]]
) -> Measure:
    """Return how many answers say the right number with its study beside them, as the gateway names it."""
    titles = {study.name: study.title for study in studies()}
    values = {}
    for arm, given in answers.items():
        cited = [[titles[name] for name in one.found] if arm in (MEMORY, BOTH) else [] for one in looked]
        values[arm] = [
            float(sourced(text, asked, names))
            for text, asked, names in zip(given, questions, cited, strict=True)
        ]
    return measure(line, SOURCED, questions, values)
