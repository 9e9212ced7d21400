"""Terms in edits: what a user put in the place of what was shown, reduced to at most three pairs for the vote.

Texts are aligned by words, and whole blocks count, because one term is often several words on one side. Alone this
finds much that is no term; that other users made the same replacement is what cleans it. What must not be told, even by
many, is left out before: secrets, addresses, long numbers, and names of persons as far as a list and their place tell
them.
"""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final

from personalization.styles.plain_words import COMMON, GIVEN_NAMES, GREETINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from personalization.styles.votes import StyleText

MOST_PAIRS: Final = 3  # of one user
MOST_WORDS: Final = 4  # of one side
MOST_EDITED: Final = 0.2  # of the words; what is rewritten further says nothing about single terms
LONGEST_TEXT: Final = 2_000  # words; aligning takes the product of both lengths
LONGEST_SIDE: Final = 60  # characters
ALIKE: Final = 0.6  # of letters; other pairs count only where a user made them twice
BESIDE_NAMES: Final = GREETINGS | GIVEN_NAMES
_EDGES: Final = " \t\"'`.,;:!?()[]{}<>“”‘’„…—–*_"  # noqa: RUF001  # quotation marks of all kinds
_SECRET: Final = re.compile(r"\d{3}|@|://|\S{25,}|[\[\]{}\\|=]|[A-Za-z]\d+[A-Za-z]\d+[A-Za-z]")


def steady_pairs(texts: Sequence[StyleText]) -> list[tuple[str, str]]:
    """Return a user's steadiest pairs (written, meant), at most three: those of most texts, alike ones first."""
    counts: Counter[tuple[str, str]] = Counter()
    for text in texts:
        if text.shown is not None:
            counts.update(set(pairs_of(text.shown, text.final)))
    told = [(pair, count, _alike(*pair)) for pair, count in counts.items()]
    sure = [(pair, count, alike) for pair, count, alike in told if alike or count > 1]
    sure.sort(key=lambda one: (-one[1], not one[2], one[0]))
    return [pair for pair, _, _ in sure[:MOST_PAIRS]]


def pairs_of(shown: str, final: str) -> Iterator[tuple[str, str]]:
    """Yield what was replaced by what in one edit: the written side in small letters, the meant one as it is."""
    before, after = _words(shown), _words(final)
    if not before or not after or max(len(before), len(after)) > LONGEST_TEXT:
        return
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    blocks = _blocks(matcher)
    changed = sum(max(two - one, four - three) for one, two, three, four in blocks)
    if changed > max(1, MOST_EDITED * max(len(before), len(after))):
        return
    for one, two, three, four in blocks:
        if not (0 < two - one <= MOST_WORDS and 0 < four - three <= MOST_WORDS):
            continue
        around = {*before[max(0, one - 1) : two + 1], *after[max(0, three - 1) : four + 1]}
        written, meant = " ".join(before[one:two]).casefold(), " ".join(after[three:four])
        if may_be_told(written, meant) and not BESIDE_NAMES & {word.casefold() for word in around}:
            yield written, meant


def may_be_told(written: str, meant: str) -> bool:
    """Say whether a pair may be voted on at all: no secret, no name of a person, and not of common words alone."""
    sides = (written, meant)
    if written == meant or any(len(side) > LONGEST_SIDE or _SECRET.search(side) for side in sides):
        return False
    words = [side.casefold().split() for side in sides]
    if any(word.strip("'’s") in GIVEN_NAMES or word in GIVEN_NAMES for side in words for word in side):
        return False
    letters = sum(map(str.isalpha, written))
    return letters >= 3 and not all(word in COMMON for word in words[0])  # "a", "to" stand anywhere


def _words(text: str) -> list[str]:
    return [word for part in text.split() if (word := part.strip(_EDGES))]


def _blocks(matcher: SequenceMatcher[str]) -> list[tuple[int, int, int, int]]:
    """Return the changed stretches of both texts; changes side by side are one."""
    blocks: list[tuple[int, int, int, int]] = []
    for tag, one, two, three, four in matcher.get_opcodes():
        if tag == "equal":
            continue
        if blocks and blocks[-1][1] == one and blocks[-1][3] == three:
            blocks[-1] = (blocks[-1][0], two, blocks[-1][2], four)
        else:
            blocks.append((one, two, three, four))
    return blocks


def _alike(written: str, meant: str) -> bool:
    one, other = ("".join(side.casefold().split()) for side in (written, meant))
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= ALIKE
