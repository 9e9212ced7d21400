"""What a user's vote is about: families of features, their alphabets and their weights.

Keys of openings and closings tell a frame from outside to inside: at depth d, everything up to the d-th slot and the
punctuation that ends it. *Shapes* leave every slot open; *words* tell the d-th slot's words. A vote's weights are fixed
by public numbers; their L2 norm is at most 1 (``tests/property/personalization/styles``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from personalization.styles.abstraction import (
    COPY,
    NUMBER,
    TEXT,
    WORD,
    Segment,
    is_odd,
    label,
    literal,
    names_of,
    plain,
    segments,
)
from privacy.mechanisms.partition_selection import LEADING_KEYS, LEADING_WEIGHT

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping

YES: Final = "yes"
NONE: Final = "none"  # no frame: an answer that begins or ends like any sentence
LONGEST_KEY: Final = 160
DEEPEST: Final = 3
MOST_HEAD_WORDS: Final = 7  # of what a prompt opens with
_FREE_WORDS: Final = 9  # a slot that is longer than this before any punctuation is no part of a frame


class Feature(StrEnum):
    """Families of keys; of the first seven the alphabet is not public, nor of terms where no list was given."""

    OPENING = "opening"
    OPENING_WORDS = "opening_words"
    CLOSING = "closing"
    CLOSING_WORDS = "closing_words"
    PROMPT_HEAD = "prompt_head"
    PROMPT_TAIL = "prompt_tail"
    PROMPT_KIND = "prompt_kind"
    LENGTH = "length"
    CASING = "casing"
    STOP = "stop"
    LINES = "lines"
    FRAMED = "framed"  # whether it opens in a frame at all
    TERM = "term"  # what users put in the place of what they were shown


OPEN_BRACKETS: Final = ("(", "[", "<")  # not braces, which slots have
SHAPE_OF: Final = {Feature.OPENING_WORDS: Feature.OPENING, Feature.CLOSING_WORDS: Feature.CLOSING}
LENGTHS: Final = (3, 6, 10, 15, 25, 40, 70)  # words; each bucket ends at one of them, the last is open
PUBLIC: Final[dict[Feature, tuple[str, ...]]] = {
    Feature.LENGTH: (*map(str, LENGTHS), "more"),
    Feature.CASING: ("lower", "capital", "upper", "other"),
    Feature.STOP: (".", "!", "?", NONE),
    Feature.LINES: ("1", "2", "3-5", "6+"),
    Feature.FRAMED: (YES,),
    Feature.PROMPT_KIND: ("question", "paths", "lines", "sentence", "title"),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family at one depth, with the weight of its keys in a vote.

    Attributes:
        feature: what it is about.
        depth: of frames.
        weight: of one user's keys together.
        listed: of terms, the public list that users vote over; without one they vote over words of their own.
        or_shape: of an opening's words: an answer whose opening tells none counts for its shape instead, and one that
            the first depth would cut in a bracket for that to the second. So users give one key for each answer.
    """

    feature: Feature
    depth: int = 1
    weight: float
    listed: tuple[tuple[str, str], ...] = ()
    or_shape: bool = False

    def asks_for(self, key: Key) -> bool:
        """Say whether users vote for a key by this family."""
        if self.or_shape:
            return key.feature in {self.feature, SHAPE_OF[self.feature]} and key.depth in {1, 2}
        return (key.feature, key.depth) == (self.feature, self.depth)

    def key_among(self, keys: Mapping[tuple[Feature, int], Key]) -> Key | None:
        """Return the one key of an answer that counts for this family, of all that it has; None where none does."""
        words = keys.get((self.feature, self.depth))
        if not self.or_shape or (words is not None and TEXT in words.shape):
            return words
        shape, inside = (keys.get((SHAPE_OF[self.feature], depth)) for depth in (1, 2))
        if shape is not None and inside is not None and shape.shape[-1:] in OPEN_BRACKETS:
            return keys.get((self.feature, 2), inside)  # a frame that is cut in a bracket says little
        return words or shape

    @property
    def public(self) -> bool:
        """Whether everybody knows all keys that there can be."""
        return self.feature in PUBLIC or bool(self.listed)

    def alphabet(self) -> tuple[Key, ...]:
        """Return all keys that there can be; of a public family alone."""
        if self.listed:
            return tuple(Key(self.feature, self.depth, written, meant) for written, meant in self.listed)
        return tuple(Key(self.feature, self.depth, value) for value in PUBLIC[self.feature])


