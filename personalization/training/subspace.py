"""The frozen subspace that all tenants of a base share: top singular directions of the base weights.

It depends on the public base weights alone, so it costs no privacy and every party can recompute it. Signs are fixed
(the largest entry of each right singular vector is positive), so that two machines agree up to rounding.
"""

from __future__ import annotations

import torch


def top_singular_directions(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return orthonormal ``A₀ (rank, d_in)`` and ``B₀ (rank, d_out)`` with ``weight ≈ B₀ᵀ diag(S) A₀``.

    Args:
        weight: a linear layer's weight ``(d_out, d_in)``.
        rank: how many directions; at most the smaller side.

    Returns:
        float32 factors. The eigenvectors of the smaller Gram matrix are found in float64, which is several times
        cheaper than a full decomposition and exact enough for the leading directions.
    """
    matrix = weight.detach().to("cpu", torch.float64)
    d_out, d_in = matrix.shape
    if d_in <= d_out:
        right = _leading_eigenvectors(matrix.t() @ matrix, rank)
        left = matrix @ right
        left = _orthonormal(left)
    else:
        left = _leading_eigenvectors(matrix @ matrix.t(), rank)
        right = _orthonormal(matrix.t() @ left)
    rows = right.t()
    signs = torch.sign(rows.gather(1, rows.abs().argmax(1, keepdim=True)))
    return (rows * signs).float().contiguous(), (left.t() * signs).float().contiguous()


def _leading_eigenvectors(gram: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the eigenvectors of the largest ``rank`` eigenvalues as columns, largest first."""
    vectors: torch.Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, -rank:].flip(1)


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Orthonormalize columns while keeping each one's direction (they are already orthogonal up to rounding)."""
    q, r = torch.linalg.qr(columns)
    signs: torch.Tensor = torch.sign(torch.diagonal(r))
    return torch.mul(q, signs)
