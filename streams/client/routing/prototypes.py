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
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import PrototypeError
from .features import BUCKETS, FEATURES_VERSION, features_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_PROMPTS: Final = 3
_SMOOTHING: Final = 0.5  # of a count, so that what one prompt says once does not decide alone
_LARGEST: Final = 3.0  # of one feature's log-odds
_NEAREST: Final = 3  # of the line's own prompts
_NEAREST_PUBLIC: Final = 5
_NEAREST_SHARE: Final = (
    0.3  # of the score by meaning; the rest is the direction from public questions to the line
)


class Encoder(Protocol):
    """Turns texts into vectors of length 1 whose products say how near two meanings are."""

    @property
    def name(self) -> str:
        """What made the vectors; scores of another name do not compare."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector for each text."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a line's prompts mean, against public questions.

    Attributes:
        encoder: what made the vectors.
        direction: from the mean of public questions to the mean of the line's prompts.
        prompts: vectors of the line's prompts; no word can be read from them, but who knows a prompt finds it.
        public: vectors of public questions, the same for every line of an encoder.
    """

    encoder: str
    direction: npt.NDArray[np.float32] = field(repr=False)
    prompts: npt.NDArray[np.float32] = field(repr=False)
    public: npt.NDArray[np.float32] = field(repr=False)

    def score(self, vector: npt.NDArray[np.float32]) -> float:
        """Return how much nearer a prompt is to the line than to public questions; 0 is as near to both."""
        own, public = np.sort(self.prompts @ vector), np.sort(self.public @ vector)
        nearer = own[-_NEAREST:].mean() - public[-_NEAREST_PUBLIC:].mean()
        return float(vector @ self.direction + _NEAREST_SHARE * nearer)


@dataclass(frozen=True, kw_only=True)
class Prototype:
    """Weight of each bucket for a line, against public questions.

    Attributes:
        version: digest of the prompts and of how features are made; no prompt can be read from it.
        weights: float32 ``(BUCKETS,)``.
        meaning: what the prompts mean; None where nothing reads meanings.
    """

    version: str
    weights: npt.NDArray[np.float32] = field(repr=False)
    meaning: Meaning | None = None


def prototype_of(prompts: Sequence[str], encoder: Encoder | None = None) -> Prototype:
    """Make a line's prototype.

    Args:
        prompts: what is asked of this line; public, or written by its operator.
        encoder: reads meanings, some ten milliseconds a prompt; None: words alone.

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
    read: list[Any] = [FEATURES_VERSION, kept] if encoder is None else [FEATURES_VERSION, kept, encoder.name]
    told = json.dumps(read, ensure_ascii=False).encode()
    return Prototype(
        version="sha256:" + hashlib.sha256(told).hexdigest(),
        weights=weights.astype(np.float32),
        meaning=None if encoder is None else _meaning(kept, encoder),
    )


def _meaning(prompts: Sequence[str], encoder: Encoder) -> Meaning:
    own, public = encoder.embed(prompts), _public(encoder)
    return Meaning(encoder=encoder.name, direction=own.mean(0) - public.mean(0), prompts=own, public=public)


_PUBLIC: Final[dict[str, npt.NDArray[np.float32]]] = {}  # by encoder


def _public(encoder: Encoder) -> npt.NDArray[np.float32]:
    """Return what public questions mean to an encoder; read once for all lines."""
    if encoder.name not in _PUBLIC:
        _PUBLIC[encoder.name] = encoder.embed(_questions())
    return _PUBLIC[encoder.name]


def _shares(prompts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return in how many prompts each bucket occurs: a prompt that repeats a word says it once."""
    found = features_of(prompts)
    owner = np.repeat(np.arange(len(prompts)), found.counts)
    pairs = np.unique(owner * BUCKETS + found.buckets)
    return np.bincount(pairs % BUCKETS, minlength=BUCKETS).astype(np.float64)


@lru_cache(maxsize=1)
def _background() -> npt.NDArray[np.float64]:
    """Return the log-share of each bucket in public questions."""
    counts = _shares(_questions())
    shares: npt.NDArray[np.float64] = np.log((counts + _SMOOTHING) / (counts.sum() + _SMOOTHING * BUCKETS))
    return shares


@lru_cache(maxsize=1)
def _questions() -> tuple[str, ...]:
    return tuple(json.loads((resources.files(__package__) / "questions.json").read_text("utf-8")))