# Very few users for the noise: with what words an answer opens, or in what shape where it tells none; how many answers
# have a frame of which too little is found to tell it; length, and the form of prompts.
_LEADING: Final = (
    Family(feature=Feature.OPENING_WORDS, weight=LEADING_WEIGHT, or_shape=True),
    Family(feature=Feature.FRAMED, weight=0.24),
    Family(feature=Feature.LENGTH, weight=0.31),
    Family(feature=Feature.PROMPT_KIND, weight=0.17),
)
_WEIGHTS: Final[dict[str, tuple[tuple[Feature, int, float], ...]]] = {
    # Few users for the noise: the first frame alone.
    "narrow": (
        (Feature.OPENING, 1, 0.52),
        (Feature.OPENING_WORDS, 1, 0.62),
        (Feature.CLOSING, 1, 0.42),
        (Feature.LENGTH, 1, 0.32),
        (Feature.CASING, 1, 0.17),
        (Feature.PROMPT_KIND, 1, 0.17),
    ),
    "wide": (
        (Feature.OPENING, 1, 0.30),
        (Feature.OPENING, 2, 0.22),
        (Feature.OPENING, 3, 0.20),
        (Feature.OPENING_WORDS, 1, 0.40),
        (Feature.OPENING_WORDS, 2, 0.26),
        (Feature.OPENING_WORDS, 3, 0.24),
        (Feature.CLOSING, 1, 0.27),
        (Feature.CLOSING, 2, 0.22),
        (Feature.CLOSING, 3, 0.18),
        (Feature.CLOSING_WORDS, 1, 0.25),
        (Feature.CLOSING_WORDS, 2, 0.24),
        (Feature.CLOSING_WORDS, 3, 0.20),
        (Feature.PROMPT_HEAD, 1, 0.20),
        (Feature.PROMPT_TAIL, 1, 0.20),
        (Feature.PROMPT_KIND, 1, 0.13),
        (Feature.LENGTH, 1, 0.24),
        (Feature.CASING, 1, 0.14),
        (Feature.STOP, 1, 0.12),
        (Feature.LINES, 1, 0.10),
    ),
}
WIDE_FROM: Final = 30.0  # declared users ÷ noise multiplier
TERM_WEIGHT: Final = 0.6  # of all terms of a user together
BESIDE_TERMS: Final = 0.8  # of their weight is left to the other families then


def families_for(
    declared_users: int,
    noise_multiplier: float,
    *,
    most_keys: int,
    terms: bool = False,
    glossary: tuple[tuple[str, str], ...] = (),
) -> tuple[Family, ...]:
    """Return what a vote is about, by public numbers alone: the fewer users for the noise, the fewer questions.

    A vote that takes next to all of its round's budget is known by the few keys that it reserves; it asks for nothing
    else, for no terms either.

    Args:
        declared_users: the policy's public number.
        noise_multiplier: of the vote.
        most_keys: of one user, outside public alphabets, that the vote reserves.
        terms: whether users vote on terms as well; the weight of a vote is then shared with them.
        glossary: the public pairs that they vote over then; without any, over words of their own.
    """
    if most_keys <= LEADING_KEYS:
        return _LEADING
    name = "wide" if declared_users / noise_multiplier >= WIDE_FROM else "narrow"
    left = BESIDE_TERMS if terms else 1.0
    found = tuple(
        Family(feature=one, depth=depth, weight=weight * left) for one, depth, weight in _WEIGHTS[name]
    )
    of_terms = Family(feature=Feature.TERM, weight=TERM_WEIGHT, listed=tuple(dict.fromkeys(glossary)))
    return (*found, of_terms) if terms else found


