"""Synthetic interactions in a tenant's style: public content in the frames of its card. Post-processing, so free.

Every pair is made of the card, public words and a public seed. Prompts take the tenant's own form where the card knows
it, so that a model ties the style to the tenant's task.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from personalization.styles.abstraction import COPY
from personalization.styles.contents import content_of, person
from personalization.styles.families import (
    LENGTHS,
    NONE,
    PUBLIC,
    Feature,
    is_plain,
    length_bucket,
    prompt_kind,
)
from personalization.styles.frames import closings, labels_of, openings
from personalization.styles.slots import filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.styles.card import StyleCard
    from personalization.styles.contents import PublicContent
    from personalization.styles.frames import Frame

OTHER_KINDS: Final = (
    0.15  # of prompts are of kinds that the card does not tell, so that no single form is learned
)
TOGETHER: Final = (
    0.5  # of answers follow both ends of a convention or neither; the others each by its own share
)
MOST_WORDS: Final = 40
_BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}
_DRAWS: Final = 8  # of a prompt, to find one of a kind
_CUT: Final = re.compile(r"[^\w\s{}](?=\s)")
_DIGITS: Final = (2, 3, 4, 4, 5)  # of a made-up number


@dataclass(frozen=True, kw_only=True)
class SyntheticPair:
    """A made-up prompt and an answer in the tenant's style.

    Attributes:
        prompt: public content, in the form that the card tells.
        answer: to it.
        content: where in the answer public content stands, as (first character, one past the last); the rest is the
            tenant's frame. Empty where the answer is all frame.
    """

    prompt: str
    answer: str
    content: tuple[int, int] = (0, 0)


def synthetic_pairs(card: StyleCard, *, count: int, seed: int) -> tuple[SyntheticPair, ...]:
    """Return pairs whose frames, forms and prompts have the card's shares.

    Args:
        card: a released card.
        count: how many pairs.
        seed: public; another one makes other words, numbers and pairs.
    """
    rng = random.Random(f"{card.digest()}/{seed}")  # noqa: S311  # public text, no secret
    heads, tails, labels = openings(card), closings(card), labels_of(card)
    kinds = [(one.key, one.share) for one in card.of(Feature.PROMPT_KIND)]
    pairs = []
    for _ in range(count):
        kind = (
            rng.choice(PUBLIC[Feature.PROMPT_KIND])
            if not kinds or rng.random() < OTHER_KINDS
            else _drawn(rng, kinds)
        )
        last_line = drawn_last_line(card, rng)
        content = _content(kind, _drawn_part(card, Feature.PROMPT_HEAD, rng), last_line, rng)
        head, tail = _ends(rng, heads, tails)
        if (label := _label(head, labels)) is not None:
            content = content.labelled(label)
        if any(
            one.text and head.endswith(one.text) for one in tails
        ):  # a whole answer: nothing comes after it
            answer, at = _realized(head, list(content.names), rng).strip(), (0, 0)
        else:
            answer, at = _answer(card, content, head, tail, rng)
        pairs.append(SyntheticPair(prompt=content.prompt + last_line, answer=answer, content=at))
    return tuple(pairs)


def _label(head: str, labels: frozenset[str]) -> str | None:
    """Return the label that an opening begins with; its prompt holds that word."""
    first = re.match(r"[^\W\d_]+", head)
    return first.group() if first is not None and first.group() in labels else None


def drawn_last_line(card: StyleCard, rng: random.Random) -> str:
    """Return what a prompt ends with, on a line of its own, as often as the card tells; else nothing."""
    end = _drawn_part(card, Feature.PROMPT_TAIL, rng)
    return f"\n{end}" if end else ""


def drawn_beginning(card: StyleCard, content: PublicContent, rng: random.Random) -> PublicContent:
    """Return content under a beginning of the card, as often as it tells; else as it is."""
    return _begun(content, _drawn_part(card, Feature.PROMPT_HEAD, rng), rng)


def in_style(card: StyleCard, body: str, names: tuple[str, ...], rng: random.Random) -> str:
    """Return a sentence in one of a card's frames, whole: neither cut nor made longer.

    Where most answers of the tenant have a frame, this one has: people follow both ends of a convention or neither, so
    ends that come by their own shares would be together more rarely than with anybody.

    Args:
        card: a released card.
        body: in small letters where a sentence allows it, without a stop.
        names: of the prompt, which a frame may copy; at least one.
        rng: seeded with public numbers.
    """
    heads, tails = openings(card), closings(card)
    head, tail = _frame(rng, _usual(heads)), _frame(rng, _usual(tails))
    if any(one.text and head.endswith(one.text) for one in tails) or _overlap(head, tail):
        head = ""  # nothing would come between the two
    opening, closing = (_realized(frame, list(names), rng) for frame in (head, tail))
    opening = _bracketed(opening, list(names), tail)
    text = opening + _cased(body, head, card, rng) + closing
    return _stopped(card, text, tail, rng).strip()


def _drawn_part(card: StyleCard, feature: Feature, rng: random.Random) -> str:
    found = [(one.key, one.share) for one in card.of(feature) if one.key != NONE]
    return _drawn(rng, found) if found and rng.random() < sum(share for _, share in found) else ""


def _stopped(card: StyleCard, text: str, tail: str, rng: random.Random) -> str:
    """Return an answer with the stop that the card tells, where it has no closing."""
    if tail:
        return text
    stop = _drawn(rng, [(one.key, one.share) for one in card.of(Feature.STOP)] or [(NONE, 1.0)])
    return text if stop == NONE or text.endswith(stop) else text + stop


def _content(kind: str, begins: str, last_line: str, rng: random.Random) -> PublicContent:
    """Return public content under the card's first words, of the kind with its last line, if some draws find one."""
    for _ in range(_DRAWS):
        content = _begun(content_of(kind, rng), begins, rng)
        if prompt_kind(content.prompt + last_line) == kind:
            break
    return content


