"""A card as a constraint on decoding: a regular expression and the same as GBNF, where frames are common enough.

A grammar must neither let a model write on for ever nor have two ways to read one answer, else the closing may never
come: between opening and closing, the body never holds what a closing begins with, and no opening is the beginning of
another. Both forms are over characters, need neither look-around nor large repetitions, and are meant for requests
that bound their tokens (``max_tokens``). They are post-processing of a released card; ``StyleCard.digest`` is their
version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from personalization.styles.abstraction import NUMBER
from personalization.styles.families import Feature
from personalization.styles.frames import closings, openings
from personalization.styles.patterns import Alternative, Chars, disjoint
from personalization.styles.slots import Piece, pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from personalization.styles.card import StyleCard
    from personalization.styles.frames import Frame

LIMIT: Final = 0.8  # of answers that frames must cover before all answers are held to them
ONE_LINE: Final = 0.9  # of answers: from here on a constraint lets no line end
MOST_DIGITS: Final = 6
_LONGEST: Final = 8_192  # characters of either form, as adapter events hold them
_MARK: Final = 12  # characters by which the body tells a closing from content
_DIGITS: Final = "0123456789"


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What every answer has to look like; both empty where no frame is common enough, or where they would be too long.

    Attributes:
        pattern: a regular expression that whole answers match.
        grammar: the same in the grammar notation of llama.cpp, with the rule ``root``.
    """

    pattern: str = ""
    grammar: str = ""


def constraint_of(card: StyleCard, *, limit: float = LIMIT) -> Constraint:
    """Return the constraint that a card justifies.

    Args:
        card: a released card.
        limit: share of answers that open (or close) with one of the found frames, from which on all have to.
    """
    heads = _held(openings(card, alike=False), limit)
    tails = _held([one for one in closings(card) if _mark_of(one.text)], limit)
    single = not any("\n" in one.text for one in (*heads, *tails)) and _single_line(card)
    opening = disjoint([_alternative(one, ends=False) for one in heads])
    closing = _closings(tails)
    if not opening and not closing:
        return Constraint()
    body = _body([_mark_of(one.frame) for one in closing], single=single)
    made = Constraint(pattern=_pattern(opening, body, closing), grammar=_gbnf(opening, body, closing))
    return made if max(len(made.pattern), len(made.grammar)) <= _LONGEST else Constraint()


def _closings(tails: Sequence[Frame]) -> list[Alternative]:
    """Return the closings of which no two can be read in one text: where a mark first stands, one of them begins.

    Spaces in front of it may as well end the body, so they tell no two closings apart; the one with fewest stays.
    """
    whole: dict[str, Frame] = {}
    for one in sorted(tails, key=lambda each: len(each.text)):
        whole.setdefault(one.text.lstrip(" "), one)
    bare = [_alternative(replace(one, text=text), ends=True) for text, one in whole.items()]
    return [_alternative(whole[one.frame], ends=True) for one in disjoint(bare, to_end=True)]


def _held(frames: Iterable[Frame], limit: float) -> list[Frame]:
    """Return the frames that all answers are held to: those with text, if they are common enough together."""
    found = [one for one in frames if one.text.strip()]
    return found if sum(one.share for one in found) >= limit else []


def _single_line(card: StyleCard) -> bool:
    return any(one.key == "1" and one.share >= ONE_LINE for one in card.of(Feature.LINES))


def _mark_of(closing: str) -> str:
    """Return how a closing shows itself: its first characters after spaces; nothing where a slot comes first."""
    first = next(iter(pieces(closing)), Piece(""))
    return "" if first.is_slot else first.text.lstrip(" ")[:_MARK]


def _alternative(frame: Frame, *, ends: bool) -> Alternative:
    """Return a frame as character classes; a slot ends where the next literal begins.

    Args:
        frame: of a card.
        ends: whether the answer ends with it; otherwise a slot at its end is left to what follows.
    """
    parts = list(pieces(frame.text))
    while parts and not ends and parts[-1].is_slot:
        parts.pop()
    classes: list[Chars] = []
    for number, part in enumerate(parts):
        if not part.is_slot:
            classes += [Chars(part.text[at]) for at in range(len(part.text))]
        elif part.text == NUMBER:
            classes.append(Chars(_DIGITS, most=MOST_DIGITS))
        elif number == 0 or not _is_words(parts[number - 1]):  # two such slots side by side are one
            classes.append(Chars(_stop_of(parts, number), excluded=True, most=None))
    return Alternative(tuple(classes), share=frame.share, frame=frame.text)


def _is_words(part: Piece) -> bool:
    return part.is_slot and part.text != NUMBER


def _stop_of(parts: Sequence[Piece], number: int) -> str:
    """Return the characters that a slot of words cannot hold, for they end it or would be its neighbors'."""
    stop = {"\n"}
    if number and parts[number - 1].text == NUMBER:
        stop |= set(_DIGITS)
    after = next((part for part in parts[number + 1 :] if not _is_words(part)), None)
    if after is not None:
        stop |= set(_DIGITS) if after.is_slot else {after.text[0]}
    return "".join(sorted(stop))


def _body(marks: Sequence[str], *, single: bool) -> list[tuple[Chars, ...]]:
    """Return the units of a body: runs of characters that hold no mark of a closing, however they are put together.

    Units are the ways to leave the marks' prefix tree: at each of its inner nodes a character that leads no deeper.
    """
    always = {mark[0] for mark in marks} | ({"\n"} if single else set())
    units: list[tuple[Chars, ...]] = [(Chars("".join(sorted(always)), excluded=True),)]
    inner = sorted({mark[:length] for mark in marks for length in range(1, len(mark))})
    for prefix in inner:
        if any(prefix.startswith(mark) for mark in marks):
            continue  # a shorter mark ends here: its body holds no such beginning at all
        further = {mark[len(prefix)] for mark in marks if mark.startswith(prefix) and len(mark) > len(prefix)}
        leaving = Chars("".join(sorted(always | further)), excluded=True)
        units.append((*(Chars(char) for char in prefix), leaving))
    return units


def _pattern(
    opening: Sequence[Alternative], body: Sequence[tuple[Chars, ...]], closing: Sequence[Alternative]
) -> str:
    units = "|".join("".join(one.as_pattern() for one in unit) for unit in body)
    return _group(opening) + f"(?:{units})+" + _group(closing)


def _group(alternatives: Sequence[Alternative]) -> str:
    if not alternatives:
        return ""
    return "(?:" + "|".join("".join(one.as_pattern() for one in each.classes) for each in alternatives) + ")"


def _gbnf(
    opening: Sequence[Alternative], body: Sequence[tuple[Chars, ...]], closing: Sequence[Alternative]
) -> str:
    names = (["open"] if opening else []) + ["body"] + (["close"] if closing else [])
    units = " | ".join(" ".join(one.as_gbnf() for one in unit) for unit in body)
    rules = [f"root ::= {' '.join(names)}", f"body ::= ({units})+"]
    for name, alternatives in (("open", opening), ("close", closing)):
        if alternatives:
            rules.append(f"{name} ::= " + " | ".join(each.as_gbnf() for each in alternatives))
    return "\n".join(rules) + "\n"
