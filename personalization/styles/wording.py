"""A style card for people: sentences, and rows of a picture. Everything here is post-processing of a released card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from personalization.styles.abstraction import COPY
from personalization.styles.families import LENGTHS, NONE, Feature
from personalization.styles.frames import closings, is_poor, labels_of, openings, taken_as_alike
from personalization.styles.slots import pieces
from privacy.accounting.composition import best_epsilon, curve_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.styles.card import StyleCard, StyleEntry
    from personalization.styles.frames import Frame
    from privacy.mechanisms.partition_selection import PartitionSelection

_EIGHTHS: Final[tuple[str, ...]] = ("", *"▏▎▍▌▋▊▉")
_CASINGS: Final = {
    "lower": "begins with a small letter",
    "capital": "begins with a capital",
    "upper": "begins with a word in capitals",
    "other": "begins with no letter",
}
_KINDS: Final = {
    "question": "questions",
    "paths": "lists of paths",
    "lines": "several lines",
    "sentence": "sentences",
    "title": "short titles",
}
_LINES: Final = {"1": "one line", "2": "two lines", "3-5": "3 to 5 lines", "6+": "6 or more lines"}
_TITLES: Final = {
    Feature.OPENING: "Openings, slots open",
    Feature.OPENING_WORDS: "Words in openings",
    Feature.CLOSING: "Closings, slots open",
    Feature.CLOSING_WORDS: "Words in closings",
    Feature.PROMPT_HEAD: "How prompts begin",
    Feature.PROMPT_TAIL: "How prompts end",
    Feature.PROMPT_KIND: "Kinds of prompts",
    Feature.LENGTH: "Length in words",
    Feature.CASING: "How the text after the opening begins",
    Feature.STOP: "Last character",
    Feature.LINES: "Lines",
    Feature.FRAMED: "Whether answers open in a frame",
    Feature.TERM: "Terms, as written and as meant",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row of the picture.

    Attributes:
        group: what the row belongs to.
        label: what was found.
        share: of answers, 0 to 1.
        sureness: standard deviations of noise above the threshold; None for what follows from several entries.
        handle: by which the entry can be struck or fixed; empty for what is no entry.
        pinned: whether a person fixed it.
    """

    group: str
    label: str
    share: float
    sureness: float | None = None
    handle: str = ""
    pinned: bool = False


def sentences(card: StyleCard) -> tuple[str, ...]:
    """Return what a card says, one sentence each, the most visible first."""
    heads, tails = openings(card), closings(card)
    told = [f"About {card.voters:,} users voted."]
    if is_poor(card):
        told.append(
            "Their answers open and close in too many ways for a common style, or there are too few users."
        )
    told += [_frame_sentence(card, one, "open with", Feature.OPENING) for one in heads if one.text]
    told += [_frame_sentence(card, one, "close with", Feature.CLOSING) for one in tails if one.text]
    if (alike := taken_as_alike(card)) >= 0.005:
        told.append(
            f"Of these, {_percent(alike)} of answers open in frames that so few users do not show; they are only "
            "taken to be alike."
        )
    told += [
        f"{_percent(one.share)} of answers {verb} like any sentence."
        for verb, frames in (("open", heads), ("close", tails))
        for one in frames
        if not one.text and one.share >= 0.005  # what rounds to nothing is not told
    ]
    slots = {piece.text for one in (*heads, *tails) for piece in pieces(one.text) if piece.is_slot}
    legend = {"{n}": "`{n}` is a number", "{copy}": "`{copy}` are words of the prompt"}
    if slots & legend.keys():
        told.append(", ".join(text for slot, text in legend.items() if slot in slots).capitalize() + ".")
    told += _form_sentences(card)
    if card.removed:
        count = len(card.removed)
        told.append(f"{count} {'entry was' if count == 1 else 'entries were'} found and struck by a person.")
    return tuple(told)


def cost_sentence(vote: PartitionSelection, delta: float) -> str:
    """Return what the vote cost, as if it stood alone.

    Args:
        vote: as it was charged.
        delta: δ of the account, above the vote's own.
    """
    epsilon, _ = best_epsilon(curve_of(vote), delta)
    return (
        f"The vote was reserved with its round's training; alone it would cost ε = {epsilon:.2f} at δ = {delta:g} "
        f"(noise of {vote.noise_multiplier:g} votes on every key)."
    )


def remembered_sentence(earlier: int) -> str:
    """Return that what so many earlier releases were taught of their cards is averaged into an adapter."""
    releases = "one earlier release" if earlier == 1 else f"{earlier} earlier releases"
    return f"The policy asks to remember: what {releases} learned of their cards is in the adapter too."


def scaled_sentence(modules: int) -> str:
    """Return that users decided how strongly so many layers of what was made of a card act."""
    return (
        f"How strongly what was made of it acts in {modules} linear layers was decided by users, with noise, by one of "
        "the steps that training was charged for."
    )


