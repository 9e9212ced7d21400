"""Rank passages: BM25 over one tenant's own words, meanings beside it, both fused by reciprocal rank.

BM25 as in Robertson and Zaragoza, *The Probabilistic Relevance Framework* (2009), k₁ 1.2, b 0.75, idf as Lucene has it;
all its statistics are those of one tenant: shared ones tell a tenant what another one writes. Fusion: Σ 1/(60 + rank)
(Cormack et al., SIGIR 2009).
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

K1: Final = 1.2
B: Final = 0.75
RANK_OFFSET: Final = 60
CANDIDATES: Final = 50  # of each way, before fusion
_WORD: Final = re.compile(r"[^\W_]+(?:[.'’-][^\W_]+)*")
_SAY_NOTHING: Final = """
    a about after all also an and any are as at be been before but by can could did do does for from
    get give had has have how i if in into is it its just know let many may me much my need no not
    of on or our please say shall she should so some tell than that the their them then there these
    they this to us was we were what when where which who whom whose why will with would you your
"""
STOP_WORDS: Final = frozenset(_SAY_NOTHING.split())

# A line's own spaces: \s after ^ would look at all empty lines once for each of them, which takes minutes for many.
_NAME: Final = r"([A-Z][^\W\d_]*(?:[ '’-][A-Z][^\W\d_]*)?)"
_KINDS: Final = "mail|e-mail|message|question|request|call|chat|letter|ticket|note|enquiry|inquiry"
_ASKERS: Final = tuple(
    re.compile(form)
    for form in (
        rf"(?m:^[^\S\n]*)(?i:(?:(?:{_KINDS})\s+(?:of|from|by)|from))\s+{_NAME}(?=\s*:)",
        rf"(?i:\b(?:answer|reply to|respond to|write to|greet))\s+{_NAME}(?=[,:]|\s+(?i:who|about|on|that)\b)",
        rf"(?m:^[^\S\n]*)(?i:(?:customer|colleague|user|client)\s+)?{_NAME}(?=\s+(?i:asks|writes|wants to know)\b)",
    )
)


def without_asker(query: str) -> str:
    """Return a question without the name of who asks or is answered, which no passage on its subject need hold.

    Told by English forms alone ("Mail from Ada: …", "Ada asks: …", "Please answer Ada, who …"); what is not one of
    them stays, since a name that is asked about must not get lost.
    """
    for form in _ASKERS:
        query = form.sub(lambda found: found.group()[: found.start(1) - found.start()].rstrip(), query)
    return query


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared: one form, no case, no plural, no word that says nothing."""
    found = []
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text).casefold().replace("’", "'")):
        word = match.group().removesuffix("'s")
        parts = dict.fromkeys((word, *re.split(r"[.'-]", word)))
        found += [_singular(part) for part in parts if part and part not in STOP_WORDS]
    return found


def names_in(query: str) -> list[str]:
    """Return what of a question names a certain thing: words with a digit or capitals that no sentence asks for."""
    found = []
    for sentence in re.split(r"(?<=[.?!:])\s+", query.strip()):
        for number, match in enumerate(_WORD.finditer(unicodedata.normalize("NFKC", sentence))):
            word = match.group()
            capital = any(letter.isupper() for letter in (word if number else word[1:]))
            if (capital or any(letter.isdigit() for letter in word)) and word.casefold() not in STOP_WORDS:
                found.append(word)
    return found


def names_occur(query: str, text: str) -> bool:
    """Say whether every name that a question asks about occurs in a text."""
    there = set(words_of(text))
    return all(set(words_of(name)) <= there for name in names_in(query))


class WordIndex:
    """The words of one tenant's passages.

    Args:
        passages: words of each passage with how often they occur.
    """

    def __init__(self, passages: Sequence[Mapping[str, int]]) -> None:
        vocabulary: dict[str, int] = {}
        sizes = np.array([len(one) for one in passages], np.int64)
        words = np.fromiter(
            (vocabulary.setdefault(word, len(vocabulary)) for one in passages for word in one),
            np.int64,
            int(sizes.sum()),
        )
        counts = np.fromiter((count for one in passages for count in one.values()), np.float32, len(words))
        order = np.argsort(words, kind="stable")
        self._vocabulary = vocabulary
        self._rows = np.repeat(np.arange(len(passages), dtype=np.int64), sizes)[order]
        self._counts = counts[order]
        self._starts = np.searchsorted(words[order], np.arange(len(vocabulary) + 1))
        self._lengths = np.array([sum(one.values()) for one in passages], np.float32)

    def scores(self, query: Iterable[str], alive: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return BM25 of each passage; statistics and scores are those of the passages that are ``alive``."""
        total = np.zeros(len(self._lengths), np.float32)
        number = int(alive.sum())
        if not number:
            return total
        mean = max(float(self._lengths[alive].mean()), 1.0)
        for word in dict.fromkeys(query):
            at = self._vocabulary.get(word)
            if at is None:
                continue
            where = slice(self._starts[at], self._starts[at + 1])
            rows, counts = self._rows[where], self._counts[where]
            living = alive[rows]
            rows, counts = rows[living], counts[living]
            idf = np.log1p((number - len(rows) + 0.5) / (len(rows) + 0.5))
            total[rows] += idf * counts * (K1 + 1) / (counts + K1 * (1 - B + B * self._lengths[rows] / mean))
        return total

    def known(self, query: Iterable[str], row: int, alive: NDArray[np.bool_]) -> float:
        """Return which share of a question's words a passage has, each counted by how rare it is; 0 to 1."""
        found = wanted = 0.0
        number = int(alive.sum())
        for word in dict.fromkeys(query):
            at = self._vocabulary.get(word)
            rows = self._rows[self._starts[at] : self._starts[at + 1]] if at is not None else self._rows[:0]
            here = int(alive[rows].sum())
            weight = float(np.log1p((number - here + 0.5) / (here + 0.5)))
            wanted += weight
            found += weight if row in rows else 0.0
        return found / wanted if wanted else 0.0


def best(scores: NDArray[np.float32], most: int = CANDIDATES) -> list[int]:
    """Return the places of the largest scores above 0, the largest first; ties in the order of places."""
    above = np.flatnonzero(scores > 0)
    if len(above) > most:
        least = np.partition(scores[above], -most)[-most]
        above = above[scores[above] >= least]
    return [int(at) for at in above[np.argsort(-scores[above], kind="stable")][:most]]


def fused(*rankings: Sequence[int]) -> dict[int, float]:
    """Return each place with Σ 1/(60 + rank) over the rankings that have it, the largest first."""
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, at in enumerate(ranking, start=1):
            sums[at] = sums.get(at, 0.0) + 1.0 / (RANK_OFFSET + rank)
    return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))


def _singular(word: str) -> str:
    return (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
    )
