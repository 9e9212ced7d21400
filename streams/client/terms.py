"""A tenant's terms: put back where a text has them wrong, and looked up for a prompt. Needs nothing else.

    terms = Terms([("postgres sequel", "PostgreSQL"), ("cuber netties", "Kubernetes")])
    terms.correct("Restart cuber netties").text      # Restart Kubernetes

Replacement is exact: whole words, the longest term first, capitals of a sentence kept, nothing inside code, addresses
or paths, and nothing that is right already. A text is gone over once, so no term is put in because of another, and what
was changed can be undone from its spans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST_TERMS = 1_000
LONGEST_TERM = 80

_LEFT_ALONE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|\b[a-z][a-z0-9+.-]{1,15}://\S+|\S+@\S+|(?:[\w.~-]*[/\\])+[\w.~-]*", re.DOTALL
)
_SPACE = re.compile(r"[ \t]+")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term.

    Attributes:
        written: what stands in texts that have it wrong.
        meant: what is to stand there.
    """

    written: str
    meant: str


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One replacement.

    Attributes:
        start: of it in the text that came of it.
        end: of it there.
        before: what stood there.
    """

    start: int
    end: int
    before: str


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A text with its terms put right."""

    text: str
    corrections: tuple[Correction, ...]

    def undone(self) -> str:
        """Return the text as it was."""
        text = self.text
        for one in reversed(self.corrections):
            text = text[: one.start] + one.before + text[one.end :]
        return text


class Terms:
    """Terms, ready to be looked for; immutable.

    Args:
        pairs: (what is written, what is meant); of two with the same written side the first counts.

    Raises:
        ValueError: there are too many, or one is empty, too long, or on several lines.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        pairs = list(pairs)
        if len(pairs) > MOST_TERMS:
            raise ValueError(f"there are {len(pairs)} terms; allowed are at most {MOST_TERMS:,}")
        found: dict[str, Term] = {}
        for written, meant in pairs:
            if not all(
                side.strip() == side and 0 < len(side) <= LONGEST_TERM and side.isprintable()
                for side in (written, meant)
            ):
                raise ValueError(
                    f"a side of a term is empty, on several lines, or longer than {LONGEST_TERM} characters"
                )
            found.setdefault(_key(written), Term(written=written, meant=meant))
        self.terms = tuple(found.values())
        # What is meant is looked for too, so that nothing is changed inside of what is right already.
        self._meant = {_key(one.meant) for one in self.terms} - set(found)
        self._found = found
        self._pattern = _pattern([*found, *self._meant])

    def __len__(self) -> int:
        return len(self.terms)

    def correct(self, text: str) -> Corrected:
        """Return a text with every wrong term put right, and where."""
        if self._pattern is None:
            return Corrected(text=text, corrections=())
        parts: list[str] = []
        corrections: list[Correction] = []
        at = length = 0
        for match in self._matches(text):
            term = self._found.get(_key(match.group()))
            meant = None if term is None else _cased(match, term.meant)
            if meant is None or meant == match.group():
                continue
            before = text[at : match.start()]
            parts += [before, meant]
            length += len(before)
            corrections.append(Correction(start=length, end=length + len(meant), before=match.group()))
            length += len(meant)
            at = match.end()
        return Corrected(text="".join([*parts, text[at:]]), corrections=tuple(corrections))

    def within(self, text: str) -> tuple[Term, ...]:
        """Return the terms that a text speaks of, right or wrong, in the order in which it does."""
        if self._pattern is None:
            return ()
        by_meant = {_key(one.meant): one for one in reversed(self.terms)}
        told: dict[str, Term] = {}
        for match in self._matches(text):
            key = _key(match.group())
            term = self._found.get(key) or by_meant.get(key)
            if term is not None:
                told.setdefault(term.meant, term)
        return tuple(told.values())

    def _matches(self, text: str) -> Iterable[re.Match[str]]:
        assert self._pattern is not None
        alone = [found.span() for found in _LEFT_ALONE.finditer(text)]
        for match in self._pattern.finditer(text):
            while alone and alone[0][1] <= match.start():
                alone.pop(0)
            if not alone or alone[0][0] >= match.end():
                yield match


def _pattern(keys: Iterable[str]) -> re.Pattern[str] | None:
    longest = sorted(set(keys), key=lambda key: (-len(key), key))
    if not longest:
        return None
    choices = "|".join(r"[ \t]+".join(map(re.escape, key.split(" "))) for key in longest)
    return re.compile(rf"(?<![\w@#$])(?<!\w[-'’.])(?:{choices})(?![\w@])(?![-'’.]\w)", re.IGNORECASE)


def _key(text: str) -> str:
    return _SPACE.sub(" ", text).casefold()


def _cased(match: re.Match[str], meant: str) -> str:
    """Return what is meant, with a capital where all its letters are small and what stands there has one."""
    if meant == meant.lower() and match.group()[:1].isupper():
        return meant[:1].upper() + meant[1:]
    return meant
