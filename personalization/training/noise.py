"""Cryptographic randomness: uniform and Gaussian numbers from a ChaCha20 keystream (RFC 8439).

Each (key, purpose, step) names one keystream, so a retry with the same 32 secret bytes repeats the same draws and
spends nothing new, while no two purposes or steps ever share a byte. The key comes from the operating system's
entropy; it is never logged.

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

Assumed: ChaCha20 is a pseudorandom function; log, sqrt and tan of NumPy err by at most 4 units in the last place; the
sum's own size is at most 64 s, as it is for fewer than 64·σ users. Not covered: which digits a user's clipped
gradient has may depend, by rounding inside matrix products, on who shares the batch (about 10⁻⁶ of the clipping norm).

Opacus' ``secure_mode`` sums four draws instead (Holohan and Braghin, arXiv 2107.10138, section 5.1), which makes the
same attack expensive rather than void.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms

KEY_BYTES = 32
PURPOSE_DRAW = b"draw"
PURPOSE_GRADIENT = b"grad"
LATTICE_BITS = 8

# Pairs of numbers made at a time: few enough for a core's caches, enough that threads seldom wait for the interpreter.
# Part of what a key's numbers are.
BLOCK_PAIRS = 1 << 15
_BLOCK_BYTES = 64  # of the ChaCha20 block function
_UNIT_BITS = (1 << 52) - 1
# Radius words below this magnitude get 64 more bits, so that u keeps its relative precision in the far tail.
_REFINED_BELOW = float(1 << 43)
_SECOND = 1 << 63  # added to the step, it names the keystream that those bits come from

Words = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class SecretStream:
    """Random numbers derived from one secret key.

    Args:
        key: 32 bytes from a cryptographic source. Whoever knows them can remove the noise.

    Raises:
        ValueError: the key does not have 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the noise key has {len(key)} bytes; it must have {KEY_BYTES}")
        self._key = key

    def keystream(self, purpose: bytes, step: int, block: int = 0) -> CipherContext:
        """Return the keystream of one use from one of its 64-byte blocks on.

        Args:
            purpose: four bytes naming the use; part of the nonce.
            step: number of the mechanism application; part of the nonce.
            block: number of the first block.

        Raises:
            ValueError: the purpose does not have four bytes.
        """
        if len(purpose) != 4:
            raise ValueError("the purpose of a keystream is named by exactly four bytes")
        # RFC 8439 block counter (32 bits) followed by the 96-bit nonce.
        nonce = block.to_bytes(4, "little") + purpose + step.to_bytes(8, "little")
        return Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor()

    def uniform(self, purpose: bytes, step: int, count: int) -> torch.Tensor:
        """Return ``count`` float64 numbers, uniform on the 2⁵² multiples of 2⁻⁵² in [0, 1)."""
        words = np.empty(count, dtype=np.int64)
        _overwrite(self.keystream(purpose, step), words)
        return torch.from_numpy((words & _UNIT_BITS) * 2.0**-52)

    def gaussian(self, purpose: bytes, step: int, count: int) -> torch.Tensor:
        """Return ``count`` float64 standard normal numbers."""
        return gaussians([self], purpose, step, count)[0]


@dataclass(frozen=True)
class Mechanism:
    """One row of ``add_noise``: whose noise, and of which standard deviation (above zero)."""

    row: int
    stream: SecretStream
    deviation: float


def lattice_step(deviation: float) -> float:
    """Return Δ, the power of two to whose multiples a sum with noise of this standard deviation is rounded."""
    return math.ldexp(1.0, math.frexp(deviation)[1] - 1 - LATTICE_BITS)


def add_noise(sums: torch.Tensor, mechanisms: list[Mechanism], purpose: bytes, step: int) -> torch.Tensor:
    """Return the sums with Gaussian noise, on each row's public lattice; rows without a mechanism stay as they are.

    Args:
        sums: ``(rows, size)`` of any float dtype. Noise is made on the processor wherever they live.
        mechanisms: at most one for a row.
        purpose: four bytes naming the use.
        step: number of the mechanism application.
    """
    noisy = sums.detach().to("cpu", copy=True)
    values = noisy.numpy()
    _in_parallel([_Tile(*tile, purpose, step, values) for tile in _tiles(mechanisms, noisy.shape[1])])
    return noisy.to(sums.device)


