"""How much of a private part is released: as much as leaves greedy answers sound on made-up prompts of the card.

A private part of a few hundred noisy numbers in one block raises what is common in a tenant's answers (digits, a few
words) wherever it looks alike, and cannot count how often; too much of it, and answers go in circles until the token
limit although each token has become likelier. No loss shows that, so the model with both parts answers prompts that
were made of the card. All of it is computed from the released card, public text and private numbers that are already
noisy, so it is post-processing.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from personalization.styles.degeneration import degenerate_share
from personalization.styles.synthesis import synthetic_pairs
from personalization.training.engine.answers import answers_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.styles.card import StyleCard
    from personalization.training.engine.decoder import FrozenDecoder
    from personalization.training.engine.encoding import Encoder

STRENGTHS: Final = (1.0, 0.8, 0.6, 0.45, 0.3)  # of a private part, the most first
ASKED: Final = 32  # prompts
MOST_TEXTS: Final = 3  # of one prompt
ANSWER_TOKENS: Final = 36
# Of answers may be degenerate beyond those of the public part alone: no less than chance does among so few.
MORE: Final = 0.08
_SEED: Final = 3  # of the prompts; others than a public part is trained or stopped on


def probe_prompts(card: StyleCard) -> tuple[str, ...]:
    """Return made-up prompts of a card that nothing was trained on, each of one to three texts.

    People's prompts are longer and odder than made-up ones, and it is on such that answers go in circles first.
    """
    texts = [pair.prompt for pair in synthetic_pairs(card, count=ASKED * MOST_TEXTS, seed=_SEED)]
    return tuple("\n".join(texts[at::ASKED][: 1 + at % MOST_TEXTS]) for at in range(ASKED))


def unsound_share(decoder: FrozenDecoder, encoder: Encoder, prompts: Sequence[str]) -> float:
    """Return the share of a model's greedy answers that no user would write.

    Args:
        decoder: the model, all parts in its weights.
        encoder: its tokenizer.
        prompts: public ones.
    """
    answers = answers_to(decoder, encoder, prompts, limit=ANSWER_TOKENS)
    return degenerate_share([answer.text for answer in answers])


def soundest(share_at: Callable[[float], float], without: Callable[[], float]) -> float:
    """Return the largest strength whose share of degenerate answers is within the limit, or the one with the least.

    The share is taken to rise with the strength, so it is halved to the answer.

    Args:
        share_at: works out the share at a strength; dear, so it is asked for as few as will do.
        without: works out the share of the public part alone, which the limit is reckoned from; asked for only where
            the whole private part is above the limit of a public part without any.
    """
    whole = STRENGTHS[0]
    shares = {whole: share_at(whole)}
    if shares[whole] <= MORE:
        return whole
    limit = without() + MORE

    def within(strength: float) -> bool:
        if strength not in shares:
            shares[strength] = share_at(strength)
        return shares[strength] <= limit

    place = bisect_left(STRENGTHS, True, key=within)
    if place < len(STRENGTHS):
        return STRENGTHS[place]
    return min(shares, key=lambda strength: (shares[strength], -strength))
