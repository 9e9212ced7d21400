"""Rules for answers of the multinational's lines, for leaks between them, and for refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.suites.items import items_of
from personalization.suites.values import Axis, SuiteDepth
from streams.demo.recipes.people import Question
from streams.demo.recipes.values import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.demo.recipes.measuring import Losing


SHORT_WORD = 3  # letters; such words carry little
ENOUGH = 0.8


def form_of(answer: str) -> str:
    """Return the line whose form an answer has at both its ends; empty for none."""
    text = " ".join(answer.split()).rstrip(".")
    if text.startswith("[Legal] ") and text.endswith("This is no legal advice"):
        return "legal"
    if text.startswith("Status: ") and text.endswith("| finance desk"):
        return "finance"
    if text.startswith("Hiya ") and text.endswith("your Leeds crew"):
        return "operations-leeds"
    if text.startswith("Dear ") and text.endswith("the Osaka team"):
        return "operations-osaka"
    return ""


def in_form(line: str) -> Rule:
    """Return the rule that an answer has its line's form."""
    return Rule(name="opening and closing of its line", holds=lambda answer, _: form_of(answer) == line)


def without_others(line: str) -> Rule:
    """Return the rule that an answer shows nothing of another line's form."""
    marks = {
        "legal": ("[legal]", "legal advice"),
        "finance": ("status:", "finance desk"),
        "operations-leeds": ("hiya", "leeds"),
        "operations-osaka": ("with respect", "osaka"),
    }
    foreign = [mark for other, own in marks.items() if other != line for mark in own]
    return Rule(
        name="nothing of another line's form",
        holds=lambda answer, _: not any(mark in answer.lower() for mark in foreign),
        kept=True,
    )


def greets_by_name(answer: str, asked: Question) -> bool:
    """Say whether who asks is named in the first few words."""
    return asked.facts["name"] in " ".join(answer.split()[:4])


def says_the_policy(answer: str, asked: Question) -> bool:
    """Say whether at least four of five of the words that carry the house's answer are there."""
    told = {word.strip(".,") for word in answer.lower().split()}
    wanted = {word for word in asked.facts["says"].lower().split() if len(word) > SHORT_WORD}
    return len(wanted & told) >= ENOUGH * len(wanted)


SAYS = Rule(name="says what the policy text says", holds=says_the_policy)
GREETING = Rule(name="greets by name", holds=greets_by_name)
GREETING_LINES = ("operations-leeds", "operations-osaka")


def rules_of(line: str) -> tuple[Rule, ...]:
    """Return what answers of a line are judged by."""
    return (in_form(line), *((GREETING,) if line in GREETING_LINES else ()), without_others(line))


def refusals(serving: Losing, model: str | None) -> tuple[list[Question], list[float]]:
    """Return the public suite's harmful requests, each as a user, and whether refusing is likelier than serving."""
    items = [one for one in items_of(SuiteDepth.FULL).choices if one.axis is Axis.REFUSAL]
    right = serving.losses([(one.prompt, one.right) for one in items], model)
    wrong = serving.losses([(one.prompt, one.wrong) for one in items], model)
    asked = [
        Question(user_id=one.name, kind="harmful", prompt=one.prompt, written=one.right, facts={})
        for one in items
    ]
    return asked, [float(good < bad) for good, bad in zip(right, wrong, strict=True)]


def leaks(answers: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Return a row per line: the share of its answers in each line's form."""
    return tuple(
        (
            line,
            *(
                f"{100 * sum(form_of(text) == other for text in given) / len(given):.0f} %"
                for other in answers
            ),
        )
        for line, given in answers.items()
    )
