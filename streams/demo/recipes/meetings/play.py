"""Meeting notes: the names that a house's users put right are found by a vote, approved, and put right for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.styles.families import Feature
from privacy.policy.values import amended
from streams.client.terms import Terms
from streams.demo.recipes.measuring import measure
from streams.demo.recipes.meetings.data import CLINIC, NAMES, YARD, crowd
from streams.demo.recipes.meetings.scoring import word_errors
from streams.demo.recipes.playing import card_of, learn, recipe_policy, spent_by
from streams.demo.recipes.values import RecipeReport, SideBySide, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.demo.recipes.meetings.scoring import WordErrors
    from streams.demo.recipes.people import Crowd, Question
    from streams.demo.recipes.values import Measure, Trial

TITLE = "Meeting notes: a house's names, found in its users' edits, put right in everybody's notes"
HEARD, RIGHT = "as transcribed", "terms put right"


def play(trial: Trial) -> RecipeReport:
    """Find each house's terms, turn them on as an operator does, and judge held-out users' notes before and after."""
    users, heldout = trial.size(240, 160), trial.size(60, 30)
    houses = (CLINIC,) if trial.options.quick else (CLINIC, YARD)
    policy = amended(recipe_policy(trial, users=users), {"terms": True})
    people = {house: crowd(house, users=users, heldout=heldout) for house in houses}
    names = learn(trial, dict.fromkeys(houses, policy), list(people.values()))
    versions = trial.here.versions(list(names))
    measures: list[Measure] = []
    examples: list[SideBySide] = []
    findings: list[str] = []
    rows: list[tuple[str, ...]] = []
    terms: dict[str, Terms] = {}
    for house in houses:
        card = card_of(next((version for line, version in versions.items() if line[0] == house), None))
        found = [] if card is None else [(one.key, one.words) for one in card.of(Feature.TERM)]
        wanted = {(written, meant) for meant, written in NAMES[house]}
        right = sum(pair in wanted for pair in found)
        findings.append(
            f"{house}: the vote found {len(found)} terms, {right} of the house's {len(wanted)}"
            + (f": {', '.join(f'{written} → {meant}' for written, meant in found)}." if found else ".")
        )
        if found:
            trial.here.command(
                "terms", "use", house, "correct", "--reason", "the found terms were read", signing=True
            )
        terms[house] = Terms(found)
        questions = people[house].questions(each=2)
        texts = {
            HEARD: [asked.facts["came"] for asked in questions],
            RIGHT: [terms[house].correct(asked.facts["came"]).text for asked in questions],
        }
        measures += _measures(house, questions, texts)
        rows += _rates(house, questions, texts)
        examples += [
            SideBySide(
                line=house,
                prompt=asked.prompt,
                written=asked.facts["said"],
                answers={arm: given[at] for arm, given in texts.items()},
            )
            for at, asked in enumerate(questions[:2])
        ]
    findings += _across(trial, people, terms)
    return RecipeReport(
        name="meetings",
        title=TITLE,
        quick=trial.options.quick,
        spent=spent_by(trial, list(houses)),
        measures=tuple(measures),
        examples=tuple(examples),
        findings=tuple(findings),
        tables=(
            Table(
                title="Errors of words: on names (B-WER) and on all others (U-WER)",
                headings=("house", "notes", "B-WER", "U-WER"),
                rows=tuple(rows),
            ),
        ),
    )


def _measures(
    house: str, questions: Sequence[Question], texts: dict[str, list[str]]
) -> tuple[Measure, Measure]:
    errors = {arm: _errors(questions, given) for arm, given in texts.items()}
    names = {arm: [one.names_right for one in found] for arm, found in errors.items()}
    others = {arm: [one.others_right for one in found] for arm, found in errors.items()}
    return (
        measure(house, "names right (recall of terms)", questions, names),
        measure(house, "other words right", questions, others, kept=True),
    )


def _rates(house: str, questions: Sequence[Question], texts: dict[str, list[str]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for arm, given in texts.items():
        found = _errors(questions, given)
        of_names, of_others = sum(one.of_names for one in found), sum(one.of_others for one in found)
        b_wer = sum(one.names for one in found) / max(1, of_names)
        u_wer = sum(one.others for one in found) / max(1, of_others)
        rows.append((house, arm, f"{b_wer:.3f}", f"{u_wer:.4f}"))
    return rows


def _errors(questions: Sequence[Question], given: Sequence[str]) -> list[WordErrors]:
    return [
        word_errors(asked.facts["said"], text, set(asked.facts["names"].split()))
        for asked, text in zip(questions, given, strict=True)
    ]


def _across(trial: Trial, people: dict[str, Crowd], terms: dict[str, Terms]) -> list[str]:
    """Return what one house's terms change in another's right notes; nothing should."""
    if trial.options.quick:
        return []
    changed = sum(
        bool(terms[other].correct(asked.facts["said"]).corrections)
        for house, crowd_of in people.items()
        for other in terms
        if other != house
        for asked in crowd_of.questions()
    )
    return [f"One house's terms changed {changed} of the other's right notes."]
