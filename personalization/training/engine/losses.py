"""Per-user losses.

Every loss is a mean over one user's own examples of terms that depend on that example alone (and on the base that is
trained on, as reference), so a user's gradient depends on that user's data only and clipping it bounds that user's
influence.
Losses that couple users have no place here: KTO's and BCO's reference points, AOT's sorting, the baselines of GRPO and
RLOO, the negatives of InfoNCE, and whatever is divided by the tokens of a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from personalization.training.engine.encoding import TokenUser
from personalization.training.jobs.job import ExampleKind

DPO_BETA = 0.1
# Below this value of −log p the unlikelihood term −log(1 − p) is held constant: its slope would grow without bound.
SMALLEST_UNLIKELY_NLL = 1e-6


@dataclass(frozen=True)
class LossTerms:
    """How the label losses of one micro-batch combine; all factors come from each user's own data.

    Attributes:
        row_of_label: row number of each label ``(labels,)``.
        sft: factor of each label ``(labels,)``: weight ÷ (own examples · own labels), zero for other kinds.
        unlikely: ``(n,)`` label numbers whose likelihood falls, with factors ``unlikely_factor (n,)``.
        pairs: ``(pairs, 2)`` row numbers of preferred and shown rows, with factors ``pair_factor (pairs,)``.
        row_count: rows in the micro-batch.
    """

    row_of_label: torch.Tensor
    sft: torch.Tensor
    unlikely: torch.Tensor
    unlikely_factor: torch.Tensor
    pairs: torch.Tensor
    pair_factor: torch.Tensor
    row_count: int

    @classmethod
    def of_users(cls, users: list[TokenUser], device: torch.device, dtype: torch.dtype) -> LossTerms:
        """Work out the factors for users in batch order."""
        row_of_label: list[int] = []
        sft: list[float] = []
        unlikely: list[int] = []
        unlikely_factor: list[float] = []
        pairs: list[tuple[int, int]] = []
        pair_factor: list[float] = []
        row = 0
        for user in users:
            share = 1.0 / len(user.examples)
            for example in user.examples:
                factor = example.weight * share
                if example.kind is ExampleKind.PREFERENCE:
                    pairs.append((row, row + 1))
                    pair_factor.append(factor)
                for tokens in example.rows:
                    if example.kind is ExampleKind.UNLIKELIHOOD:
                        unlikely.extend(range(len(sft), len(sft) + tokens.labels))
                        unlikely_factor.extend([factor / tokens.labels] * tokens.labels)
                    on = factor / tokens.labels if example.kind is ExampleKind.SFT else 0.0
                    sft.extend([on] * tokens.labels)
                    row_of_label.extend([row] * tokens.labels)
                    row += 1
        return cls(
            torch.tensor(row_of_label, device=device),
            torch.tensor(sft, device=device, dtype=dtype),
            torch.tensor(unlikely, device=device, dtype=torch.long),
            torch.tensor(unlikely_factor, device=device, dtype=dtype),
            torch.tensor(pairs, device=device, dtype=torch.long).view(-1, 2),
            torch.tensor(pair_factor, device=device, dtype=dtype),
            row,
        )

    def rows_nll(self, nll: torch.Tensor) -> torch.Tensor:
        """Sum the label losses of each row: ``(rows,)``."""
        return nll.new_zeros(self.row_count).index_add(0, self.row_of_label, nll)

    def total(self, nll: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
        """Return the sum over users of each user's loss.

        Args:
            nll: negative log-likelihood of each label ``(labels,)``.
            reference: the same, summed per row, under the public base ``(rows,)``; needed for pairs only.
        """
        loss = (self.sft * nll).sum()
        if len(self.unlikely):
            falling = nll.index_select(0, self.unlikely).clamp_min(SMALLEST_UNLIKELY_NLL)
            loss = loss - (self.unlikely_factor * torch.log(-torch.expm1(-falling))).sum()
        if len(self.pairs) and reference is not None:
            gain = reference - self.rows_nll(nll)  # log-ratio to the reference
            margin = gain.index_select(0, self.pairs[:, 0]) - gain.index_select(0, self.pairs[:, 1])
            loss = loss - (self.pair_factor * F.logsigmoid(DPO_BETA * margin)).sum()
        return loss
