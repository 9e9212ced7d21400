"""Text to token rows."""

from __future__ import annotations

from personalization.training.engine.encoding import Encoder
from tests.fakes.tiny_models import tiny_tokenizer


def test_of_a_continuation_only_the_rest_is_predicted():
    encoder = Encoder(tiny_tokenizer(), 2)
    row = encoder.continuation("abc", "de de", " fg", 60)
    whole = encoder.row("abc", "de de", 60)
    assert row.tokens[: row.first_label] == whole.tokens[:-1]
    rest = encoder.tokenizer(" fg", add_special_tokens=False)["input_ids"]
    assert row.tokens[row.first_label :] == (*rest, 2)
    assert encoder.continuation("abc", "de " * 40, " fg", 60) is None
