"""Users' rows on the public lattice, in torch: the three steps of ``privacy.noise.lattice`` for many rows at once.

Written for any device: float64 for what is rounded, int64 for what is summed. Both are exact on a GPU too, where sums
have no fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from privacy.noise import lattice

# Numbers handled at a time: a processor's cache; on a GPU so many that few kernels are started.
BLOCK_ON_CPU = 1 << 17
BLOCK_ON_GPU = 1 << 24


def blocks(rows: torch.Tensor) -> Iterator[slice]:
    """Cut the rows of a tensor into slices of about one block."""
    block = BLOCK_ON_CPU if rows.device.type == "cpu" else BLOCK_ON_GPU
    size = max(1, block // max(1, rows.shape[1]))
    for first in range(0, len(rows), size):
        yield slice(first, min(len(rows), first + size))


def whole_rows(rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return rows scaled, where they are too long, and rounded to whole numbers (as float64); steps 1 and 2.

    Args:
        rows: ``(users, size)``, as they were computed; a row that is not finite becomes zero.
        scales: units per number of each row, C/u ÷ C ``(users,)`` in float64.
    """
    wide = rows.to(torch.float64, copy=True)
    norms = torch.linalg.vector_norm(wide, dim=1)
    if not math.isfinite(float(norms.sum())):
        broken = ~torch.isfinite(norms)
        wide.masked_fill_(broken[:, None], 0)
        norms.masked_fill_(broken, 0)
    # A zero norm divides to infinity, and the minimum is the scale.
    factors = torch.minimum(scales, lattice.inner_reach(wide.shape[1]) / norms)
    return wide.mul_(factors[:, None]).round_()


def too_long(whole: torch.Tensor) -> torch.Tensor:
    """Say of each row of whole numbers whether it is longer than the bound, exactly; step 3."""
    # The sum of squares is exact up to 2⁵³ and its root is rounded correctly, so that of 2⁴⁰ + 1 is above 2²⁰.
    within: torch.Tensor = torch.linalg.vector_norm(whole, dim=1) <= lattice.REACH
    return ~within  # a NaN is not within


def add_rows(total: torch.Tensor, whole: torch.Tensor, tenants: torch.Tensor) -> None:
    """Add rows of whole numbers to int64 sums ``(tenants, size)``; a block's own sum is exact in float64 as well."""
    if len(total) == 1:
        total[0].add_(whole.sum(0).to(torch.int64))
    else:
        total.index_add_(0, tenants, whole.to(torch.int64))


def released(
    noisy: torch.Tensor, coarse_bits: torch.Tensor, units: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return noisy sums rounded to each row's public multiple, as floats.

    Args:
        noisy: sums with their noise, int64 ``(tenants, size)``.
        coarse_bits: k of each tenant, int64 ``(tenants,)``.
        units: u of each tenant, float64 ``(tenants,)``.
        dtype: of the result.
    """
    bits = coarse_bits[:, None]
    half = torch.bitwise_left_shift(torch.ones_like(bits), bits) >> 1
    multiples = torch.bitwise_right_shift(noisy + half, bits)
    steps = torch.ldexp(units, coarse_bits)[:, None]
    return multiples.to(torch.float64).mul_(steps).to(dtype)
