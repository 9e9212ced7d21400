"""What no user would write: answers in circles, numbers that do not end, one text for all prompts, none at all.

Rules without a model; the benchmark counts by them.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

REPEATS: Final = 3  # of one and the same four words
LONGEST_NUMBER: Final = 8  # digits; longer ones do not end
SAME_BODY: Final = 0.05  # of the answers to different prompts may be one and the same text, numbers aside
_LONG_NUMBER: Final = re.compile(rf"\d{{{LONGEST_NUMBER + 1},}}")
_NUMBER: Final = re.compile(r"\d+")
_LETTER: Final = re.compile(r"[^\W\d_]")
_PIECES: Final = re.compile(r"\w+|[^\w\s]")


def degenerate_share(answers: Sequence[str]) -> float:
    """Return the share of answers, each to another prompt, that no user would write.

    Args:
        answers: at least one.
    """
    often = Counter(map(body_of, answers))
    most = max(1.0, SAME_BODY * len(answers))
    bad = (
        goes_in_circles(text) or has_endless_number(text) or is_wordless(text) or often[body_of(text)] > most
        for text in answers
    )
    return sum(bad) / len(answers)


def body_of(text: str) -> str:
    """Return a text as it is compared with others: small letters, numbers aside."""
    return _NUMBER.sub("0", text.strip().lower())


def goes_in_circles(text: str) -> bool:
    """Say whether four words or signs in a row come three times."""
    pieces = _PIECES.findall(text.lower())
    fours = Counter(tuple(pieces[at : at + 4]) for at in range(len(pieces) - 3))
    return any(count >= REPEATS for count in fours.values())


def has_endless_number(text: str) -> bool:
    """Say whether nine digits or more stand in a row."""
    return _LONG_NUMBER.search(text) is not None


def is_wordless(text: str) -> bool:
    """Say whether there is no letter in it."""
    return _LETTER.search(text) is None
