"""A tenant's terms: put back where a text has them wrong, and looked up for a prompt. Needs nothing else.

    terms = Terms([("postgres sequel", "PostgreSQL"), ("cuber netties", "Kubernetes")])
    terms.correct("Restart cuber netties").text      # Restart Kubernetes
    coming = terms.stream()                          # the same of a text that comes in pieces
    coming.add("Restart cuber"), coming.add(" netties"), coming.end()    # "Restart ", "", "Kubernetes"

Replacement is exact: whole words, the longest term first, capitals of a sentence kept, nothing inside code, addresses
or paths, and nothing that is right already. A text is gone over once, so no term is put in because of another, and what
was changed can be undone from its spans.

Whole texts and pieces are gone over by one scan, so they cannot differ. A piece holds back what the next one may still
change and no more: a beginning of a term, with the character behind it, and a term in a word that may turn out to be
an address. What decides lies at most ``AROUND`` characters behind a term.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

MOST_TERMS = 1_000
LONGEST_TERM = 80

AROUND = 80  # characters of a word beside a term that are looked at for what makes it an address or a path
BEFORE = 1_000  # characters that are looked back at: an address may be that long
MOST_SPACES = 8  # between two words of a term

_SPACE = re.compile(r"[ \t]+")
_CODE = re.compile(r"`+|\n")
_NO_TERM = re.compile(r"[`/\\@]")
_PATH_BEFORE = re.compile(rf"[/\\@][\w.~+%-]{{0,{AROUND}}}\Z")
_ADDRESS_BEFORE = re.compile(r"[a-z][a-z0-9+.-]{1,15}://")
_PATH_BEHIND = re.compile(rf"[\w.~+%-]{{0,{AROUND}}}(?:[/\\@]|://)")
_OPEN_BEHIND = re.compile(rf"[\w.~+%-]{{0,{AROUND}}}(?::/?)?\Z")
_EDGE_BEFORE = r"(?<![\w@#$])(?<!\w[-'’.])"
_EDGE_BEHIND = r"(?![\w@])(?![-'’.]\w)"
_MAY_BEGIN = re.compile(_EDGE_BEFORE)
_MAY_GO_ON = "-'’."


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
        self._sought = _Sought([*found, *self._meant])

    def __len__(self) -> int:
        return len(self.terms)

    def correct(self, text: str) -> Corrected:
        """Return a text with every wrong term put right, and where."""
        parts: list[str] = []
        corrections: list[Correction] = []
        length = 0
        for part, match in _Scan(self._sought).over(text, last=True):
            said = self._said(part, match)
            if said != part:
                corrections.append(Correction(start=length, end=length + len(said), before=part))
            parts.append(said)
            length += len(said)
        return Corrected(text="".join(parts), corrections=tuple(corrections))

    def stream(self) -> TermStream:
        """Return what puts the terms of one text right that comes in pieces."""
        return TermStream(_Scan(self._sought), self._said)

    def within(self, *texts: str) -> tuple[Term, ...]:
        """Return the terms that texts speak of, right or wrong, in the order in which they do."""
        by_meant = {_key(one.meant): one for one in reversed(self.terms)}
        told: dict[str, Term] = {}
        for text in texts:
            for part, match in _Scan(self._sought).over(text, last=True):
                term = None if match is None else self._found.get(_key(part)) or by_meant.get(_key(part))
                if term is not None:
                    told.setdefault(term.meant, term)
        return tuple(told.values())

    def _said(self, part: str, match: re.Match[str] | None) -> str:
        """Return what stands in the place of a part of a text."""
        term = None if match is None else self._found.get(_key(part))
        return part if match is None or term is None else _cased(match, term.meant)


class TermStream:
    """One text that comes in pieces; what it returns in all is what ``Terms.correct`` makes of the whole text.

    Attributes:
        corrected: how many terms were put right so far.
    """

    def __init__(self, scan: _Scan, said: Callable[[str, re.Match[str] | None], str]) -> None:
        self._scan = scan
        self._said = said
        self.corrected = 0

    def add(self, piece: str) -> str:
        """Take the next piece in and return what can be said by now; it may be empty."""
        return self._over(piece, last=False)

    def end(self) -> str:
        """Return what was held back until here."""
        return self._over("", last=True)

    def _over(self, piece: str, *, last: bool) -> str:
        parts = []
        for part, match in self._scan.over(piece, last=last):
            said = self._said(part, match)
            self.corrected += said != part
            parts.append(said)
        return "".join(parts)


class _Sought:
    """What is looked for: written and meant sides, as keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        keys = sorted(set(keys), key=lambda key: (-len(key), key))
        self.pattern = _pattern(keys)
        self.longest = max((len(key) + key.count(" ") * MOST_SPACES for key in keys), default=0) + 1
        folded = {_folded(key) for key in keys}
        self._whole = folded
        self._beginnings = {key[:end] for key in folded for end in range(1, len(key) + 1)}

    def unsure(self, text: str, at: int) -> list[int]:
        """Return where a term may begin in the end of a text so that what follows decides about it."""
        found = []
        for place in range(max(at, len(text) - self.longest), len(text)):
            if _folded(text[place]) not in self._beginnings or not _MAY_BEGIN.match(text, place):
                continue
            tail = _folded(_SPACE.sub(" ", text[place:]))
            if tail in self._beginnings or (tail[-1] in _MAY_GO_ON and tail[:-1] in self._whole):
                found.append(place)
        return found