def _begun(content: PublicContent, begins: str, rng: random.Random) -> PublicContent:
    """Return content under a beginning of the card, with names made up where it has them."""
    if not begins:
        return content
    names: list[str] = []

    def filling(slot: str) -> str:
        if slot == COPY:
            names.append(person(rng))
            return names[-1]
        return _number(rng)

    return content.begun(filled(begins, filling), tuple(names))


def _answer(
    card: StyleCard, content: PublicContent, head: str, tail: str, rng: random.Random
) -> tuple[str, tuple[int, int]]:
    """Return an answer and where its content stands."""
    names = list(content.names)
    joined = _overlap(head, tail)
    if joined:
        return _realized(head + tail[joined:], names, rng).strip(), (0, 0)
    opening = _bracketed(_realized(head, names, rng), names, tail)
    closing = _realized(tail, names, rng)
    taken = len((opening + closing).split())
    body = _cased(_sized(card, content.answer, taken, rng), head, card, rng)
    begins = len(opening.lstrip())
    answer = _stopped(card, opening + body + closing, tail, rng).strip()
    return answer, (begins, min(begins + len(body), len(answer)))


def _bracketed(opening: str, names: list[str], tail: str) -> str:
    """Return an opening of which no more than its bracket was found with something in it, unless the tail closes it."""
    closer = _BRACKETS.get(opening[-1:])
    return opening if closer is None or closer in tail else f"{opening}{names[-1]}{closer} "


def _overlap(head: str, tail: str) -> int:
    """Return how many characters the end of one frame shares with the start of the other; nothing fits between.

    A stop or a comma that ends the one and begins the other is no such thing: sentences stand between them.
    """
    for size in range(min(len(head), len(tail)), 1, -1):
        if head.endswith(tail[:size]) and not is_plain(tail[:size]):
            return size
    return 0


def _sized(card: StyleCard, body: str, taken: int, rng: random.Random) -> str:
    """Return content that brings an answer of ``taken`` words to a length that the card tells."""
    lengths = card.of(Feature.LENGTH)
    if not lengths:
        return body
    bucket = _drawn(rng, [(one.key, one.share) for one in lengths])
    bound = MOST_WORDS if bucket == "more" else int(bucket)
    lower = next((one for one in reversed(LENGTHS) if one < bound), 0)
    words = body.split()
    wanted = max(2, rng.randint(lower + 1, bound) - taken)
    if len(words) > wanted and length_bucket(len(words) + taken) != bucket:
        words = words[:wanted]
    while len(words) < wanted - 2:
        more = content_of(rng.choice(("paths", "question", "lines", "title")), rng).answer.split()
        words += [rng.choice(("and", "so that", "because")), more[0][0].lower() + more[0][1:], *more[1:]]
        words = words[: max(wanted, 3)]
    while len(words) > 1 and words[-1] in {
        "a",
        "an",
        "the",
        "in",
        "for",
        "and",
        "of",
        "that",
        "so",
        "because",
        "up",
    }:
        words.pop()
    return " ".join(words)


def _cased(body: str, head: str, card: StyleCard, rng: random.Random) -> str:
    """Return content with a first letter as the frame asks: the card tells of what follows its first cut alone."""
    shares = [(one.key, one.share) for one in card.of(Feature.CASING) if one.key in {"lower", "capital"}]
    if not body:
        return body
    end = head.rstrip()[-1:]
    if len(_CUT.findall(head)) > 1 and end in ".!?,;":
        small = end in ",;"
    elif shares:
        small = _drawn(rng, shares) == "lower"
    else:
        return body
    return (body[0].lower() if small else body[0].upper()) + body[1:]


def _realized(frame: str, names: list[str], rng: random.Random) -> str:
    """Return a frame with its slots filled: copies from the prompt in turn, numbers made up."""
    copies = iter(names)

    def filling(slot: str) -> str:
        if slot == COPY:
            return next(copies, names[-1])
        return _number(rng)

    return filled(frame, filling)


def _number(rng: random.Random) -> str:
    digits = rng.choice(_DIGITS)
    return str(rng.randint(10 ** (digits - 1), 10**digits - 1))


def _ends(rng: random.Random, heads: Sequence[Frame], tails: Sequence[Frame]) -> tuple[str, str]:
    """Return an opening and a closing, each as often as the card tells and both at once more often than by chance."""
    if rng.random() >= TOGETHER:
        return _frame(rng, heads), _frame(rng, tails)
    place = rng.random()  # whoever follows the rarer of two habits follows the other
    head, tail = (_framed(rng, frames, place) for frames in (heads, tails))
    return head, tail


def _framed(rng: random.Random, frames: Sequence[Frame], place: float) -> str:
    """Return a frame with words where ``place`` lies below their share of all, else none."""
    framed = [frame for frame in frames if frame.text]
    told = sum(frame.share for frame in framed)
    bare = sum(frame.share for frame in frames if not frame.text)
    return _frame(rng, framed) if framed and place * (told + bare) < told else ""


def _frame(rng: random.Random, frames: Sequence[Frame]) -> str:
    return _drawn(rng, [(frame.text, frame.share) for frame in frames])


def _usual(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames without that of no words, unless it is what most answers have."""
    framed = [frame for frame in frames if frame.text]
    bare = sum(frame.share for frame in frames if not frame.text)
    return framed if sum(frame.share for frame in framed) > bare else frames


def _drawn(rng: random.Random, shares: Sequence[tuple[str, float]]) -> str:
    return rng.choices([value for value, _ in shares], [max(share, 1e-9) for _, share in shares])[0]
