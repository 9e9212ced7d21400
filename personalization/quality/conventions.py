"""What answers share at their two ends, found from the answers themselves: the judge's own abstraction.

It knows no kind of text. An answer becomes a list of symbols: a number is ``{n}``, words copied from the prompt are
``{p}``, other words, marks and spaces stand for themselves. From each end the answers are read into a tree; where a
word is not shared by a tenth of all answers, it and the words after it become ``{t}``. A *convention* is the longest
path of the tree that at least a tenth of the answers take and that ends in a mark or holds two words in a row.

It is not the abstraction by which a tenant's style is discovered (``personalization.styles``), on purpose: a mechanism
that is judged by its own eyes sees what it looks for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

SHARE = 0.1  # of the answers, for what counts as a convention
FEWEST = 2  # answers that share it
MAX_SYMBOLS = 24
MAX_WORDS = 3  # in a row that stand for one {t}; a longer run is content, and the convention ended before it
MAX_COPIED = 16  # pieces
MIN_COPIED = 3  # letters or digits
NUMBER, COPIED, WORDS, CONTENT = "{n}", "{p}", "{t}", ""
_PIECE = re.compile(r"\d+|[^\W\d_]+|\s+|.", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
# An opening does not end in one of these, nor does a closing begin with one, unless a space stands beside it.
_JOINS = {False: frozenset("([{<_-/\\#@$"), True: frozenset(")]}>_-/\\.")}


@dataclass(frozen=True)
class _Row:
    """One answer's pieces in reading order, and how many of them each copy from the prompt takes."""

    pieces: tuple[str, ...]
    copies: dict[int, int]  # by where it begins

    @classmethod
    def of(cls, answer: str, prompt: str, *, backward: bool) -> _Row:
        """Read the end that is looked at: the first line, or the last one backwards."""
        lines = [line.strip() for line in answer.split("\n") if line.strip()]
        if not lines:
            return cls((), {})
        pieces = _PIECE.findall(lines[-1] if backward else lines[0])
        copies = _copies(pieces, prompt.lower())
        if backward:
            last = len(pieces) - 1
            copies = {last - (at + length - 1): length for at, length in copies.items()}
            pieces = pieces[::-1]
        return cls(tuple(" " if piece.isspace() else piece for piece in pieces), copies)

    def copied(self, at: int) -> int:
        """Return how many pieces from ``at`` on are one copy from the prompt."""
        return self.copies.get(at, 0)


@dataclass
class _Node:
    words: frozenset[str] = frozenset()  # that stand for themselves here
    below: dict[str, _Node] = field(default_factory=dict)

    def step(self, row: _Row, at: int) -> tuple[str, int]:
        """Return the symbol by which a row goes on from here, and how many of its pieces that takes."""
        piece, copied = row.pieces[at], row.copied(at)
        if piece in self.words and copied <= 1:
            return piece, 1
        if copied:
            return COPIED, copied
        if piece.isdigit():
            return NUMBER, 1
        if not _WORD.fullmatch(piece):
            return piece, 1
        length, words, end = 0, 0, at
        while end < len(row.pieces):
            one = row.pieces[end]
            if one != " " and not (_WORD.fullmatch(one) or one.isdigit()):
                break
            words += one != " "
            end += 1
            length = end - at if one != " " else length
        if words > MAX_WORDS or end >= len(row.pieces):
            return CONTENT, 0
        return WORDS, length


@dataclass(frozen=True)
class Conventions:
    """The conventions of some answers at one end.

    Attributes:
        backward: whether answers are read from their end.
        found: each convention and the share of answers with it, the commonest first.
    """

    backward: bool
    found: dict[str, float]
    _root: _Node = field(repr=False)

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], *, backward: bool = False) -> Conventions:
        """Find the conventions of ``(prompt, answer)`` pairs.

        Raises:
            ValueError: there is no answer.
        """
        if not pairs:
            raise ValueError("conventions are found from answers; there is none")
        rows = [_Row.of(answer, prompt, backward=backward) for prompt, answer in pairs]
        root = _Node()
        _grow(root, [(row, 0) for row in rows], len(rows))
        counts = Counter(tuple(_path(root, row, backward=backward)) for row in rows)
        enough = _enough(len(rows))
        # A path too few answers end at is cut back, the longest ones first, until what it joins is common enough.
        while rare := [path for path, count in counts.items() if path and count < enough]:
            path = max(rare, key=lambda one: (len(one), one))
            counts[tuple(_cut_back(list(path[:-1]), backward=backward))] += counts.pop(path)
        shares = {
            _name(path, backward=backward): count / len(rows) for path, count in counts.most_common() if path
        }
        return cls(backward, shares, root)

    def name(self, answer: str, prompt: str) -> str:
        """Return the convention an answer follows, or ``""``."""
        row = _Row.of(answer, prompt, backward=self.backward)
        taken = _path(self._root, row, backward=self.backward)
        while taken and _name(taken, backward=self.backward) not in self.found:
            taken.pop()
        return _name(taken, backward=self.backward)


