"""Gaussian noise in whole numbers, for exact sums of whole numbers; and standard normal numbers from keystreams.

**What is released, and why it is as private as the Gaussian mechanism on real numbers.** A sum S is a vector of whole
numbers that one user moves by at most R = 2²⁰ units in L2 (``privacy.noise.lattice``). The *ideal* mechanism adds a
real Gaussian X of standard deviation s = σ·R to each number, rounds to a whole number, and that to a multiple of 2ᵏ
with s·2⁻⁹ < 2ᵏ ≤ s·2⁻⁸ (``coarse_bits``). It is the Gaussian mechanism of sensitivity R and multiplier σ, followed by
post-processing, so every accountant of the Gaussian mechanism holds for it with nothing added. And because S is
whole, round(S + X) = S + round(X), but for ties, which have probability zero: **the noise is a vector of whole
numbers, drawn without looking at any data and added without any error** (``whole_noise``). Data meets a float only
after the noise is in it. How many users there are, how long a sum is and in which order it was summed appear nowhere
in this argument.

The *real* mechanism differs in X alone, which is a Box–Muller number within 2⁻⁴⁴·s of the exact one of the same uniform
input. A released multiple of 2ᵏ stands for an interval of X that is wider than s·2⁻⁹, of which such an error moves each
end by at most 2⁻⁴⁴·s; that changes its probability by a factor within 1 ± 2⁻³³, for each point within 8 s of the sum.
Over n numbers the log-ratio of the real and the ideal mechanism stays below 2⁻³³·√(2n·ln(1/β)) + n·2⁻⁶⁵ except with
probability β (advanced composition, Dwork, Rothblum and Vadhan 2010): 3·10⁻⁶ for n = 10⁷ and β = 10⁻¹³, for each of
the two neighboring data sets. Every such point is reached from both by more than 2⁶⁰ inputs, so the attack that asks
which floating point inputs could have made a released number (Mironov 2012, "On significance of the least significant
bits for differential privacy"; arXiv 2112.05307 for Opacus) has nothing to read. Both roundings add 10⁻⁶ to the
variance.

Assumed: ChaCha20 is a pseudorandom function (``privacy.noise.keystream``); log, sqrt and tan of NumPy err by at most 4
units in the last place. Nothing is assumed of the data. Not covered, because it happens before a user's row is whole:
which digits a user's gradient has may depend, by rounding inside matrix products, on who shares the batch.

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
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.noise.keystream import BLOCK_BYTES, Floats, SecretStream, Words, overwrite

Numbers = npt.NDArray[Any]

# Pairs of numbers made at a time: few enough for a core's caches, enough that threads seldom wait for the interpreter.
# Part of what a key's numbers are.
BLOCK_PAIRS = 1 << 15
# Radius words below this magnitude get 64 more bits, so that u keeps its relative precision in the far tail.
_REFINED_BELOW = float(1 << 43)
_SECOND = 1 << 63  # added to the step, it names the keystream that those bits come from


@dataclass(frozen=True)
class NoiseRow:
    """One row of ``whole_noise``: whose noise, and of which standard deviation (above zero, in units)."""

    stream: SecretStream
    deviation: float


def whole_noise(rows: list[NoiseRow], purpose: bytes, step: int, count: int, *, threads: int = 1) -> Words:
    """Return Gaussian noise rounded to whole numbers ``(rows, count)``; no data goes in.

    Args:
        rows: one for each row of the result.
        purpose: four bytes naming the use.
        step: number of the mechanism application.
        count: numbers a row.
        threads: how many share the work; the numbers do not depend on it.
    """
    out = np.empty((len(rows), count), dtype=np.int64)
    _in_parallel([_Tile(*tile, purpose, step, out) for tile in _tiles(rows, count)], threads)
    return out


def gaussians(
    streams: list[SecretStream], purpose: bytes, step: int, count: int, *, threads: int = 1
) -> Floats:
    """Return standard normal numbers ``(streams, count)`` in float64, one row from each stream.

    A stream gives the same row whichever streams stand beside it; ``whole_noise`` rounds these numbers times the
    deviation.
    """
    out = np.empty((len(streams), count))
    unit = [NoiseRow(stream, 1.0) for stream in streams]
    _in_parallel([_Tile(*tile, purpose, step, out) for tile in _tiles(unit, count)], threads)
    return out


def _tiles(rows: list[NoiseRow], count: int) -> Iterator[tuple[list[NoiseRow], int, int, int]]:
    """Cut rows × numbers into tiles (rows, first row, first number, pairs) of at most ``BLOCK_PAIRS`` pairs."""
    for first in range(0, count, 2 * BLOCK_PAIRS):
        pairs = min(BLOCK_PAIRS, (count - first + 1) // 2)
        together = BLOCK_PAIRS // pairs
        for at in range(0, len(rows), together):
            yield rows[at : at + together], at, first, pairs


@dataclass(frozen=True)
class _Tile:
    """A block of numbers of one or more short rows, small enough for a core's own cache."""

    rows: list[NoiseRow]
    first_row: int
    first: int
    pairs: int
    purpose: bytes
    step: int
    out: Numbers  # (rows, size), written in place; of whole numbers or not

    def fill(self) -> None:
        numbers = self._normals(np.array([one.deviation for one in self.rows])[:, None])
        part = self.out[
            self.first_row : self.first_row + len(self.rows), self.first : self.first + 2 * self.pairs
        ]
        numbers = numbers[:, : part.shape[1]]
        if part.dtype == np.int64:
            np.rint(numbers, out=numbers)  # below 2³⁸ at the largest deviation, so exact in float64
        part[:] = numbers

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
