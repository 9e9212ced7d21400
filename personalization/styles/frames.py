"""A style card as a mixture of frames: how answers open and close, with which words, how often. Post-processing.

A frame is read from the outside inwards: at each depth its shape says which punctuation follows, and the words found
for its innermost slot fill it. Where a slot's words were not found the frame ends, and the answer's content follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from personalization.styles.abstraction import COPY, TEXT
from personalization.styles.card import SMALLEST_SHARE
from personalization.styles.families import NONE, YES, Feature, is_plain

if TYPE_CHECKING:
    from personalization.styles.card import StyleCard, StyleEntry

DOMINANT: Final = 0.5  # of answers that come so far: a frame goes deeper where so many of them do
SURELY: Final = 0.85  # shares are noisy: where so many of a shape's answers go deeper, all are taken to
LABELS: Final = 0.5  # of copied openings: with so many of them known words, all are taken for labels
MOSTLY: Final = (
    0.6  # of answers have to open in a frame, before those not found are taken to be like those found
)
STYLED: Final = 0.2  # of answers: with less in frames, a tenant has no common style


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One way of opening or closing an answer.

    Attributes:
        text: literal words and punctuation with ``{copy}`` and ``{n}`` slots; braces doubled. Empty: no frame.
        share: of answers, 0 to 1.
    """

    text: str
    share: float


def openings(card: StyleCard, *, alike: bool = True) -> tuple[Frame, ...]:
    """Return how answers open; shares add up to 1, what opens like any sentence included (the empty frame).

    Args:
        card: a released card.
        alike: whether frames that were not found are taken to be like those that were, as far as the vote tells that
            there are some. Else they count for the empty one: nothing is forbidden to answers for what nobody found.
    """
    return _frames(card, Feature.OPENING, Feature.OPENING_WORDS, reach=_framed(card) if alike else 0.0)


def closings(card: StyleCard) -> tuple[Frame, ...]:
    """Return how answers close; shares add up to 1."""
    return _frames(card, Feature.CLOSING, Feature.CLOSING_WORDS)


def is_poor(card: StyleCard) -> bool:
    """Say whether a card tells too little to make text of: nearly all answers open and close like any sentence."""
    styled = max(
        sum(frame.share for frame in frames if frame.text) for frames in (openings(card), closings(card))
    )
    return styled < STYLED


def taken_as_alike(card: StyleCard) -> float:
    """Return how many answers open in frames that were not found and are taken to be like those that were, 0 to 1."""
    found = sum(frame.share for frame in _found(card, Feature.OPENING, Feature.OPENING_WORDS))
    return max(0.0, _framed(card) - found) if found else 0.0


def _frames(card: StyleCard, shape: Feature, words: Feature, *, reach: float = 0.0) -> tuple[Frame, ...]:
    kept = _found(card, shape, words)
    total = sum(frame.share for frame in kept)
    if not total:
        return (Frame(text="", share=1.0),)
    reach = min(1.0, max(total, reach))
    told = tuple(Frame(text=frame.text, share=frame.share * reach / total) for frame in kept)
    return (*told, Frame(text="", share=1.0 - reach)) if reach < 1 else told


def _found(card: StyleCard, shape: Feature, words: Feature) -> list[Frame]:
    found: list[Frame] = []
    for entry in card.of(shape, 1):
        if entry.key != NONE:
            found.extend(_grown(card, entry, words, inner=entry.key, outer="", share=entry.share))
    return [frame for frame in _merged(found) if frame.share >= SMALLEST_SHARE]


def _framed(card: StyleCard) -> float:
    """Return how many answers open in a frame, where the vote asked that and most do; else 0.

    Also 0 where that says nothing about what was not found: a person struck some of what was, or sentences open alike
    ("Thanks, …"), which is no frame by its shape.
    """
    plain = any(is_plain(one.key) for one in card.of(Feature.OPENING, 1) if one.key != NONE)
    framed = next((one.share for one in card.of(Feature.FRAMED) if one.key == YES), 0.0)
    return 0.0 if plain or card.removed or framed < MOSTLY else framed