def norm_of(families: tuple[Family, ...]) -> float:
    """Return the L2 norm of the largest vote."""
    return math.sqrt(sum(family.weight**2 for family in families))


class Key(NamedTuple):
    """One thing that users can vote for: how a text opens, say, to some depth."""

    feature: Feature
    depth: int
    shape: str  # of a frame, or the public value
    words: str = ""  # of its innermost slot, for the features that tell words


def keys_of(answer: str, prompt: str) -> Iterator[Key]:
    """Yield the keys of one answer: at most one for each family."""
    parts = segments(answer, prompt)
    heads = list(_heads(parts, prompt))
    yield from _frame_keys(heads, Feature.OPENING, Feature.OPENING_WORDS)
    if heads and not is_plain(heads[0][0]):
        yield Key(Feature.FRAMED, 1, YES)
    yield from _frame_keys(list(_tails(parts)), Feature.CLOSING, Feature.CLOSING_WORDS)
    yield Key(Feature.PROMPT_HEAD, 1, prompt_head(prompt, parts) or NONE)
    yield Key(Feature.PROMPT_TAIL, 1, prompt_tail(prompt) or NONE)
    yield Key(Feature.PROMPT_KIND, 1, prompt_kind(prompt))
    text = plain(answer)
    yield Key(Feature.LENGTH, 1, length_bucket(len(text.split())))
    yield Key(Feature.CASING, 1, casing(body_word(parts)))
    yield Key(Feature.STOP, 1, text[-1] if text and text[-1] in ".!?" else NONE)
    lines = text.count("\n") + 1
    yield Key(Feature.LINES, 1, str(lines) if lines < 3 else "3-5" if lines < 6 else "6+")


def _frame_keys(frames: list[tuple[str, str | None]], shape: Feature, words: Feature) -> Iterator[Key]:
    """Yield the keys of an opening or closing from (shape to a depth, words of the innermost slot)."""
    frames = [(text, told) for text, told in frames if len(text) <= LONGEST_KEY]
    if not frames:
        yield Key(shape, 1, NONE)
    for depth, (text, told) in enumerate(frames, start=1):
        yield Key(shape, depth, text)
        if told is not None:
            yield Key(words, depth, text, told)


def _heads(parts: tuple[Segment, ...], prompt: str) -> Iterator[tuple[str, str | None]]:
    """Yield how a text opens to each depth, and the words that end it, from the outside inwards.

    The very first word is told where it is a label of the prompt, too (``abstraction.label``). A shape ends with the
    punctuation after its last slot, or before its first one where the text begins with it.
    """
    text, depth = "", 0
    told: str | None = None
    for number, part in enumerate(parts):
        after = parts[number + 1].before if number + 1 < len(parts) else None
        if part.slot == TEXT and part.words.count(" ") >= _FREE_WORDS:
            if number == 0 and part.before.strip():
                yield part.before, None  # markup in front of free text
            return
        text += part.before + part.slot
        if part.slot == TEXT:
            told = literal(part)
        elif part.slot == COPY and number == 0:
            told = label(part, prompt)
        if after is None:
            return  # the whole text: nothing follows that a frame could hold
        if not after.strip() or (
            parts[number + 1].slot == NUMBER and not after[-1:].isspace() and after[0] == "-"
        ):
            continue  # nothing but space, or a number that belongs to the word
        depth += 1
        yield text + after, told
        told = None
        if depth == DEEPEST:
            return


