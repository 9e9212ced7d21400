"""A card as a prompt: a template for models whose weights nobody can touch.

The template is Jinja2 with the variable ``prompt``; everything else in it is literal, braces of users' texts included.
It says in words how answers open, close and look, shows up to two made-up examples, and ends where the task begins. It
is post-processing of a released card; ``StyleCard.digest`` is its version. Card text comes from users, so it stands in
quotation marks, on one line and bounded; whoever sends the prompt trusts the card no more than a user's text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from personalization.styles.abstraction import COPY, NUMBER, TEXT
from personalization.styles.families import LENGTHS, NONE, Feature, prompt_kind
from personalization.styles.frames import closings, openings
from personalization.styles.slots import filled
from personalization.styles.synthesis import synthetic_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.styles.card import StyleCard
    from personalization.styles.frames import Frame
    from personalization.styles.synthesis import SyntheticPair

MOST_TOKENS: Final = 120  # of everything before the task
USUALLY: Final = 0.5
MOST_FRAMES: Final = 3  # of openings, and of closings
_EXAMPLES_DRAWN: Final = 24
_SEED: Final = 12
_LONGEST_FRAME: Final = 80
_CLASS_WORDS: Final = {NUMBER: "<number>", COPY: "<words of the prompt>", TEXT: "<words>"}
_WORD: Final = re.compile(r"[A-Za-z]+|\n|\S")


def template_of(card: StyleCard) -> str:
    """Return the template; for a card that tells nothing, the bare task."""
    heads = [one for one in openings(card) if one.text][:MOST_FRAMES]
    tails = [one for one in closings(card) if one.text][:MOST_FRAMES]
    examples = _examples(card, heads, tails) if heads or tails else []
    form = _form(card)
    # What does not fit goes: the second example, then the rarest frames, then every example.
    sizes = [(kept, shown) for kept in range(MOST_FRAMES, 0, -1) for shown in (2, 1)]
    sizes += [(kept, 0) for kept in range(MOST_FRAMES, 0, -1)]
    for kept, shown in sizes:
        text = _text(heads[:kept], tails[:kept], form, examples[:shown])
        if text and tokens_of(text) <= MOST_TOKENS:
            return f"{_escaped(text)}Prompt: {{{{ prompt }}}}\nAnswer:"
    return "{{ prompt }}"


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has, rather too many: four letters or one other character each."""
    return sum(
        -(-len(part) // 4) if part.isascii() and part.isalpha() else len(part.encode())
        for part in _WORD.findall(text)
    )


def _text(
    heads: Sequence[Frame], tails: Sequence[Frame], form: str, examples: Sequence[SyntheticPair]
) -> str:
    sentences = [_sentence("open", heads), _sentence("close", tails), form]
    told = " ".join(one for one in sentences if one)
    if not told:
        return ""
    shown = [f"Prompt: {_one_line(one.prompt)}\nAnswer: {_one_line(one.answer)}" for one in examples]
    return "\n\n".join([told, *shown]) + "\n\n"


def _sentence(verb: str, frames: Sequence[Frame]) -> str:
    usual = [one for one in frames if one.share >= USUALLY]
    told: list[str] = []
    for word, some in (("usually", usual), ("sometimes", [one for one in frames if one not in usual])):
        if some:
            said = f"{word} {verb} with" if not told else f"{word} with"
            told.append(f"{said} " + " or ".join(f'"{_quoted(one.text)}"' for one in some))
    return f"Answers {', '.join(told)}." if told else ""


def _quoted(frame: str) -> str:
    return _one_line(filled(frame, lambda slot: _CLASS_WORDS[slot])).replace('"', "'")[:_LONGEST_FRAME]


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " / ", text)


def _form(card: StyleCard) -> str:
    told: list[str] = []
    lengths = [one for one in card.of(Feature.LENGTH) if one.share >= USUALLY / 2]
    if lengths:
        order = [*map(str, LENGTHS), "more"]
        buckets = sorted(order.index(one.key) for one in lengths)
        least = LENGTHS[buckets[0] - 1] + 1 if buckets[0] else 1
        last = order[buckets[-1]]
        told.append(f"{least} or more words" if last == "more" else f"{least} to {last} words")
    stops = card.of(Feature.STOP)
    if stops and stops[0].share >= USUALLY:
        told.append("no stop at the end" if stops[0].key == NONE else f'a final "{stops[0].key}"')
    return f"They have {' and '.join(told)}." if told else ""


def _examples(card: StyleCard, heads: Sequence[Frame], tails: Sequence[Frame]) -> list[SyntheticPair]:
    """Return two short made-up examples, the first of which shows the commonest frames."""
    drawn = synthetic_pairs(card, count=_EXAMPLES_DRAWN, seed=_SEED)
    kinds = {one.key for one in card.of(Feature.PROMPT_KIND)[:1]}
    drawn = tuple(one for one in drawn if not kinds or prompt_kind(one.prompt) in kinds)
    styled = [
        one
        for one in drawn
        if _shows(one.answer, heads, opens=True) or _shows(one.answer, tails, opens=False)
    ]
    first = heads[:1] if heads else tails[:1]
    short = sorted(styled, key=lambda one: len(one.prompt) + len(one.answer))
    best = [one for one in short if _shows(one.answer, first, opens=bool(heads))]
    return [*best[:1], *(one for one in short if one not in best[:1])][:2]


def _shows(answer: str, frames: Sequence[Frame], *, opens: bool) -> bool:
    """Say whether an answer opens (or closes) with one of the frames' literal beginnings (or ends)."""
    return any(re.search(_searched(one.text, opens=opens), answer) is not None for one in frames)


def _searched(frame: str, *, opens: bool) -> str:
    pattern = "".join(re.escape(part) for part in filled(frame, lambda _: "\0").strip()).replace(
        re.escape("\0"), ".+?"
    )
    return rf"\A{pattern}" if opens else rf"{pattern}\Z"


def _escaped(text: str) -> str:
    """Return a text that Jinja2 gives back as it is: each of its delimiters begins with a brace."""
    return text.replace("{", "{{ '{' }}")
