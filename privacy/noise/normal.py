"""Gaussian noise on a public lattice: Box–Muller numbers from keystreams, added to sums that are then rounded.

**What is released, and why it is as private as the Gaussian mechanism on real numbers.** Noise of standard deviation s
is added in float64, and the noisy sum is rounded to the multiples of a public power of two Δ, s·2⁻⁹ < Δ ≤ s·2⁻⁸
(``lattice_step``). Rounding *after* the noise is post-processing, so with exact normal numbers the guarantee is that of
the Gaussian mechanism, whatever the sum's own digits. Ours are Box–Muller numbers, computed to within 2⁻⁴⁴·s of the
exact ones of the same uniform input; that moves the probability of each lattice point by a factor within 1 ± 2⁻³³. Over
n numbers the log-ratio of the real and the exact mechanism stays below 2⁻³³·√(2n·ln(1/β)) + n·2⁻⁶⁵ except with
probability β (advanced composition, Dwork, Rothblum and Vadhan 2010): 3·10⁻⁶ for n = 10⁷ and β = 10⁻¹³, for each of the
two neighboring data sets. Every lattice point within 8 s of either sum is reached from both by more than 2⁶⁰ inputs, so
the attack that asks which floating point inputs could have made a released number (Mironov 2012, "On significance of
the least significant bits for differential privacy"; arXiv 2112.05307 for Opacus) has nothing to read. The price is
10⁻⁶ more variance.

Assumed: ChaCha20 is a pseudorandom function (``privacy.noise.keystream``); log, sqrt and tan of NumPy err by at most 4
units in the last place; the sum's own size is at most 64 s, as it is for fewer than 64·σ users. Not covered: which
digits a user's clipped gradient has may depend, by rounding inside matrix products, on who shares the batch (about
10⁻⁶ of the clipping norm).

Opacus' ``secure_mode`` sums four draws instead (Holohan and Braghin, arXiv 2107.10138, section 5.1), which makes the
same attack expensive rather than void.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from privacy.noise.keystream import BLOCK_BYTES, Floats, SecretStream, Words, overwrite

Sums = npt.NDArray[np.floating]

LATTICE_BITS = 8

# Pairs of numbers made at a time: few enough for a core's caches, enough that threads seldom wait for the interpreter.
# Part of what a key's numbers are.
BLOCK_PAIRS = 1 << 15
# Radius words below this magnitude get 64 more bits, so that u keeps its relative precision in the far tail.
_REFINED_BELOW = float(1 << 43)
_SECOND = 1 << 63  # added to the step, it names the keystream that those bits come from


@dataclass(frozen=True)
class NoiseRow:
    """One row of ``add_noise``: whose noise, and of which standard deviation (above zero)."""

    row: int
    stream: SecretStream
    deviation: float


def lattice_step(deviation: float) -> float:
    """Return Δ, the power of two to whose multiples a sum with noise of this standard deviation is rounded."""
    return math.ldexp(1.0, math.frexp(deviation)[1] - 1 - LATTICE_BITS)


def add_noise(values: Sums, rows: list[NoiseRow], purpose: bytes, step: int, *, threads: int = 1) -> Sums:
    """Return sums with Gaussian noise, on each row's public lattice; rows that are not named stay as they are.

    Args:
        values: the sums, ``(rows, size)``.
        rows: at most one for a row of ``values``.
        purpose: four bytes naming the use.
        step: number of the mechanism application.
        threads: how many share the work; the numbers do not depend on it.
    """
    noisy = np.array(values, order="C")
    _in_parallel([_Tile(*tile, purpose, step, noisy) for tile in _tiles(rows, noisy.shape[1])], threads)
    return noisy


def gaussians(
    streams: list[SecretStream], purpose: bytes, step: int, count: int, *, threads: int = 1
) -> Floats:
    """Return standard normal numbers ``(streams, count)`` in float64, one row from each stream.

    A stream gives the same row whichever streams stand beside it; ``add_noise`` adds these numbers times the
    deviation.
    """
    out = np.empty((len(streams), count))
    unit = [NoiseRow(row, stream, 1.0) for row, stream in enumerate(streams)]
    _in_parallel([_Tile(*tile, purpose, step, out, plain=True) for tile in _tiles(unit, count)], threads)
    return out


def _tiles(rows: list[NoiseRow], count: int) -> Iterator[tuple[list[NoiseRow], int, int]]:
    """Cut rows × numbers into tiles (rows, first number, pairs) of at most ``BLOCK_PAIRS`` pairs."""
    for first in range(0, count, 2 * BLOCK_PAIRS):
        pairs = min(BLOCK_PAIRS, (count - first + 1) // 2)
        together = BLOCK_PAIRS // pairs
        for at in range(0, len(rows), together):
            yield rows[at : at + together], first, pairs


@dataclass(frozen=True)
class _Tile:
    """A block of numbers of one or more short rows, small enough for a core's own cache."""

    rows: list[NoiseRow]
    first: int
    pairs: int
    purpose: bytes
    step: int
    values: Sums  # (rows, size), changed in place
    plain: bool = False  # write standard normal numbers instead of adding noise

    def fill(self) -> None:
        columns = slice(self.first, self.first + 2 * self.pairs)
        if self.plain:
            scales = np.ones((len(self.rows), 1))
            numbers = self._normals(scales)
            for numbers_of_row, one in zip(numbers, self.rows, strict=True):
                part = self.values[one.row, columns]
                part[:] = numbers_of_row[: len(part)]
            return
        steps = [lattice_step(one.deviation) for one in self.rows]
        # In units of the lattice: scaling by a power of two is exact, so the sum is rounded once and then to a whole.
        scales = np.array([one.deviation / step for one, step in zip(self.rows, steps, strict=True)])[:, None]
        numbers = self._normals(scales)
        for numbers_of_row, one, step in zip(numbers, self.rows, steps, strict=True):
            part = self.values[one.row, columns]
            total = numbers_of_row[: len(part)]
            exact = part.astype(np.float64)
            exact *= 1.0 / step
            exact += total
            np.rint(exact, out=exact)
            exact *= step
            part[:] = exact

    def _normals(self, scales: Floats) -> Floats:
        words = np.empty((len(self.rows), 2, self.pairs), dtype=np.int64)
        block = self.first * 8 // BLOCK_BYTES
        for row, one in zip(words, self.rows, strict=True):
            overwrite(one.stream.keystream(self.purpose, self.step, block), row)
        magnitudes = magnitudes_of(words[:, 0])
        if magnitudes.min() < _REFINED_BELOW:
            for row, pair in np.argwhere(magnitudes < _REFINED_BELOW):
                magnitudes[row, pair] += self._further_bits(row, pair) - 0.5
        return box_muller(magnitudes, words[:, 1], scales)

    def _further_bits(self, row: int, pair: int) -> float:
        """Return a number uniform in (0, 1) that belongs to this pair alone."""
        number = self.first // 2 + int(pair)
        block, word = divmod(number, BLOCK_BYTES // 8)
        keystream = self.rows[row].stream.keystream(self.purpose, self.step + _SECOND, block)
        octets = keystream.update(bytes(BLOCK_BYTES))[8 * word : 8 * word + 8]
        return (int.from_bytes(octets, "little") + 0.5) * 2.0**-64


def magnitudes_of(words: Words) -> Floats:
    """Return |w + ½| of uniform words: the 2⁶³ numbers ½, 3/2, … are equally likely."""
    magnitudes = words.astype(np.float64)
    magnitudes += 0.5
    return np.abs(magnitudes, out=magnitudes)


def box_muller(magnitudes: Floats, words: Words, scales: Floats) -> Floats:
    """Turn uniform numbers into normal ones by the method of Box and Muller (1958).

    Args:
        magnitudes: ``(rows, pairs)``, uniform in (0, 2⁶³]; overwritten.
        words: ``(rows, pairs)``, uniform 64-bit words.
        scales: ``(rows, 1)``, standard deviation of each row.

    Returns:
        ``(rows, 2·pairs)``: all first members of the pairs, then all second members.
    """
    radius = magnitudes
    radius *= 2.0**-63
    np.log(radius, out=radius)
    radius *= -2.0 * scales * scales
    np.sqrt(radius, out=radius)
    # cos θ = 2/(1 + t²) − 1 and sin θ = 2t/(1 + t²) with t = tan(θ/2): one vectorized function instead of two.
    half = words.astype(np.float64)
    half *= math.pi * 2.0**-64
    np.tan(half, out=half)
    inner = half * half
    inner *= 0.5
    inner += 0.5
    np.divide(radius, inner, out=inner)
    numbers = np.empty((len(radius), 2 * radius.shape[1]))
    np.subtract(inner, radius, out=numbers[:, : radius.shape[1]])
    np.multiply(inner, half, out=numbers[:, radius.shape[1] :])
    return numbers


def _in_parallel(tiles: list[_Tile], threads: int) -> None:
    """Fill all tiles with so many threads."""
    workers = min(len(tiles), threads)
    if workers <= 1:
        _fill_all(tiles)
        return
    for job in [_pool().submit(_fill_all, tiles[start::workers]) for start in range(workers)]:
        job.result()


def _fill_all(tiles: list[_Tile]) -> None:
    for tile in tiles:
        tile.fill()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="noise")
