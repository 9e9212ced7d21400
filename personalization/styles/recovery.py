"""Made-up answers that have just begun to go in circles, and how they get out: a word on, and to their end.

A model that only ever saw sound answers does not know what to do once it has said something twice, and the likeliest
continuation of a repetition is another one. So some texts begin in such a state; only what follows it is learned.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from personalization.styles.synthesis import synthetic_pairs

if TYPE_CHECKING:
    from personalization.styles.card import StyleCard

LONGEST_PHRASE: Final = 4  # words that are said again
MOST_LEFT: Final = 4  # words of an answer after the state that it recovers from
LONG_NUMBER: Final = (6, 8)  # digits of a number that has gone on for too long
_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """A prompt, an answer that goes in circles so far, and the rest that ends it."""

    prompt: str
    begun: str
    rest: str


def recoveries(card: StyleCard, *, count: int, seed: int) -> tuple[Recovery, ...]:
    """Return answers in the style of a card that recover: half of those that hold a number from one that did not end.

    Args:
        card: a released card.
        count: how many.
        seed: public; another one makes others.
    """
    rng = random.Random(f"recovery/{card.digest()}/{seed}")  # noqa: S311  # public text, no secret
    found: list[Recovery] = []
    for pair in synthetic_pairs(card, count=4 * count, seed=seed):
        number = _NUMBER.search(pair.answer)
        if number is not None and number.end() < len(pair.answer) and rng.random() < 0.5:
            digits = rng.randint(*LONG_NUMBER) - len(number.group())
            more = "".join(rng.choice("0123456789") for _ in range(max(1, digits)))
            begun, rest = pair.answer[: number.end()] + more, pair.answer[number.end() :]
        else:
            words = pair.answer.split(" ")
            if len(words) < 4:
                continue
            cut = len(words) - rng.randint(1, min(MOST_LEFT, len(words) - 3))
            phrase = words[max(1, cut - rng.randint(1, LONGEST_PHRASE)) : cut]
            said = words[:cut] + phrase * rng.choice((1, 2))
            begun, rest = " ".join(said), " " + " ".join(words[cut:])
        found.append(Recovery(prompt=pair.prompt, begun=begun, rest=rest))
        if len(found) == count:
            break
    return tuple(found)