def _grown(
    card: StyleCard, entry: StyleEntry, words: Feature, *, inner: str, outer: str, share: float
) -> list[Frame]:
    """Return the frames that a shape stands for, its slots filled, and those that go deeper from it.

    Args:
        card: where it was found.
        entry: the shape to one depth.
        words: feature of the words in it.
        inner: what the shape adds to the one that it continues.
        outer: the frame to the depth before, filled.
        share: of answers that come so far.
    """
    opening = words is Feature.OPENING_WORDS
    stay: list[Frame] = []
    if TEXT not in inner:
        labels = _labels(card, entry, words)
        filled = [(inner.replace(COPY, word, 1), share * part) for word, part in labels] or [(inner, share)]
    else:
        told = [one for one in card.of(words, entry.depth) if one.key == entry.key]
        known = sum(one.share for one in told)
        if not told:
            return [Frame(text=outer, share=share)]
        # At the very edge, and where words further inside were found, words that were not found are taken to be like
        # those that were. Elsewhere they may as well be content, so the frame stops there.
        at_edge = entry.depth == 1 or _has_words_inside(card, entry, words, opening=opening)
        all_of_it = known if at_edge else max(known, entry.share)
        filled = [(_fill(inner, one.words, opening=opening), share * one.share / all_of_it) for one in told]
        stay.append(Frame(text=outer, share=share * (1 - known / all_of_it)))
    for text, part in filled:
        whole = outer + text if opening else text + outer
        deeper = _deeper(card, entry, opening=opening)
        if deeper is None:
            stay.append(Frame(text=whole, share=part))
            continue
        further, added = deeper
        reach = min(1.0, further.share / entry.share / SURELY)
        stay.append(Frame(text=whole, share=part * (1 - reach)))
        stay += _grown(card, further, words, inner=added, outer=whole, share=part * reach)
    return stay


def labels_of(card: StyleCard) -> frozenset[str]:
    """Return the words that open answers as labels though they stand in their prompts."""
    return frozenset(
        word
        for entry in card.of(Feature.OPENING, 1)
        for word, _ in _labels(card, entry, Feature.OPENING_WORDS)
    )


def _labels(card: StyleCard, entry: StyleEntry, words: Feature) -> list[tuple[str, float]]:
    """Return the words that a copied opening really is and their parts of it; none where it is a copy indeed.

    Whoever copies says another word for each prompt. Words that many users share are labels, and happen to stand in
    prompts about the same.
    """
    if entry.depth != 1 or not entry.key.startswith(COPY) or TEXT in entry.key:
        return []  # of a shape with an open slot, words are that slot's
    told = [one for one in card.of(words, 1) if one.key == entry.key]
    known = sum(one.share for one in told)
    if known < LABELS * entry.share:
        return []
    return [(one.words, one.share / known) for one in told]


def _deeper(card: StyleCard, entry: StyleEntry, *, opening: bool) -> tuple[StyleEntry, str] | None:
    """Return the commonest shape that continues one, and what it adds, which is a single open slot at most."""
    for one in card.of(entry.feature, entry.depth + 1):
        if _continues(one.key, entry.key, opening=opening) and one.share >= DOMINANT * entry.share:
            added = one.key[len(entry.key) :] if opening else one.key[: len(one.key) - len(entry.key)]
            if added.count(TEXT) <= 1:
                return one, added
    return None


def _has_words_inside(card: StyleCard, entry: StyleEntry, words: Feature, *, opening: bool) -> bool:
    deeper = _deeper(card, entry, opening=opening)
    if deeper is None:
        return False
    told = sum(one.share for one in card.of(words, entry.depth + 1) if one.key == deeper[0].key)
    return told >= DOMINANT * entry.share


def _continues(longer: str, shorter: str, *, opening: bool) -> bool:
    if len(longer) <= len(shorter):
        return False
    return longer.startswith(shorter) if opening else longer.endswith(shorter)


def _fill(shape: str, words: str, *, opening: bool) -> str:
    """Put words into the innermost open slot of a shape; others there stay as their neighbors' words."""
    escaped = words.replace("{", "{{").replace("}", "}}")
    at = shape.rfind(TEXT) if opening else shape.find(TEXT)
    return shape[:at].replace(TEXT, COPY) + escaped + shape[at + len(TEXT) :].replace(TEXT, COPY)


def _merged(frames: list[Frame]) -> list[Frame]:
    shares: dict[str, float] = {}
    for frame in frames:
        if is_plain(frame.text):
            continue
        shares[frame.text] = shares.get(frame.text, 0.0) + frame.share
    return [
        Frame(text=text, share=share)
        for text, share in sorted(shares.items(), key=lambda one: (-one[1], one[0]))
    ]
