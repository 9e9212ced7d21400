"""Terms of a public list in edits: which of its pairs a user put right, whatever else the edit changed.

Nobody's words are told by such a vote, for all pairs were public before it. So nothing is left out and nothing is
aligned: a pair was made where its written side became rarer and its meant side more common.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.styles.votes import StyleText

Pair = tuple[str, str]
LONGEST_TEXT: Final = 100_000  # characters of one text; no interaction has more


def listed_pairs(texts: Sequence[StyleText], glossary: Sequence[Pair]) -> list[Pair]:
    """Return the pairs (written, meant) of a list that a user made, in its order; each once, however often it was."""
    edits = [(one.shown[:LONGEST_TEXT], one.final[:LONGEST_TEXT]) for one in texts if one.shown is not None]
    folded = [shown.casefold() for shown, _ in edits]
    made = []
    for pair in glossary:
        first = pair[0].split(" ")[0].casefold()  # most texts hold nothing of most pairs
        if any(first in there and _is_made(pair, *edit) for there, edit in zip(folded, edits, strict=True)):
            made.append(pair)
    return made


def _is_made(pair: Pair, shown: str, final: str) -> bool:
    written, meant = pair
    wrong, right = _words(written, any_case=True), _words(meant, any_case=False)

    def wrong_in(text: str) -> int:
        return sum(found != meant for found in wrong.findall(text))

    return wrong_in(shown) > wrong_in(final) and len(right.findall(final)) > len(right.findall(shown))


@lru_cache(maxsize=2_048)
def _words(side: str, *, any_case: bool) -> re.Pattern[str]:
    words = r"\s+".join(map(re.escape, side.split()))
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE if any_case else 0)
