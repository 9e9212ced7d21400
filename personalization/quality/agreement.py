"""How answers agree with what users wrote at the same prompts, how openings are distributed, and what is degenerate.

Pure functions; intervals are bootstrap intervals over answers. Conventions come from held-out answers alone, which
nothing is trained or tuned on.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from personalization.quality.answers import Answer
from personalization.quality.conventions import Conventions
from personalization.quality.intervals import mean_interval

LENGTH_FACTOR = 1.5  # an answer is as long as the user's within this factor, in words
REPEATS = 3  # of one and the same four words
LONGEST_NUMBER = 8  # digits; longer ones do not end
SAME_BODY = 0.05  # of the answers to different prompts may be one and the same text
OTHER = "other"
_DIGITS = re.compile(rf"\d{{{LONGEST_NUMBER + 1},}}")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, kw_only=True)
class Ends:
    """A tenant's conventions at both ends of an answer."""

    opening: Conventions
    closing: Conventions

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Ends:
        """Find both in the ``(prompt, answer)`` pairs of held-out users."""
        return cls(opening=Conventions.of(pairs), closing=Conventions.of(pairs, backward=True))

    @property
    def any(self) -> bool:
        """Whether the tenant's answers share an opening at all."""
        return bool(self.opening.found)


def agreement(
    answers: Sequence[Answer], asked: Sequence[tuple[str, str]], ends: Ends
) -> dict[str, dict[str, float]]:
    """Return each share of answers that agree, with its interval.

    ``match``: opens with the very convention the user wrote (or with none, as the user). ``in_set``: with one of the
    tenant's conventions. ``closing``: closes as the user did. ``length``: within a factor of 1.5 of the user's words.
    ``casing``: the first word after the opening begins with a capital letter as the user's does.

    Args:
        answers: one for each prompt.
        asked: prompts and what held-out users wrote.
        ends: the tenant's conventions.
    """
    found: dict[str, list[float]] = {"match": [], "in_set": [], "closing": [], "length": [], "casing": []}
    for answer, (prompt, wanted) in zip(answers, asked, strict=True):
        own, theirs = ends.opening.name(answer.text, prompt), ends.opening.name(wanted, prompt)
        found["match"].append(own == theirs)
        found["in_set"].append(own != "")
        found["closing"].append(ends.closing.name(answer.text, prompt) == ends.closing.name(wanted, prompt))
        found["length"].append(_alike_long(answer.text, wanted))
        found["casing"].append(_casing(answer.text, own) == _casing(wanted, theirs))
    return {name: mean_interval(shares).to_document() for name, shares in found.items()}


def openings_apart(
    answers: Sequence[Answer], asked: Sequence[tuple[str, str]], ends: Ends, *, closing: bool = False
) -> float:
    """Return the total variation between answers' and users' openings (or closings), with one bin for others."""
    chosen = ends.closing if closing else ends.opening
    ours = Counter(
        chosen.name(answer.text, prompt) or OTHER for answer, (prompt, _) in zip(answers, asked, strict=True)
    )
    theirs = Counter(chosen.name(wanted, prompt) or OTHER for prompt, wanted in asked)
    names = ours.keys() | theirs.keys()
    return sum(abs(ours[name] / len(answers) - theirs[name] / len(asked)) for name in names) / 2


def degenerate(answers: Sequence[Answer], prompts: Sequence[str]) -> dict[str, float]:
    """Return shares of answers that no user would write, by kind, and of all kinds together.

    ``repeats``: four words or signs in a row come three times; ``number``: nine digits or more in a row; ``empty``;
    ``copy``: the prompt's own words and nothing else, or (numbers aside) a text that more than a twentieth of other
    prompts get too. ``limit``, answers that ended at the token limit, stands beside them: a base without
    a habit of short answers does little else, so it says nothing about a fault when compared with the base.
    """
    bodies = [re.sub(r"\d+", "0", answer.text.strip().lower()) for answer in answers]
    often = Counter(zip(bodies, prompts, strict=True))
    same = Counter(body for body, _ in often)
    kinds: dict[str, list[bool]] = {"repeats": [], "number": [], "empty": [], "copy": []}
    for answer, body, prompt in zip(answers, bodies, prompts, strict=True):
        kinds["repeats"].append(_repeats(answer.text))
        kinds["number"].append(_DIGITS.search(answer.text) is not None)
        kinds["empty"].append(not _LETTER.search(answer.text))
        echoed = bool(body) and body in re.sub(r"\d+", "0", prompt.lower())
        kinds["copy"].append(echoed or same[body] > max(1.0, SAME_BODY * len(answers)))
    shares = {name: sum(found) / len(answers) for name, found in kinds.items()}
    shares["any"] = sum(any(one) for one in zip(*kinds.values(), strict=True)) / len(answers)
    shares["limit"] = sum(not answer.ended for answer in answers) / len(answers)
    return shares


def _alike_long(answer: str, wanted: str) -> bool:
    ours, theirs = len(answer.split()), len(wanted.split())
    return ours > 0 and theirs > 0 and abs(math.log(ours / theirs)) <= math.log(LENGTH_FACTOR)


def _casing(text: str, opening: str) -> str:
    """Return whether the text after an opening begins with a capital letter, a small one, or none at all."""
    marks = [sign for sign in opening if not sign.isalnum() and sign not in "{} "]
    at = 0
    for mark in marks:  # the opening's marks lead past it, whatever its slots hold
        place = text.find(mark, at)
        at = place + 1 if place >= 0 else at
    first = next((sign for sign in text[at:] if not sign.isspace()), "")
    return "upper" if first.isupper() else "lower" if first.islower() else "none"


def _repeats(text: str) -> bool:
    pieces = re.findall(r"\w+|[^\w\s]", text.lower())
    fours = Counter(tuple(pieces[at : at + 4]) for at in range(len(pieces) - 3))
    return any(count >= REPEATS for count in fours.values())
