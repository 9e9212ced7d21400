"""What one user adds to a reading of drift: shares over public bins, as whole numbers, of L2 norm at most 1.

Guarantee: a part depends on that user's examples and public numbers alone; of each family its numbers add up to at most
the family's weight, and the weights' L2 norm is at most 1, so the part's is too, however much the user sent. Adding or
removing one user changes the sum of parts by one part and no more.

*Input*: how long prompts are, their outward form, the script they are written in, and which of a dozen public buckets
their words fall into (what is asked about: a hash says which bucket, never which word). *Confidence*: how much of the
shown answer a user changed before keeping it. An interaction names no confidence of the model, and what was rejected
teaches nothing and is not stored, so neither is in it.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from personalization.styles.abstraction import WORD, plain
from personalization.styles.families import PUBLIC, Feature, prompt_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from personalization.training.jobs.job import Example, UserExamples

UNIT: Final = 1 << 20  # whole units in a part of length 1
VERSION: Final = "discreet.drift-bins.v1"  # another meaning of a bin is another version
MOST_WORDS: Final = 64  # of a prompt, that are looked at
LONGEST_COMPARED: Final = 200  # words of either text of an edit
SHORTEST_WORD: Final = 4  # letters; shorter ones are what every language is full of
WORD_BUCKETS: Final = 12


class Side(StrEnum):
    """What a family is about."""

    INPUT = "input"
    CONFIDENCE = "confidence"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One question with public answers.

    Attributes:
        name: of the family.
        side: what it is about.
        what: in words, for people.
        bins: its answers.
        weight: most that a user adds to all of them together.
    """

    name: str
    side: Side
    what: str
    bins: tuple[str, ...]
    weight: float


_LENGTHS: Final = (8, 20, 60, 200)  # words; each bin ends at one of them, the last is open
FAMILIES: Final = (
    Family(
        name="length",
        side=Side.INPUT,
        what="how many words prompts have",
        bins=("to 8", "to 20", "to 60", "to 200", "more"),
        weight=0.4,
    ),
    Family(
        name="form",
        side=Side.INPUT,
        what="the outward form of prompts",
        bins=PUBLIC[Feature.PROMPT_KIND],
        weight=0.44,
    ),
    Family(
        name="script",
        side=Side.INPUT,
        what="the script of prompts",
        bins=("plain latin", "latin", "cyrillic", "east asian", "other"),
        weight=0.36,
    ),
    Family(
        name="words",
        side=Side.INPUT,
        what="which words prompts have",
        bins=tuple(f"bucket {number + 1}" for number in range(WORD_BUCKETS)),
        weight=0.52,
    ),
    Family(
        name="edits",
        side=Side.CONFIDENCE,
        what="how much of answers users change",
        bins=("nothing", "a little", "some", "most"),
        weight=0.48,
    ),
)
SIZE: Final = sum(len(family.bins) for family in FAMILIES)
_EDITS: Final = (0.15, 0.5)  # of the words: a little up to here, some up to here


def norm_of(families: Sequence[Family]) -> float:
    """Return the L2 norm of the longest part."""
    return math.sqrt(sum(family.weight**2 for family in families))


def part_of(user: UserExamples) -> list[int]:
    """Return a user's part, in whole units of ``1 / UNIT``, family after family.

    Each family's weight is shared evenly among the user's examples (of words: among different ones), rounded down.
    """
    part: list[int] = []
    for family, answers_of in zip(FAMILIES, _ANSWERS, strict=True):
        answers = Counter(answers_of(user.examples))
        total = sum(answers.values())
        part += [
            int(family.weight * UNIT * answers[number] / total) if total else 0
            for number in range(len(family.bins))
        ]
    return part


def sum_of(users: Iterable[UserExamples]) -> list[int]:
    """Return the sum of all parts; the order of users does not matter."""
    total = [0] * SIZE
    for user in users:
        total = [one + other for one, other in zip(total, part_of(user), strict=True)]
    return total


def _lengths(examples: Sequence[Example]) -> list[int]:
    return [sum(len(plain(one.prompt).split()) > limit for limit in _LENGTHS) for one in examples]


def _forms(examples: Sequence[Example]) -> list[int]:
    kinds = PUBLIC[Feature.PROMPT_KIND]
    return [kinds.index(prompt_kind(one.prompt)) for one in examples]


def _scripts(examples: Sequence[Example]) -> list[int]:
    return [script_of(one.prompt) for one in examples]


def script_of(text: str) -> int:
    """Return the bin of the script that most letters of a text belong to; the last one where it has none."""
    text = plain(text)
    if text.isascii():
        return 0 if any(char.isalpha() for char in text) else 4
    counted = Counter(_script_of_letter(char) for char in text if char.isalpha())
    if not counted:
        return 4
    most = max(counted, key=lambda script: (counted[script], -script))
    return 1 if most == 0 and counted[1] * 50 >= counted[0] else most


@lru_cache(maxsize=4096)
def _script_of_letter(char: str) -> int:
    if char.isascii():
        return 0
    name = unicodedata.name(char, "")
    if name.startswith("LATIN"):
        return 1
    if name.startswith("CYRILLIC"):
        return 2
    return 3 if name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL")) else 4


def _words(examples: Sequence[Example]) -> list[int]:
    words = {
        word.casefold()
        for one in examples
        for word in WORD.findall(plain(one.prompt))[:MOST_WORDS]
        if len(word) >= SHORTEST_WORD and not word.isdigit()
    }
    return [bucket_of(word) for word in words]


def bucket_of(word: str) -> int:
    """Return the public bucket of a word; nothing remembers which words were asked for."""
    digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=8, person=b"driftwords.v1").digest()
    return int.from_bytes(digest) % WORD_BUCKETS


def _edits(examples: Sequence[Example]) -> list[int]:
    return [edit_of(one) for one in examples]


def edit_of(example: Example) -> int:
    """Return the bin of how much of the shown answer was changed: by words that are no longer where they were."""
    if example.shown is None or example.shown == example.completion:
        return 0
    before, after = (plain(text).split()[:LONGEST_COMPARED] for text in (example.shown, example.completion))
    changed = 1 - SequenceMatcher(None, before, after, autojunk=False).ratio()
    return 1 + sum(changed > limit for limit in _EDITS)


_ANSWERS: Final[tuple[Callable[[Sequence[Example]], list[int]], ...]] = (
    _lengths, _forms, _scripts, _words, _edits,
)  # fmt: skip