def _tails(parts: tuple[Segment, ...]) -> Iterator[tuple[str, str | None]]:
    """Yield how a text closes to each depth, from the outside inwards."""
    ended = parts[-1].before if parts and not parts[-1].slot else ""
    slots = [part for part in parts if part.slot]
    text, depth = ended, 0
    told: str | None = None
    for part in reversed(slots[1:]):  # the first slot belongs to no closing
        if part.slot == TEXT and part.words.count(" ") >= _FREE_WORDS:
            if depth == 0 and ended.strip():
                yield ended, None
            return
        text = part.before + part.slot + text
        told = literal(part) if part.slot == TEXT else told
        if not part.before.strip():
            continue
        depth += 1
        yield text, told
        told = None
        if depth == DEEPEST:
            return


def is_plain(shape: str) -> bool:
    """Say whether a frame's shape is that of any sentence: open slots, spaces and ordinary punctuation alone.

    A dash that a text begins with is the mark of a list.
    """
    rest = shape.replace("{t}", "")
    return shape == NONE or not (shape.startswith("-") or rest.strip(" ,.;'’-!?"))


def body_word(parts: tuple[Segment, ...]) -> str:
    """Return the first word after the first cut; of a text without any, the first word."""
    slots = [part.words for part in parts if part.slot]
    if not slots:
        return ""
    return slots[1 if len(slots) > 1 else 0]


def casing(word: str) -> str:
    """Return how a word is written."""
    if not word[:1].isalpha():
        return "other"
    if word[0].islower():
        return "lower"
    first = word.split(" ", maxsplit=1)[0]
    return "upper" if len(first) > 1 and first.isupper() else "capital"


def length_bucket(words: int) -> str:
    """Return the bucket of a number of words."""
    return next((str(bound) for bound in LENGTHS if words <= bound), "more")


def prompt_tail(prompt: str) -> str:
    """Return the last line of a prompt where it is a short fixed word, such as ``Summary:``; else nothing."""
    last = plain(prompt).rsplit("\n", 1)
    if len(last) < 2:  # a prompt of one line has no last line of its own
        return ""
    tail = last[1].strip()
    known = len(tail) <= LONGEST_KEY // 4 and tail.count(" ") < 4 and not any(map(str.isdigit, tail))
    return tail if known and tail[:1].isalpha() and not tail[-1:].isalnum() else ""


def prompt_head(prompt: str, parts: tuple[Segment, ...]) -> str:
    """Return what a prompt opens with up to its first colon, and the space behind, where it is short; else nothing.

    Names in it, and words that the answer copies, are ``{copy}``, numbers ``{n}``: so a card tells from where a name in
    an answer comes.

    Args:
        prompt: as it was asked.
        parts: segments of the answer to it.
    """
    text = plain(prompt)
    head, colon, rest = text.partition(":")
    if not colon or "\n" in head or len(head) > LONGEST_KEY // 4 or head.count(" ") >= MOST_HEAD_WORDS:
        return ""
    if any(is_odd(word) for word in head.split(" ")):
        return ""
    copied = {word for part in parts if part.slot == COPY for word in part.words.split(" ")}
    named = names_of(prompt)

    def told(found: re.Match[str]) -> str:
        word = found.group()
        if word[0].isdigit():
            return NUMBER
        sure = (
            found.end() < len(escaped) or word in copied
        )  # one before the colon may be a heading, such as "Name:"
        return COPY if word in named and sure else word

    escaped = head.replace("{", "{{").replace("}", "}}")
    return WORD.sub(told, escaped) + colon + rest[: len(rest) - len(rest.lstrip())][:2]


def prompt_kind(prompt: str) -> str:
    """Return the kind of a prompt by its outward form."""
    text = plain(prompt)
    words = text.split()
    paths = sum("/" in word or ("." in word[1:-1] and word[:1].isalnum()) for word in words)
    if paths and paths * 2 >= len(words) - 4:
        return "paths"
    if "?" in text:
        return "question"
    if "\n" in text:
        return "lines"
    return "title" if len(words) <= 8 else "sentence"  # words of a title
