"""The output head of a frozen base: losses, likeliest tokens and drawn tokens from the last layer's output.

The logits of a chunk of labels at a time are ever held. Training may run the softmax over a shortlist of the
vocabulary; what is measured always runs over all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

from personalization.training.engine.kernels import LabelNll, ShortlistNll

_LABELS_PER_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Shortlist:
    """Some tokens of the vocabulary, chosen from public texts, which a training softmax runs over.

    Attributes:
        tokens: their ids, ascending.
        head: their rows of the output head.
        places: place of every token of the vocabulary in ``tokens``, or −1.
    """

    tokens: torch.Tensor
    head: torch.Tensor
    places: torch.Tensor


@cache
def native_bfloat16() -> bool:
    """Say whether this processor has instructions for products in bfloat16."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


class OutputHead:
    """The last norm and the output head.

    Args:
        weight: ``(vocabulary, width)``.
        norm: the norm before it.
        softcap: of the logits; None for none.
    """

    def __init__(
        self, weight: torch.Tensor, norm: Callable[[torch.Tensor], torch.Tensor], softcap: float | None
    ) -> None:
        self._weight = weight
        self._norm = norm
        self._softcap = softcap
        self._half: torch.Tensor | None = None

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return len(self._weight)

    def shortlist(self, tokens: torch.Tensor, *, half: bool = False) -> Shortlist:
        """Return the shortlist of these token ids; ``half`` as in ``label_nll``."""
        head = self._rows(half=half)
        tokens = tokens.to(head.device).sort().values
        places = torch.full((len(head),), -1, dtype=torch.long, device=head.device)
        places[tokens] = torch.arange(len(tokens), device=head.device)
        return Shortlist(tokens, head[tokens].contiguous(), places)

    def label_nll(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        *,
        half: bool = False,
        shortlist: Shortlist | None = None,
        shares: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the negative log-likelihood of each target from the last layer's output ``(labels, width)``.

        Args:
            hidden: the last layer's output.
            targets: one token id per label, or some ``(labels, tokens)``.
            half: only gradients are wanted, so a float32 head may be multiplied in bfloat16 where the processor has
                instructions for it.
            shortlist: run the softmax over these tokens and the target alone; its head is used whatever ``half``.
            shares: of a label's tokens in its loss ``(labels, tokens)``, where it has some; they sum to 1. Without a
                shortlist.

        Raises:
            ValueError: shares are given with a shortlist, whose loss knows one token of a label.
        """
        if shortlist is not None and shares is not None:
            raise ValueError("shares are given with a shortlist; allowed are those without one")
        normed = self._norm(hidden)
        head = self._rows(half=half) if shortlist is None else shortlist.head
        chunk = max(16, _LABELS_PER_CHUNK_BYTES // (4 * head.shape[0]))
        if shortlist is not None:
            own = self._weight[targets]
            found: torch.Tensor = ShortlistNll.apply(
                normed, head, own, shortlist.places[targets], self._softcap, chunk
            )
            return found
        out: torch.Tensor = LabelNll.apply(normed, head, targets, shares, self._softcap, chunk)
        return out

    @torch.no_grad()
    def best_labels(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the probability and the id of the likeliest token at each label, from ``(labels, width)``."""
        found: list[torch.Tensor] = []
        tokens: list[torch.Tensor] = []
        for logits, _ in self._logit_chunks(hidden):
            best, token = logits.max(1)
            found.append((best - torch.logsumexp(logits, 1)).exp_())
            tokens.append(token)
        return torch.cat(found), torch.cat(tokens)

    @torch.no_grad()
    def log_probabilities(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of every token at each label ``(labels, vocabulary)``; for few labels."""
        return torch.cat([torch.log_softmax(logits, 1) for logits, _ in self._logit_chunks(hidden)])

    @torch.no_grad()
    def likely_tokens(self, hidden: torch.Tensor, *, half: bool = False) -> torch.Tensor:
        """Return the probability of every token, summed over the labels of ``hidden (labels, width)``."""
        sums = [torch.softmax(logits, 1).sum(0) for logits, _ in self._logit_chunks(hidden, half=half)]
        return torch.stack(sums).sum(0)

    @torch.no_grad()
    def drawn_labels(
        self,
        hidden: torch.Tensor,
        coins: torch.Generator,
        *,
        draws: int = 1,
        half: bool = False,
        shortlist: Shortlist | None = None,
    ) -> torch.Tensor:
        """Draw token ids for each label from the model's own distribution ``(labels, draws)``.

        Args:
            hidden: the last layer's output ``(labels, width)``.
            coins: one uniform number on the CPU for each draw.
            draws: of each label.
            half: as in ``label_nll``.
            shortlist: draw from these tokens alone.
        """
        found = []
        uniform = torch.rand((len(hidden), draws), generator=coins).to(hidden.device)
        for logits, part in self._logit_chunks(hidden, half=half, shortlist=shortlist):
            below = torch.softmax(logits, 1).cumsum_(1)
            share = uniform[part] * below[:, -1:]
            found.append(torch.searchsorted(below, share).clamp_(max=below.shape[1] - 1))
        drawn = torch.cat(found)
        return drawn if shortlist is None else shortlist.tokens[drawn]

    def _logit_chunks(
        self, hidden: torch.Tensor, *, half: bool = False, shortlist: Shortlist | None = None
    ) -> Iterator[tuple[torch.Tensor, slice]]:
        """Yield logits in at least float32, for as many labels at a time as a chunk holds, and which labels."""
        normed = self._norm(hidden)
        head = self._rows(half=half) if shortlist is None else shortlist.head
        chunk = max(16, _LABELS_PER_CHUNK_BYTES // (4 * head.shape[0]))
        for start in range(0, len(normed), chunk):
            part = slice(start, start + chunk)
            logits = (normed[part].to(head.dtype) @ head.t()).to(
                torch.promote_types(normed.dtype, torch.float32)
            )
            if self._softcap is not None:
                logits = logits.div_(self._softcap).tanh_().mul_(self._softcap)
            yield logits, part

    def _rows(self, *, half: bool) -> torch.Tensor:
        head = self._weight
        if not (half and head.dtype == torch.float32 and native_bfloat16()):
            return head
        if self._half is None:
            self._half = head.to(torch.bfloat16)
        return self._half
