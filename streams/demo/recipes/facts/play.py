"""Answers over fresh facts: adapter and memory, each alone and together, while documents change and go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from streams.demo.recipes.facts.data import ISLES, REMOVED, TENANT, UPDATED, crowd, facts, isles_of
from streams.demo.recipes.facts.scoring import FORM, not_out_of_date, says
from streams.demo.recipes.measuring import answers_of, loss_measure, measures_of, side_by_side
from streams.demo.recipes.playing import card_of, learn, recipe_policy, spent_by, told_of
from streams.demo.recipes.remembering import Notes
from streams.demo.recipes.values import BASE, RecipeReport, Table, both
from streams.errors import DemoError

if TYPE_CHECKING:
    from streams.demo.recipes.people import Question
    from streams.demo.recipes.remembering import Looked
    from streams.demo.recipes.values import Trial

TITLE = "Answers over fresh facts: documents change while people ask, memory and adapter together"
ADAPTER, MEMORY, BOTH = "adapter alone", "memory alone", "memory and adapter"
FRESH_SECONDS = 5.0  # in which a change must be answered from


def play(trial: Trial) -> RecipeReport:
    """Learn the form, approve facts, ask, change and remove some, and ask again.

    Raises:
        DemoError: no version was released.
    """
    users, heldout = trial.size(80, 40), trial.size(44, 12)
    people = crowd(users=users, heldout=heldout)
    names = learn(trial, {TENANT: recipe_policy(trial, users=users, memory=True)}, [people])
    if not names:
        raise DemoError("no version was released, so there is nothing to put together with memory")
    ((line, name),) = names.items()
    notes = Notes(trial, TENANT)
    first, second = facts(1), facts(2)
    questions = people.questions()
    old = {isle: first[isle].pier for isle in (*UPDATED, *REMOVED)}

    with trial.here.stages.stage(
        "memory", "Approving, changing and removing documents; looking questions up"
    ):
        notes.approve({fact.name: fact.document for fact in first.values()})
        was = [notes.look_up(asked.prompt) for asked in questions]
        changed = time.monotonic()
        notes.approve({second[isle].name: second[isle].document for isle in UPDATED})
        notes.remove([first[isle].name for isle in REMOVED])
        notes.look_up(questions[0].prompt)
        seconds = time.monotonic() - changed
        looked = [notes.look_up(asked.prompt) for asked in questions]
    before = _found(was, questions, {isle: fact.name for isle, fact in first.items()})
    after = _found(looked, questions, {isle: fact.name for isle, fact in second.items()})

    answers = _answers(trial, questions, looked, name)
    current = isles_of(questions, tuple(second))
    gone = isles_of(questions, REMOVED)
    right = says({isle: fact.pier for isle, fact in second.items()})
    measures = [
        *measures_of(
            "facts that are true", (right, both(right, FORM)), current, _of(answers, questions, current)
        ),
        *measures_of("all questions", (FORM, not_out_of_date(old)), questions, answers),
        loss_measure("all questions", questions, trial.here.serving, {BASE: None, ADAPTER: name}),
    ]
    if gone:
        measures += measures_of("removed facts", (not_out_of_date(old),), gone, _of(answers, questions, gone))
    cited = {
        one
        for looked_up, asked in zip(looked, questions, strict=True)
        if asked in gone
        for one in looked_up.found
    }
    return RecipeReport(
        name="facts",
        title=TITLE,
        quick=trial.options.quick,
        spent=spent_by(trial, [TENANT]),
        measures=tuple(measures),
        examples=side_by_side("quay desk", current, _of(answers, questions, current)),
        findings=(
            told_of("quay desk", card_of(trial.here.versions([line]).get(line))),
            _freshness(seconds, notes.by_meaning),
            f"After the change, questions for removed facts found {', '.join(sorted(cited)) or 'nothing'}.",
        ),
        tables=(
            Table(
                title="What memory finds",
                headings=("when", "right document", "another one", "nothing"),
                rows=(("first versions", *before), ("after changes and removals", *after)),
            ),
        ),
    )


def _answers(
    trial: Trial, questions: tuple[Question, ...], looked: list[Looked], name: str
) -> dict[str, list[str]]:
    plain, noted = [asked.prompt for asked in questions], [one.prompt for one in looked]
    arms = {BASE: (plain, None), ADAPTER: (plain, name), MEMORY: (noted, None), BOTH: (noted, name)}
    answers = {}
    with trial.here.stages.stage("judge", "Asking with and without memory and adapter") as stage:
        for number, (arm, (prompts, model)) in enumerate(arms.items()):
            answers[arm] = answers_of(trial.here.serving, prompts, model)
            stage.update((number + 1) * len(prompts), len(arms) * len(prompts), "answers")
    return answers


def _of(
    answers: dict[str, list[str]], questions: tuple[Question, ...], some: tuple[Question, ...]
) -> dict[str, list[str]]:
    """Return the answers to some of the questions."""
    chosen = [number for number, asked in enumerate(questions) if asked in some]
    return {arm: [given[number] for number in chosen] for arm, given in answers.items()}


def _found(
    looked: list[Looked], questions: tuple[Question, ...], names: dict[str, str]
) -> tuple[str, str, str]:
    """Return for how many questions the right document is found, another one, or nothing."""
    right = other = nothing = 0
    for one, asked in zip(looked, questions, strict=True):
        found = one.found
        wanted = names.get(asked.facts["isle"])
        right += bool(found) and found[0] == wanted
        other += bool(found) and found[0] != wanted
        nothing += not found
    return str(right), str(other), str(nothing)


def _freshness(seconds: float, by_meaning: bool) -> str:
    how = "words and meaning" if by_meaning else "words alone (no embedder is installed)"
    return (
        f"{len(UPDATED)} documents changed and {len(REMOVED)} went of {len(ISLES)}; from the change to the next "
        f"question that was looked up, by {how}, {seconds:.1f} s passed (must: {FRESH_SECONDS:g} s)."
    )
