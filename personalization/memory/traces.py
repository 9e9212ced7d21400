"""Say whether a text carries words of a passage: such a text must not become training data.

An answer that was copied from a document and accepted would speak for that document through its user, and outlive the
document's removal. So what carries a name, a number or a run of words from a passage, and not from the question, is
left out as a whole; what is left may still teach how answers look.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from personalization.memory.ranking import names_in, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable

RUN: Final = 4  # words in a row that say something
UNSPACED_RUN: Final = 8  # characters in a row that say as much, of scripts that put no spaces between words
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)  # Thai, Lao, Burmese, Khmer, Japanese, Chinese


def carries(text: str, passages: Iterable[str], question: str) -> bool:
    """Say whether a text holds anything of the passages that the question did not hold already."""
    asked, told = words_of(question), words_of(text)
    known, said = set(asked), set(told)
    runs, unspaced = _runs(told) - _runs(asked), _unspaced_runs(text) - _unspaced_runs(question)
    for passage in passages:
        if runs & _runs(words_of(passage)) or unspaced & _unspaced_runs(passage):
            return True
        particular = {word for name in names_in(passage) for word in words_of(name)}
        particular |= set(_NUMBER.findall(passage))
        if particular & (said | set(_NUMBER.findall(text))) - known:
            return True
    return False


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)}


def _unspaced_runs(text: str) -> set[str]:
    """Return the runs of characters of scripts in which a whole clause looks like one word."""
    found = _UNSPACED.findall(unicodedata.normalize("NFKC", text))
    return {part[at : at + UNSPACED_RUN] for part in found for at in range(len(part) - UNSPACED_RUN + 1)}
