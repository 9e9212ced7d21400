"""The frozen subspaces that all tenants of a base share; they come from public numbers alone and cost no privacy.

``weights``: top singular directions of a base weight. ``public_gradients``: the directions along which the loss of
public interactions in many house styles changes most. On one tenant, 16 directions of such gradients caught 9 to 62 %
of the energy of users' gradients, depending on the module, and singular directions less than 1 %
(tests/benchmarks/RESULTS.md). The noise depends on how many numbers are trained, not on where they lie.

Signs are fixed (the largest entry of each right direction is positive), so that two machines agree up to rounding.
"""

from __future__ import annotations

import torch

PROTECTED_DIRECTIONS = 64
PROTECTED_SHARE = 8  # of a narrow layer's inputs at most an eighth is protected


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


class GradientEnergy:
    """Sums of ``G Gᵀ`` and ``Gᵀ G`` over public users' gradients ``G = gᵀ x`` of one weight.

    ``G`` itself is never formed: with few tokens the products over tokens are many times cheaper.
    """

    def __init__(self) -> None:
        self._left: torch.Tensor | None = None
        self._right: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor, slopes: torch.Tensor, weight: float) -> None:
        """Add one public user.

        Args:
            inputs: what entered the layer ``(tokens, d_in)``.
            slopes: the loss's slope towards its output ``(tokens, d_out)``.
            weight: factor of the user's gradient.
        """
        inputs, slopes = inputs.to("cpu", torch.float32) * weight, slopes.to("cpu", torch.float32)
        left = slopes.t() @ (inputs @ inputs.t()) @ slopes
        right = inputs.t() @ (slopes @ slopes.t()) @ inputs
        self._left = left if self._left is None else self._left.add_(left)
        self._right = right if self._right is None else self._right.add_(right)

    def keep(self, inputs: torch.Tensor) -> None:
        """Add inputs ``(tokens, d_in)`` of protected texts: what the layer makes of them shall change little."""
        inputs = inputs.to("cpu", torch.float32)
        gram = inputs.t() @ inputs
        self._kept = gram if self._kept is None else self._kept.add_(gram)

    def directions(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return orthonormal ``A₀ (rank, d_in)`` and ``B₀ (rank, d_out)`` in float32, the strongest direction first.

        Those of a lower rank are the first rows. At most the smaller side's directions are returned. ``A₀`` has nothing
        in the leading directions of the inputs given to ``keep``, so no adapter acts on them (gradient projection
        memory, Saha et al., ICLR 2021, section 4, applied to the frozen factor instead of to each step).

        Raises:
            ValueError: no user was added.
        """
        if self._left is None or self._right is None:
            raise ValueError("directions of gradients need at least one public user")
        count = min(rank, len(self._left), len(self._right))
        right = self._right.double()
        if self._kept is not None:
            kept = min(PROTECTED_DIRECTIONS, len(right) // PROTECTED_SHARE)
            away = _leading_eigenvectors(self._kept.double(), kept)
            free = torch.eye(len(right), dtype=right.dtype) - away @ away.t()
            # Below every other direction, also where the gradients do not fill the space.
            right = free @ right @ free - torch.trace(right) * (away @ away.t())
            count = min(count, len(right) - kept)
        return (
            _signed(_leading_eigenvectors(right, count).t()),
            _signed(_leading_eigenvectors(self._left.double(), count).t()),
        )


def squared_norm(inputs: torch.Tensor, slopes: torch.Tensor) -> float:
    """Return the squared L2 norm of ``gᵀ x`` without forming it."""
    inputs, slopes = inputs.to("cpu", torch.float32), slopes.to("cpu", torch.float32)
    return float(((inputs @ inputs.t()) * (slopes @ slopes.t())).sum())


def _signed(rows: torch.Tensor) -> torch.Tensor:
    """Give each row the sign that makes its largest entry positive."""
    return (rows * torch.sign(rows.gather(1, rows.abs().argmax(1, keepdim=True)))).float().contiguous()


def _leading_eigenvectors(gram: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the eigenvectors of the largest ``rank`` eigenvalues as columns, largest first."""
    vectors: torch.Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, len(gram) - rank :].flip(1)


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Orthonormalize columns while keeping each one's direction (they are already orthogonal up to rounding)."""
    q, r = torch.linalg.qr(columns)
    signs: torch.Tensor = torch.sign(torch.diagonal(r))
    return torch.mul(q, signs)
