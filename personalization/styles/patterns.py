"""Alternatives of a grammar as runs of character classes, and how those that overlap are told apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SPECIAL: Final = frozenset("\\.^$*+?()[]{}|")  # no more than these are escaped: engines differ on others
_IN_CLASS: Final = frozenset("\\][")
_UNUSED: Final = "\x01\x02\x03"  # characters that no text holds


@dataclass(frozen=True)
class Chars:
    """One or more characters of a set.

    Attributes:
        chars: the set.
        excluded: whether it is all others instead.
        most: how many there may be, from one on; None: any number.
    """

    chars: str
    excluded: bool = False
    most: int | None = 1

    def meets(self, other: Chars) -> bool:
        """Say whether some character is in both sets."""
        if self.excluded and other.excluded:
            return True
        if self.excluded or other.excluded:
            named, rest = (other, self) if self.excluded else (self, other)
            return bool(set(named.chars) - set(rest.chars))
        return bool(set(self.chars) & set(other.chars))

    def sample(self, at: int) -> str:
        """Return one character of the set, the first or (at -1) the last; of those not named one that no text holds."""
        return _UNUSED[at] if self.excluded else self.chars[at]

    def as_pattern(self) -> str:
        """Return it as a regular expression."""
        if not self.excluded and len(self.chars) == 1:
            text = (
                "\\n" if self.chars == "\n" else f"\\{self.chars}" if self.chars in _SPECIAL else self.chars
            )
        else:
            text = _class(self)
        return text + _often(self.most)

    def as_gbnf(self) -> str:
        """Return it in the notation of llama.cpp."""
        return (_class(self) if self.excluded or len(self.chars) > 1 else _quoted(self.chars)) + _often(
            self.most
        )


def _class(one: Chars) -> str:
    inner = "0-9" if one.chars == "0123456789" else "".join(_escaped(char) for char in _minus_last(one.chars))
    if one.excluded and not one.chars:
        inner = "\\x00"  # any character at all; this one is in no text
    return f"[{'^' if one.excluded else ''}{inner}]"


def _minus_last(chars: str) -> str:
    return "".join(char for char in chars if char != "-") + ("-" if "-" in chars else "")


def _escaped(char: str) -> str:
    if char == "\n":
        return "\\n"
    return f"\\{char}" if char in _IN_CLASS else char


def _often(most: int | None) -> str:
    return "+" if most is None else "" if most == 1 else f"{{1,{most}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@dataclass(frozen=True)
class Alternative:
    """One way to open or close an answer.

    Attributes:
        classes: of its characters, in order.
        share: of answers.
        frame: what it was made of.
    """

    classes: tuple[Chars, ...]
    share: float
    frame: str = ""

    def as_gbnf(self) -> str:
        """Return it in the notation of llama.cpp, neighboring characters as one string."""
        found: list[str] = []
        literal = ""
        for one in self.classes:
            if one.excluded or len(one.chars) != 1 or one.most != 1:
                found += [_quoted(literal)] if literal else []
                found.append(one.as_gbnf())
                literal = ""
            else:
                literal += one.chars
        return " ".join([*found, *([_quoted(literal)] if literal else [])])


def disjoint(alternatives: Iterable[Alternative], *, to_end: bool = False) -> list[Alternative]:
    """Return alternatives none of which can be read as another one or (unless ``to_end``) as its beginning.

    Of two that overlap the one stays that holds the other, so no answer is forbidden; where neither does, the commoner.

    Args:
        alternatives: in any order; an empty one is left out.
        to_end: whether a text ends with them, so that only whole ones can be mistaken.
    """
    kept: list[Alternative] = []
    for one in sorted(alternatives, key=lambda each: -each.share):
        if not one.classes:
            continue
        rivals = [other for other in kept if _overlap(one, other, to_end=to_end)]
        if all(_holds(one, other, to_end=to_end) for other in rivals):
            kept = [other for other in kept if other not in rivals] + [one]
    return kept


def _holds(one: Alternative, other: Alternative, *, to_end: bool) -> bool:
    """Say whether all that ``other`` can be begins with (or, to the end, is) what ``one`` can be."""
    pattern = re.compile("".join(each.as_pattern() for each in one.classes))
    samples = ("".join(each.sample(at) for each in other.classes) for at in (0, -1))
    return all((pattern.fullmatch(each) if to_end else pattern.match(each)) is not None for each in samples)


def _overlap(one: Alternative, other: Alternative, *, to_end: bool) -> bool:
    """Say whether some text is both, or (unless ``to_end``) one and the beginning of the other."""
    steps_of_one, steps_of_other = _steps(one.classes), _steps(other.classes)
    seen = {(0, 0)}
    waiting = [(0, 0)]
    while waiting:
        here, there = waiting.pop()
        ended = (here in _ends(steps_of_one), there in _ends(steps_of_other))
        if all(ended) if to_end else any(ended):
            return True
        for chars, after in _moves(steps_of_one, here):
            for others, then in _moves(steps_of_other, there):
                if chars.meets(others) and (after, then) not in seen:
                    seen.add((after, then))
                    waiting.append((after, then))
    return False


def _steps(classes: Iterable[Chars]) -> list[tuple[Chars, bool]]:
    """Return each class as single characters: those that must come, then one that may come again."""
    steps: list[tuple[Chars, bool]] = []
    for one in classes:
        steps.append((one, False))
        if one.most != 1:
            steps.append((one, True))  # a bound on it is left out: the overlap found is at least the true one
    return steps


def _ends(steps: Sequence[tuple[Chars, bool]]) -> set[int]:
    ends = {len(steps)}
    if steps and steps[-1][1]:
        ends.add(len(steps) - 1)
    return ends


def _moves(steps: Sequence[tuple[Chars, bool]], at: int) -> Iterator[tuple[Chars, int]]:
    """Yield what may come next after ``at`` steps, and how many are done then."""
    if at < len(steps):
        chars, again = steps[at]
        yield chars, at if again else at + 1
        if again:
            yield from _moves(steps, at + 1)
