"""Training's face of ``privacy.noise``: whole noise on a tensor of exact sums, and which users a step draws."""

from __future__ import annotations

import numpy as np
import torch

from privacy.noise import normal
from privacy.noise.keystream import PURPOSE_DRAW, SecretStream


def add_noise(
    sums: torch.Tensor, rows: dict[int, normal.NoiseRow], purpose: bytes, step: int
) -> torch.Tensor:
    """Return the sums with Gaussian noise; rows that are not named stay as they are.

    Args:
        sums: exact sums in units of the lattice, int64 ``(rows, size)``. Noise is made on the processor wherever they
            live, with as many threads as torch computes with, and added where they live.
        rows: whose noise goes to which row of the sums.
        purpose: four bytes naming the use.
        step: number of the mechanism application.
    """
    noise = torch.from_numpy(
        normal.whole_noise(list(rows.values()), purpose, step, sums.shape[1], threads=torch.get_num_threads())
    ).to(sums.device)
    if len(rows) == len(sums) and list(rows) == list(range(len(sums))):
        return noise.add_(sums)
    return sums.index_add(0, torch.tensor(list(rows), dtype=torch.long, device=sums.device), noise)


def draw_users(stream: SecretStream, step: int, users: int, sample_rate: float) -> list[int]:
    """Draw users by independent coins (Poisson sampling) for one step.

    Args:
        stream: the tenant's secret stream.
        step: the step, from 0.
        users: how many users the tenant has; they are numbered in a deterministic order.
        sample_rate: the public probability of each coin.

    Returns:
        Numbers of the users drawn, ascending; it may be empty.
    """
    if sample_rate >= 1.0:
        return list(range(users))
    drawn: list[int] = np.flatnonzero(stream.uniform(PURPOSE_DRAW, step, users) < sample_rate).tolist()
    return drawn