class _Scan:
    """Goes once over a text, piece by piece; every decision is made when nothing that follows can change it."""

    def __init__(self, sought: _Sought) -> None:
        self._sought = sought
        self._text = ""  # what is undecided, and of what stands before it as much as decides
        self._at = 0  # the undecided begins here
        self._code = ""  # the mark that code was opened with, before ``_code_at``
        self._code_at = 0

    def over(self, piece: str, *, last: bool) -> Iterator[tuple[str, re.Match[str] | None]]:
        """Yield what is decided by now, in order: (text, its match, where a term may be put right or told of)."""
        self._text += piece
        text, at = self._text, self._at
        unsure = [] if last else self._sought.unsure(text, at)
        while True:
            match = None if self._sought.pattern is None else self._sought.pattern.search(text, at)
            unsure = [place for place in unsure if place >= at]
            if match is None or (unsure and unsure[0] <= match.start()):
                upto = unsure[0] if unsure else len(text)
                break
            free = self._is_free(match, last=last)
            if free is None:
                upto = match.start()
                break
            if match.start() > at:
                yield text[at : match.start()], None
            yield match.group(), match if free else None
            at = match.end()
        if upto > at:
            yield text[at:upto], None
        self._forget_before(upto)

    def _is_free(self, match: re.Match[str], *, last: bool) -> bool | None:
        """Say whether a match is in no code, address or path; ``None`` while what follows decides."""
        text, start, end = self._text, match.start(), match.end()
        if _NO_TERM.search(match.group()) or self._in_code(start):
            return False
        before = text[max(0, start - BEFORE) : start]
        word = "" if not before or before[-1].isspace() else before.split()[-1]
        if _PATH_BEFORE.search(word[-AROUND - 1 :]) or _ADDRESS_BEFORE.search(word):
            return False
        if _PATH_BEHIND.match(text, end):
            return False
        return None if not last and _OPEN_BEHIND.match(text, end) else True

    def _in_code(self, end: int) -> bool:
        """Say whether code is open at a place before which no run of marks is cut."""
        for found in _CODE.finditer(self._text, self._code_at, end):
            if found.group() == "\n":
                self._code = "" if self._code == "`" else self._code
                continue
            marks = len(found.group())
            while marks > 0:
                if self._code:
                    closes = self._code == "`" or marks >= 3
                    marks -= min(marks, 3 if self._code == "```" else 2)
                    self._code = "" if closes else self._code
                else:
                    self._code = "```" if marks >= 3 else "`"
                    marks -= min(marks, 3)
        self._code_at = max(self._code_at, end)
        return bool(self._code)

    def _forget_before(self, at: int) -> None:
        """Go on from here, and keep no more of what was decided than decides."""
        self._at = at
        whole = len(self._text[:at].rstrip("`")) if self._text[max(0, at - 1) : at] == "`" else at
        if whole > self._code_at:
            self._in_code(whole)
        cut = min(self._code_at, at - BEFORE)
        if cut > BEFORE:
            self._text = self._text[cut:]
            self._at, self._code_at = at - cut, self._code_at - cut


def _pattern(keys: list[str]) -> re.Pattern[str] | None:
    if not keys:
        return None
    space = rf"[ \t]{{1,{MOST_SPACES}}}"
    groups: dict[str, list[str]] = {}  # by first character, so that most places of a text are passed at once
    for key in keys:
        groups.setdefault(_folded(key[0]), []).append(key)
    choices = []
    for group in groups.values():
        first = "".join(sorted({re.escape(key[0]) for key in group}))
        choices.append(
            f"(?=[{first}])(?:{'|'.join(space.join(map(re.escape, key.split(' '))) for key in group)})"
        )
    return re.compile(rf"{_EDGE_BEFORE}(?:{'|'.join(choices)}){_EDGE_BEHIND}", re.IGNORECASE)


def _folded(text: str) -> str:
    """Return a text of the same length in which characters that a pattern holds to be alike are the same one."""
    return "".join(one.lower()[:1].upper()[:1] for one in text)


def _key(text: str) -> str:
    return _SPACE.sub(" ", text).casefold()


def _cased(match: re.Match[str], meant: str) -> str:
    """Return what is meant, with a capital where all its letters are small and what stands there has one."""
    if meant == meant.lower() and match.group()[:1].isupper():
        return meant[:1].upper() + meant[1:]
    return meant