def _enough(answers: int) -> float:
    return max(FEWEST, SHARE * answers)


def _name(path: Sequence[str], *, backward: bool) -> str:
    return "".join(reversed(path) if backward else path)


def _path(root: _Node, row: _Row, *, backward: bool) -> list[str]:
    """Return the longest path of a row's symbols in the tree, cut back to where a convention may end."""
    node, taken, at = root, list[str](), 0
    while at < len(row.pieces) and len(taken) < MAX_SYMBOLS:
        symbol, length = node.step(row, at)
        below = node.below.get(symbol)
        if below is None:
            break
        taken.append(symbol)
        node, at = below, at + length
    return _cut_back(taken, backward=backward)


def _cut_back(taken: list[str], *, backward: bool) -> list[str]:
    while taken and not _may_end(taken, backward=backward):
        taken = taken[:-1]
    return taken


def _may_end(taken: list[str], *, backward: bool) -> bool:
    last = taken[-1]
    if last in (" ", WORDS, COPIED):
        return False
    if last == NUMBER:
        return len(taken) > 1
    if _WORD.fullmatch(last):  # two words in a row are a phrase, one is where the content begins
        return len(taken) > 2 and taken[-2] == " " and _WORD.fullmatch(taken[-3]) is not None
    return last not in _JOINS[backward] or len(taken) == 1 or taken[-2] == " "


def _grow(node: _Node, rows: list[tuple[_Row, int]], total: int, depth: int = 0) -> None:
    """Grow the tree below a node from the rows that reach it, each with its place."""
    going = [(row, at) for row, at in rows if at < len(row.pieces)]
    if depth >= MAX_SYMBOLS or len(going) < _enough(total):
        return
    words = Counter(
        row.pieces[at] for row, at in going if row.copied(at) <= 1 and _WORD.fullmatch(row.pieces[at])
    )
    node.words = frozenset(word for word, count in words.items() if count >= _enough(total))
    below: dict[str, list[tuple[_Row, int]]] = {}
    for row, at in going:
        symbol, length = node.step(row, at)
        if symbol != CONTENT:
            below.setdefault(symbol, []).append((row, at + length))
    for symbol, rest in below.items():
        if len(rest) >= _enough(total):
            node.below[symbol] = _Node()
            _grow(node.below[symbol], rest, total, depth + 1)


def _copies(pieces: Sequence[str], prompt: str) -> dict[int, int]:
    """Return what is copied from a prompt (in lower case): by its first piece, how many pieces; the longest first."""
    found, at = dict[int, int](), 0
    while at < len(pieces):
        length = _copied(pieces, at, prompt)
        if length:
            found[at] = length
        at += max(1, length)
    return found


def _copied(pieces: Sequence[str], at: int, prompt: str) -> int:
    best, text = 0, ""
    if not pieces[at][0].isalnum():
        return 0
    for length, piece in enumerate(pieces[at : at + MAX_COPIED], 1):
        text += piece.lower()
        if text not in prompt:
            break
        long_enough = sum(sign.isalnum() for sign in text) >= MIN_COPIED
        if piece[0].isalnum() and long_enough and _stands_in(text, prompt):
            best = length
    return best


def _stands_in(text: str, prompt: str) -> bool:
    """Say whether a text stands in the prompt with nothing of a word right before or after it."""
    at = prompt.find(text)
    while at >= 0:
        before, after = prompt[max(0, at - 1) : at], prompt[at + len(text) : at + len(text) + 1]
        if not before.isalnum() and not after.isalnum():
            return True
        at = prompt.find(text, at + 1)
    return False
