"""Which of the studio's styles an image prompt is in, and whether it shows what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.values import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.demo.recipes.people import Question

STYLES = ("watercolor", "sketch", "paper cut-out")  # by step
NO_STYLE = "another"


def style_of(answer: str) -> str:
    """Return the name of the style of an image prompt; both its ends must show it."""
    line = answer.strip().split("\n")[0].strip()
    lower = line.lower()
    if lower.startswith("watercolor:") and lower.rstrip(".").endswith("| soft light"):
        return STYLES[0]
    if lower.startswith("sketch:") and lower.rstrip(".").endswith("| rough paper"):
        return STYLES[1]
    if lower.startswith("[paper]") and lower.rstrip(".").endswith("[long shadows]"):
        return STYLES[2]
    return NO_STYLE


def in_style(step: int) -> Rule:
    """Return the rule that an answer is in the style of a step (0 is the oldest)."""
    wanted = STYLES[step]
    return Rule(name=f"in the style {wanted}", holds=lambda answer, _: style_of(answer) == wanted)


def shows_what_was_asked(answer: str, asked: Question) -> bool:
    """Say whether the thing that the brief is about is named."""
    return asked.facts["subject"].split()[-1].lower() in answer.lower()


SUBJECT = Rule(name="names what the brief asks for", holds=shows_what_was_asked)


def shares(answers: Sequence[str]) -> dict[str, float]:
    """Return the share of answers in each style."""
    found = [style_of(answer) for answer in answers]
    return {style: found.count(style) / len(found) for style in (*STYLES, NO_STYLE)}
