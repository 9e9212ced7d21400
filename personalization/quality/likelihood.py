"""What a model says about answers that users wrote: losses per user, by place in the answer, and hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from personalization.planning.plan import Objective
from personalization.training.engine.batches import Member, assemble, split_users
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.jobs.job import UserExamples

TOKENS_PER_PASS = 2048
# Places of a label in its answer, counted from 0: the first token, the rest of an opening, and what follows.
PLACES: tuple[tuple[str, int, int], ...] = (("first", 0, 1), ("2-4", 1, 4), ("5+", 4, 10**9))


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """One model on one set of users.

    Attributes:
        losses: each user's mean loss in nats per token: the mean over answers of the mean over labels.
        by_place: for each of ``PLACES``, the mean over users of the mean loss of their labels there.
        first_hits: share of answers whose first token is the likeliest one.
        confidences: the largest probability at each label.
        correct: whether the label had it.
    """

    losses: list[float]
    by_place: dict[str, float]
    first_hits: float
    confidences: list[float]
    correct: list[bool]

    @property
    def mean(self) -> float:
        """The macro mean over users, nats per token."""
        return float(np.mean(self.losses))


@torch.no_grad()
def likelihood(
    decoder: FrozenDecoder, encoder: Encoder, users: Sequence[UserExamples], *, max_tokens: int
) -> Likelihood:
    """Measure a model on users with at least one answer each.

    Args:
        decoder: the model, an adapter already in its weights (``served``).
        encoder: its tokenizer.
        users: who is measured; a user without an answer counts for nothing.
        max_tokens: truncation of one interaction, as in training.
    """
    encoded = [
        encoder.user(user, bound=len(user.examples), objective=Objective.SFT, max_tokens=max_tokens)
        for user in users
        if user.examples
    ]
    order = sorted(range(len(encoded)), key=lambda number: encoded[number].tokens)
    losses = [0.0] * len(encoded)
    places: dict[str, list[float]] = {name: [] for name, _, _ in PLACES}
    confidences: list[float] = []
    correct: list[bool] = []
    first: list[bool] = []
    at = 0
    for run in split_users([Member(0, encoded[number], ()) for number in order], TOKENS_PER_PASS):
        micro = assemble(run, decoder.device, torch.promote_types(decoder.dtype, torch.float32))
        out = decoder.run(
            decoder.embed(micro.tokens), micro.batch, range(decoder.layer_count), labels_only=True
        )
        nll = decoder.head.label_nll(out, micro.batch.targets)
        owner = micro.batch.label_groups.users.of_token
        place = torch.cat([torch.arange(length) for length in micro.batch.labels.lengths]).to(nll.device)
        for value in nll.new_zeros(len(run)).index_add_(0, owner, micro.terms.sft * nll).tolist():
            losses[order[at]] = value
            at += 1
        for name, low, high in PLACES:
            inside = ((place >= low) & (place < high)).to(nll.dtype)
            count = nll.new_zeros(len(run)).index_add_(0, owner, inside)
            total = nll.new_zeros(len(run)).index_add_(0, owner, inside * nll)
            places[name] += (total[count > 0] / count[count > 0]).tolist()
        largest, token = decoder.head.best_labels(out)
        hit = token == micro.batch.targets
        confidences += largest.tolist()
        correct += hit.tolist()
        first += hit[place == 0].tolist()
    return Likelihood(
        losses=losses,
        by_place={name: float(np.mean(values)) for name, values in places.items() if values},
        first_hits=float(np.mean(first)),
        confidences=confidences,
        correct=correct,
    )