def frame_bars(card: StyleCard) -> tuple[Bar, ...]:
    """Return the rows that show how answers open and close: what is made of the entries."""
    return tuple(
        Bar(
            group=group,
            label=_shown(one.text) or "like any sentence",
            share=one.share,
            sureness=sureness_of(card, one, feature),
        )
        for group, frames, feature in (
            ("Answers open with", openings(card), Feature.OPENING),
            ("Answers close with", closings(card), Feature.CLOSING),
        )
        for one in frames
    )


def entry_bars(card: StyleCard) -> tuple[Bar, ...]:
    """Return one row for each entry, in the card's order."""
    return tuple(
        Bar(
            group=_TITLES[one.feature],
            label=_entry_label(one),
            share=one.share,
            sureness=one.sureness,
            handle=one.handle,
            pinned=one.pinned,
        )
        for one in card.entries
    )


def drawn(share: float, width: int) -> str:
    """Return a share as a bar of at most ``width`` characters, in eighths of one."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def sureness_of(card: StyleCard, frame: Frame, feature: Feature) -> float | None:
    """Return how sure a frame is: as its weakest entry. None for the empty frame, and where all of it is pinned.

    Args:
        card: where the frame comes from.
        frame: one of ``openings`` or ``closings``.
        feature: ``OPENING`` or ``CLOSING``.
    """
    opening = feature is Feature.OPENING
    words = Feature.OPENING_WORDS if opening else Feature.CLOSING_WORDS
    labels = labels_of(card) if opening else frozenset()
    chain: list[StyleEntry] = []
    for shape in card.of(feature):
        if not _covers(shape.key, frame.text, labels, opening=opening):
            continue
        told = [
            one for one in card.of(words, shape.depth) if one.key == shape.key and one.words in frame.text
        ]
        chain += [shape, *told[:1]]
    sure = [one.sureness for one in chain if not one.pinned]
    return min(sure) if frame.text and sure else None


def _covers(shape: str, frame: str, labels: frozenset[str], *, opening: bool) -> bool:
    """Say whether a frame begins (ends) as a shape does, whatever stands in its open slots.

    A label stands for the copy that a shape begins with.
    """
    pattern = re.escape(shape).replace(re.escape("{t}"), ".+?")
    if labels and shape.startswith(COPY):
        first = "|".join(map(re.escape, (COPY, *sorted(labels))))
        pattern = f"(?:{first}){pattern[len(re.escape(COPY)) :]}"
    return shape != NONE and re.search(rf"\A{pattern}" if opening else rf"{pattern}\Z", frame) is not None


def _frame_sentence(card: StyleCard, frame: Frame, verb: str, feature: Feature) -> str:
    sureness = sureness_of(card, frame, feature)
    sure = "fixed by a person" if sureness is None else _sure(sureness)
    return f"{_percent(frame.share)} of answers {verb} `{_shown(frame.text)}`; {sure}."


def _sure(sureness: float) -> str:
    return f"sure: {sureness:.1f} standard deviations above the threshold"


def _form_sentences(card: StyleCard) -> list[str]:
    told = []
    if lengths := card.of(Feature.LENGTH):
        told.append("Answers have " + _listed(lengths, _length) + " words.")
    if casing := card.of(Feature.CASING):
        most = casing[0]
        how = _CASINGS.get(most.key, most.key)
        told.append(f"After the opening the text {how} ({_percent(most.share).lower()}).")
    if stops := card.of(Feature.STOP):
        told.append(
            "Answers end with " + _listed(stops, lambda key: "no stop" if key == NONE else f"`{key}`") + "."
        )
    if lines := card.of(Feature.LINES):
        told.append("Answers stand on " + _listed(lines, lambda key: _LINES.get(key, key)) + ".")
    if kinds := card.of(Feature.PROMPT_KIND):
        told.append("Prompts are " + _listed(kinds, lambda key: _KINDS.get(key, key)) + ".")
    for feature, verb in ((Feature.PROMPT_HEAD, "begin"), (Feature.PROMPT_TAIL, "end")):
        if ends := [one for one in card.of(feature) if one.key != NONE]:
            told.append(f"Prompts {verb} with " + _listed(ends, lambda key: f"`{_shown(key)}`") + ".")
    return told


def _listed(entries: Sequence[StyleEntry], name: Callable[[str], str]) -> str:
    return ", ".join(f"{name(one.key)} ({_percent(one.share).lower()})" for one in entries)


def _length(bucket: str) -> str:
    order = [str(bound) for bound in LENGTHS]
    if bucket not in order:
        return f"more than {LENGTHS[-1]}"
    at = order.index(bucket)
    return f"{LENGTHS[at - 1] + 1 if at else 1} to {bucket}"


def _entry_label(entry: StyleEntry) -> str:
    if entry.feature is Feature.LENGTH:
        return _length(entry.key)
    if entry.feature is Feature.TERM:
        return f"{_shown(entry.key)}  →  {_shown(entry.words)}"
    if entry.words:
        return f"{_shown(entry.words)}  in  {_shown(entry.key)}"
    return _shown(entry.key)


def _shown(text: str) -> str:
    """Return a text on one line, with nothing that a terminal would act on."""
    return "".join("⏎" if char == "\n" else char if char.isprintable() else "�" for char in text)


def _percent(share: float) -> str:
    return f"About {round(100 * share)} %"
