"""The mean of two low-rank updates, as one of the same rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Factors = tuple[NDArray[np.float64], NDArray[np.float64]]


def mean_update(left: Factors, right: Factors, *, share: float) -> Factors:
    """Return ``A (r, d_in)`` and ``B (d_out, r)`` whose ``B A`` is nearest to a mean of two such updates.

    The mean has up to twice the rank; what is returned is nearest to it in the Frobenius norm, and halves its singular
    values between the factors (Eckart and Young 1936).

    Args:
        left: ``A`` and ``B`` of one update, of rank r.
        right: of the other; its rank is kept.
        share: of the left one, 0 to 1.
    """
    rank = right[0].shape[0]
    down = np.concatenate([left[0], right[0]])
    up = np.concatenate([share * left[1], (1.0 - share) * right[1]], axis=1)
    # Of up · down only a matrix of twice the rank is decomposed.
    columns, inner = np.linalg.qr(up)
    rows, outer = np.linalg.qr(down.T)
    above, values, beyond = np.linalg.svd(inner @ outer.T, full_matrices=False)
    kept = min(rank, len(values))  # fewer than the rank where a side is shorter than it
    root = np.sqrt(values[:kept])
    nearest_down, nearest_up = np.zeros_like(right[0]), np.zeros_like(right[1])
    nearest_down[:kept] = root[:, None] * (beyond[:kept] @ rows.T)
    nearest_up[:, :kept] = (columns @ above[:, :kept]) * root
    return nearest_down, nearest_up
