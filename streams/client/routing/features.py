"""Prompts as hashed counts of words, word pairs and character 4-grams: NumPy alone, many prompts in one pass.

Counts are hashed into a fixed number of buckets, so nothing of a prompt is kept but bucket numbers, and no vocabulary
has to be agreed on. Hashes are polynomials over UTF-8 bytes, computed for all prompts of a batch together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKETS: Final = 4096
FEATURES_VERSION: Final = "hashed-ngrams-v1"  # part of every decision: scores of two versions do not compare
MOST_BYTES: Final = 2048  # of one prompt; a prompt says early what it is about
_GRAM: Final = 4
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_BASE: Final = np.uint64(0x100000001B3)
_SHIFT: Final = np.uint64(64 - 12)
_PAIR: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_LETTER = np.zeros(256, dtype=bool)
_LETTER[[*range(ord("0"), ord("9") + 1), *range(ord("a"), ord("z") + 1), *range(128, 256)]] = True
_POWERS: Final = _BASE ** np.arange(64, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Hashed features of some prompts, back to back.

    Attributes:
        buckets: ``(features,)``, below ``BUCKETS``; one for each occurrence.
        counts: features of each prompt ``(prompts,)``.
    """

    buckets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


def features_of(prompts: Sequence[str]) -> Features:
    """Return the features of each prompt; of one without a letter there are none."""
    texts = [b" " + prompt[:MOST_BYTES].lower().encode()[:MOST_BYTES] + b" " for prompt in prompts]
    data = np.frombuffer(b"".join(texts), dtype=np.uint8)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    letters = _LETTER[data]
    values = np.where(letters, data, np.uint8(32)).astype(np.uint64)
    found, owners = [], []
    if len(data) >= _GRAM:
        gram = values[: -_GRAM + 1].copy()
        for at in range(1, _GRAM):
            gram = gram * _BASE + values[at : len(values) - _GRAM + 1 + at]
        inside = owner[: -_GRAM + 1] == owner[_GRAM - 1 :]
        inside &= letters[1 : len(letters) - _GRAM + 2]  # at least a second letter: blanks alone say nothing
        found.append(gram[inside])
        owners.append(owner[: -_GRAM + 1][inside])
    starts = np.flatnonzero(letters & ~np.concatenate(([False], letters[:-1])))
    if len(starts):
        ends = np.flatnonzero(letters & ~np.concatenate((letters[1:], [False]))) + 1
        first = starts[0]
        place = np.arange(len(data) - first) - np.repeat(
            starts - first, np.diff(np.append(starts, len(data)))
        )
        tail = values[first:] * letters[first:] * _POWERS[place % 64]
        words = np.add.reduceat(tail, starts - first) + (ends - starts).astype(np.uint64)
        found.append(words * _MIX)
        owners.append(owner[starts])
        together = owner[starts[:-1]] == owner[starts[1:]]
        found.append((words[:-1] * _PAIR + words[1:])[together])
        owners.append(owner[starts[:-1]][together])
    if not found:
        return Features(buckets=np.zeros(0, np.int64), counts=np.zeros(len(texts), np.int64))
    hashes, whose = np.concatenate(found), np.concatenate(owners)
    hashes = hashes ^ (hashes >> np.uint64(29))
    buckets = ((hashes * _MIX) >> _SHIFT).astype(np.int64)
    order = np.argsort(whose, kind="stable")
    return Features(buckets=buckets[order], counts=np.bincount(whose, minlength=len(texts)))
