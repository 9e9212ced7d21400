"""What a line is about, from prompts that are public or that its operator wrote: log-odds of hashed features.

Each line is compared with public questions of the project's own writing, the same for every line, so lines are made and
replaced one by one. Nothing private is read: prompts come from the operator, or from the prompt forms of a released
style card.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from ..errors import PrototypeError
from .features import BUCKETS, FEATURES_VERSION, features_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_PROMPTS: Final = 3
_SMOOTHING: Final = 0.5  # of a count, so that what one prompt says once does not decide alone
_LARGEST: Final = 3.0  # of one feature's log-odds


@dataclass(frozen=True, kw_only=True)
class Prototype:
    """Weight of each bucket for a line, against public questions.

    Attributes:
        version: digest of the prompts and of how features are made; no prompt can be read from it.
        weights: float32 ``(BUCKETS,)``.
    """

    version: str
    weights: npt.NDArray[np.float32] = field(repr=False)


def prototype_of(prompts: Sequence[str]) -> Prototype:
    """Make a line's prototype.

    Args:
        prompts: what is asked of this line; public, or written by its operator.

    Raises:
        PrototypeError: fewer than ``FEWEST_PROMPTS``, or texts without a letter.
    """
    kept = sorted({prompt.strip() for prompt in prompts} - {""})
    if len(kept) < FEWEST_PROMPTS:
        raise PrototypeError(
            f"a line is known by {len(kept)} prompts; write at least {FEWEST_PROMPTS} that differ"
        )
    counts = _shares(kept)
    if not counts.any():
        raise PrototypeError("the line's prompts hold no letter; write what users ask of it")
    background = _background()
    total = counts.sum()
    odds = np.log((counts + _SMOOTHING) / (total + _SMOOTHING * BUCKETS)) - background
    seen = counts > 0
    weights = np.where(seen, np.clip(odds, -_LARGEST, _LARGEST), np.minimum(odds, 0.0).clip(-0.5))
    told = json.dumps([FEATURES_VERSION, kept], ensure_ascii=False).encode()
    return Prototype(version="sha256:" + hashlib.sha256(told).hexdigest(), weights=weights.astype(np.float32))


def _shares(prompts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return in how many prompts each bucket occurs: a prompt that repeats a word says it once."""
    found = features_of(prompts)
    owner = np.repeat(np.arange(len(prompts)), found.counts)
    pairs = np.unique(owner * BUCKETS + found.buckets)
    return np.bincount(pairs % BUCKETS, minlength=BUCKETS).astype(np.float64)


@lru_cache(maxsize=1)
def _background() -> npt.NDArray[np.float64]:
    """Return the log-share of each bucket in public questions."""
    questions = json.loads((resources.files(__package__) / "questions.json").read_text("utf-8"))
    counts = _shares(questions)
    shares: npt.NDArray[np.float64] = np.log((counts + _SMOOTHING) / (counts.sum() + _SMOOTHING * BUCKETS))
    return shares
