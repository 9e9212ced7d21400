"""A text as a line of segments: what is said becomes slots, what holds it together stays.

An answer is cut where punctuation or markup stands. Between two cuts lies a slot: ``{copy}`` where all its words stand
in the prompt, ``{n}`` for digits, and ``{t}`` for any other run of words. This is delexicalisation (Wen et al., 2015)
without a list of values: it knows neither a language nor a kind of text. A text's abstraction depends on that text and
its prompt alone, so a user's keys depend on that user alone.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

LONGEST_TEXT: Final = 4_000  # characters that are looked at, from either end
LONGEST_LITERAL: Final = 48  # characters of a slot that may be told word by word
MOST_WORDS: Final = 6  # of such a slot
_LONGEST_WORD: Final = 16  # characters
TEXT, COPY, NUMBER = "{t}", "{copy}", "{n}"
# Words so common that standing in the prompt too says nothing.
_COMMON: Final = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "for", "from", "has", "have",
        "how", "i", "in", "is", "it", "me", "my", "no", "not", "of", "on", "or", "our", "so",
        "that", "the", "this", "to", "us", "was", "we", "what", "when", "will", "with", "you",
        "your",
    }
)  # fmt: skip
_COMMON_AT_FRONT: Final = frozenset(word.capitalize() for word in _COMMON)
_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|\s+|.", re.DOTALL)
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+")
_INSIDE_NAMES: Final = frozenset("_./-\\")  # join the parts of one copied name, such as a path


_BEGINS: Final = frozenset(".!?:;\n-*")  # what a sentence or an entry begins after


@dataclass(frozen=True)
class Segment:
    """A slot and the punctuation before it.

    Attributes:
        before: punctuation, markup and spaces in front of the slot, as written; braces are doubled.
        slot: ``{t}``, ``{copy}`` or ``{n}``; empty where the text ends with punctuation.
        words: what stood in the slot.
    """

    before: str
    slot: str
    words: str


def plain(text: str) -> str:
    """Return a text in one Unicode form, without control characters, bounded in length."""
    if len(text) > 2 * LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + text[-LONGEST_TEXT:]
    if text.isascii() and text.replace("\n", "").isprintable():
        return text.strip()  # is in that form already, as most texts are
    text = unicodedata.normalize("NFKC", text).replace("\r\n", "\n")
    return "".join(
        char for char in text if char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs"}
    ).strip()


def segments(text: str, prompt: str) -> tuple[Segment, ...]:
    """Return the segments of an answer, in order; none for an empty text.

    Args:
        text: of the answer.
        prompt: what it answers; words that stand in it are ``{copy}``.
    """
    known = _words_of(prompt)
    found: list[Segment] = []
    before, words, copied, last = "", "", True, ""
    gap = ""  # spaces after a word: inside the slot if another word follows, else before what comes

    def close() -> None:
        nonlocal before, words, copied
        found.append(Segment(before, COPY if copied else TEXT, words))
        before, words, copied = "", "", True

    named = names_of(prompt)
    for token in _TOKEN.findall(plain(text)):
        if token.isspace() and "\n" not in token:
            gap = " "
        elif token[0].isalpha():
            if words and (token in named) != (last in named):
                close()  # a name that the prompt gave is a slot of its own
            if words:
                words += gap
            else:
                before += gap
            words += token
            copied = copied and (token in known or (not token.isupper() and token.lower() in known))
            last, gap = token, ""
        else:
            if words:
                close()
            before += gap
            gap = ""
            if token.isdigit():
                # Digits are numbers unless the prompt has the very same ones.
                found.append(Segment(before, COPY if token in known else NUMBER, token))
                before = ""
            else:
                before += "\n" if token.isspace() else token.replace("{", "{{").replace("}", "}}")
    if words:
        close()
    if before:
        found.append(Segment(before, "", ""))
    return tuple(_joined(found))


def names_of(prompt: str) -> set[str]:
    """Return the words of a prompt that look like names: a capital that no beginning of a sentence explains.

    A word that begins a line and stands alone before a colon or a comma is one too.
    """
    text = plain(prompt)
    names = set()
    for found in WORD.finditer(text):
        word = found.group()
        if not word[0].isupper():
            continue
        at = found.start()
        while at and text[at - 1] == " ":
            at -= 1
        begins = at == 0 or text[at - 1] in _BEGINS
        if not begins or text[found.end() : found.end() + 1] in {":", ","}:
            names.add(word)
    return names - _COMMON_AT_FRONT


def _words_of(prompt: str) -> set[str]:
    """Return the words that an answer may copy: as written, and in small letters where they are not all big."""
    words = _parts_of(prompt)
    small = {word.lower() for word in words if not word.isupper()}
    return {word for word in words | small if word.lower() not in _COMMON}


def _parts_of(prompt: str) -> set[str]:
    """Return the words of a prompt and what hyphens join in them, as written."""
    return {part for word in WORD.findall(plain(prompt)) for part in (word, *word.split("-"))}


def _joined(parts: list[Segment]) -> list[Segment]:
    """Return the segments with copied parts of one name as one slot."""
    joined: list[Segment] = []
    for part in parts:
        if (
            joined
            and part.slot == COPY == joined[-1].slot
            and len(part.before) == 1
            and part.before in _INSIDE_NAMES
        ):
            joined[-1] = Segment(joined[-1].before, COPY, joined[-1].words + part.before + part.words)
        else:
            joined.append(part)
    return joined


def literal(segment: Segment) -> str | None:
    """Return the words of a slot that may be told as they are; None where they are too many or look like a person's.

    What has several capitals among small letters, many digits or a very long word is left out before any vote.
    """
    words = segment.words
    if segment.slot != TEXT or len(words) > LONGEST_LITERAL or words.count(" ") >= MOST_WORDS:
        return None
    if any(len(word) > _LONGEST_WORD or is_odd(word) for word in words.split(" ")):
        return None
    return words


def label(segment: Segment, prompt: str) -> str | None:
    """Return a copied word that may be told as it is: the prompt has it in small letters, and nowhere as a name.

    Labels such as "docs" open many answers whose prompts hold that word too; who copies another word each time does not
    share one with other users, so the vote's threshold tells the two apart. A word that the prompt has with a capital
    alone may be somebody's name, also where a sentence begins with it, and is not told.
    """
    word = segment.words
    if segment.slot != COPY or not word.isalpha() or len(word) > _LONGEST_WORD or is_odd(word):
        return None
    small, names = word.lower(), names_of(prompt)
    if small not in _parts_of(prompt) or small in names | {one.lower() for one in names if not one.isupper()}:
        return None
    return word


def is_odd(word: str) -> bool:
    """Say whether a word mixes capitals into small letters as keys and tokens do."""
    inner = word[1:]
    return sum(char.isupper() for char in inner) >= 2 and any(char.islower() for char in word)
