"""Cut a document into passages: by headings and paragraphs, sentences whole, so that one fact stays in one piece."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from personalization.memory.cleaning import cleaned, marks_of
from personalization.memory.values import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_WORDS: Final = 120
LONGEST_SENTENCE: Final = 200  # words; a longer run without an end is cut
_HEADING: Final = re.compile(
    r"^(?:#{1,6}[ \t]+(?P<marked>[^\n]+?)[ \t#]*|(?P<under>[^\n]{1,100})\n(?:={3,}|-{3,}))[ \t]*$",
    re.MULTILINE,
)
_PARAGRAPH: Final = re.compile(r"[^\n]+(?:\n(?![ \t]*\n)[^\n]+)*")
_SENTENCE_END: Final = re.compile(
    r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\n(?=[ \t]*(?:[-*•]|\d+[.)])[ \t])"
)
_WORD: Final = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    words: int


def chunks_of(raw: str) -> tuple[str, tuple[Chunk, ...]]:
    """Return a document's cleaned text, and its passages in order; their spans are places in it.

    Every word of the text that is no heading stands in exactly one passage.

    Args:
        raw: as it came; what was hidden in it marks every passage.
    """
    text = cleaned(raw)
    found: list[Chunk] = []
    for section, start, end in _sections(text):
        for span in _packed(text, start, end):
            piece = text[span.start : span.end]
            found.append(
                Chunk(
                    number=len(found),
                    section=section,
                    text=" ".join(piece.split()),
                    start=span.start,
                    end=span.end,
                    marks=marks_of(piece),
                )
            )
    hidden = set(marks_of(raw)) & {"control_marks", "unseen_letters"}
    if hidden:  # cleaning moved what followed, so nobody can say which passage it was in
        found = [replace(one, marks=tuple(sorted({*one.marks, *hidden}))) for one in found]
    return text, tuple(found)


def first_heading(raw: str) -> str:
    """Return the first heading of a text that begins with one; empty where it does not."""
    text = cleaned(raw).lstrip()
    found = _HEADING.match(text)
    return " ".join((found["marked"] or found["under"]).split())[:200] if found else ""


def embedded_text(title: str, chunk: Chunk) -> str:
    """Return what of a passage is embedded and searched: with title and heading, which say what it is about."""
    return ". ".join(part for part in dict.fromkeys((title, chunk.section, chunk.text)) if part)


def _sections(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each heading with where what stands under it begins and ends."""
    heading, start = "", 0
    for found in _HEADING.finditer(text):
        yield heading, start, found.start()
        heading, start = " ".join((found["marked"] or found["under"]).split())[:200], found.end()
    yield heading, start, len(text)


def _packed(text: str, start: int, end: int) -> Iterator[_Span]:
    """Yield runs of whole sentences of at most ``MOST_WORDS`` words, a new run where a paragraph no longer fits."""
    held: _Span | None = None
    for paragraph in _PARAGRAPH.finditer(text, start, end):
        sentences = list(_sentences(text, paragraph.start(), paragraph.end()))
        words = sum(one.words for one in sentences)
        if held is not None and held.words + words > MOST_WORDS:
            yield held
            held = None
        for one in sentences:
            if held is not None and held.words + one.words > MOST_WORDS:
                yield held
                held = None
            held = one if held is None else _Span(held.start, one.end, held.words + one.words)
    if held is not None:
        yield held


def _sentences(text: str, start: int, end: int) -> Iterator[_Span]:
    at = start
    for stop in [*(found.end() for found in _SENTENCE_END.finditer(text, start, end)), end]:
        words = list(_WORD.finditer(text, at, stop))
        for first in range(0, len(words), LONGEST_SENTENCE):
            part = words[first : first + LONGEST_SENTENCE]
            yield _Span(part[0].start(), part[-1].end(), len(part))
        at = stop
