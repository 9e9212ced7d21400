"""An embedder of words alone, so that tests of memory need no weights: texts with the same words are near."""

from __future__ import annotations

import hashlib

import numpy as np

from personalization.memory.embedding import DIMENSIONS
from personalization.memory.ranking import words_of


class WordHashes:
    """Each word is a direction; words with one meaning may share it."""

    name = "word-hashes"

    def __init__(self, same=()):
        self._same = {word: group[0] for group in same for word in group}
        self.embedded = []

    def embed(self, texts):
        self.embedded += texts
        vectors = np.full((len(texts), DIMENSIONS), 1e-6, np.float32)
        for row, text in enumerate(texts):
            for word in words_of(text):
                digest = hashlib.sha256(self._same.get(word, word).encode()).digest()
                vectors[row, int.from_bytes(digest[:4], "big") % DIMENSIONS] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