def gaussians(streams: list[SecretStream], purpose: bytes, step: int, count: int) -> torch.Tensor:
    """Return standard normal numbers ``(streams, count)`` in float64, one row from each stream.

    A stream gives the same row whichever streams stand beside it; ``add_noise`` adds these numbers times the deviation.
    """
    out = torch.empty(len(streams), count, dtype=torch.float64)
    unit = [Mechanism(row, stream, 1.0) for row, stream in enumerate(streams)]
    values = out.numpy()
    _in_parallel([_Tile(*tile, purpose, step, values, plain=True) for tile in _tiles(unit, count)])
    return out


def _tiles(mechanisms: list[Mechanism], count: int) -> Iterator[tuple[list[Mechanism], int, int]]:
    """Cut rows × numbers into tiles (mechanisms, first number, pairs) of at most ``BLOCK_PAIRS`` pairs."""
    for first in range(0, count, 2 * BLOCK_PAIRS):
        pairs = min(BLOCK_PAIRS, (count - first + 1) // 2)
        together = BLOCK_PAIRS // pairs
        for at in range(0, len(mechanisms), together):
            yield mechanisms[at : at + together], first, pairs


@dataclass(frozen=True)
class _Tile:
    """A block of numbers of one or more short rows, small enough for a core's own cache."""

    mechanisms: list[Mechanism]
    first: int
    pairs: int
    purpose: bytes
    step: int
    values: npt.NDArray[np.floating]  # (rows, size), changed in place
    plain: bool = False  # write standard normal numbers instead of adding noise

    def fill(self) -> None:
        columns = slice(self.first, self.first + 2 * self.pairs)
        if self.plain:
            scales = np.ones((len(self.mechanisms), 1))
            numbers = self._normals(scales)
            for row, mechanism in enumerate(self.mechanisms):
                part = self.values[mechanism.row, columns]
                part[:] = numbers[row, : len(part)]
            return
        steps = [lattice_step(m.deviation) for m in self.mechanisms]
        # In units of the lattice: scaling by a power of two is exact, so the sum is rounded once and then to a whole.
        scales = np.array([m.deviation / step for m, step in zip(self.mechanisms, steps, strict=True)])[
            :, None
        ]
        numbers = self._normals(scales)
        for row, (mechanism, step) in enumerate(zip(self.mechanisms, steps, strict=True)):
            part = self.values[mechanism.row, columns]
            total = numbers[row, : len(part)]
            exact = part.astype(np.float64)
            exact *= 1.0 / step
            exact += total
            np.rint(exact, out=exact)
            exact *= step
            part[:] = exact

    def _normals(self, scales: Floats) -> Floats:
        words = np.empty((len(self.mechanisms), 2, self.pairs), dtype=np.int64)
        block = self.first * 8 // _BLOCK_BYTES
        for row, mechanism in zip(words, self.mechanisms, strict=True):
            _overwrite(mechanism.stream.keystream(self.purpose, self.step, block), row)
        magnitudes = magnitudes_of(words[:, 0])
        if magnitudes.min() < _REFINED_BELOW:
            for row, pair in np.argwhere(magnitudes < _REFINED_BELOW):
                magnitudes[row, pair] += self._further_bits(row, pair) - 0.5
        return box_muller(magnitudes, words[:, 1], scales)

    def _further_bits(self, row: int, pair: int) -> float:
        """Return a number uniform in (0, 1) that belongs to this pair alone."""
        number = self.first // 2 + int(pair)
        block, word = divmod(number, _BLOCK_BYTES // 8)
        keystream = self.mechanisms[row].stream.keystream(self.purpose, self.step + _SECOND, block)
        octets = keystream.update(bytes(_BLOCK_BYTES))[8 * word : 8 * word + 8]
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


def _in_parallel(tiles: list[_Tile]) -> None:
    """Fill all tiles with as many threads as torch computes with."""
    workers = min(len(tiles), torch.get_num_threads())
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


def _overwrite(keystream: CipherContext, words: Words) -> None:
    """Overwrite contiguous ``words`` with keystream."""
    keystream.update_into(_zeros(words.nbytes), words.reshape(-1).data.cast("B"))


@lru_cache(maxsize=8)
def _zeros(size: int) -> bytes:
    """Return the plaintext whose encryption is the keystream itself."""
    return bytes(size)


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
    drawn: list[int] = (
        torch.nonzero(stream.uniform(PURPOSE_DRAW, step, users) < sample_rate).flatten().tolist()
    )
    return drawn
