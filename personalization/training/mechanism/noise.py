"""Training's face of ``privacy.noise``: noise on a tensor of sums, and which users a step draws."""

from __future__ import annotations

import numpy as np
import torch

from privacy.noise import normal
from privacy.noise.keystream import PURPOSE_DRAW, SecretStream


def add_noise(sums: torch.Tensor, rows: list[normal.NoiseRow], purpose: bytes, step: int) -> torch.Tensor:
    """Return the sums with Gaussian noise, on each row's public lattice; rows that are not named stay as they are.

    Args:
        sums: ``(rows, size)`` of any float dtype. Noise is made on the processor wherever they live, with as many
            threads as torch computes with.
        rows: at most one for a row of the sums.
        purpose: four bytes naming the use.
        step: number of the mechanism application.
    """
    on_cpu = sums.detach().cpu().numpy()
    noisy = normal.add_noise(on_cpu, rows, purpose, step, threads=torch.get_num_threads())
    return torch.from_numpy(noisy).to(sums.device)


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
