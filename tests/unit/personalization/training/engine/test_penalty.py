"""The penalty on tokens that an answer holds already."""

import torch

from personalization.training.engine.penalty import PresencePenalty, penalized


def test_what_the_answer_holds_loses_the_same_however_often_and_the_prompt_counts_for_nothing():
    ids = torch.tensor([[0, 1, 2, 2, 2], [3, 3, 4, 0, 4]])  # two tokens of prompt, three of answer
    left = PresencePenalty(1.5, 2)(ids, torch.zeros(2, 6))
    assert left.tolist() == [[0, 0, -1.5, 0, 0, 0], [-1.5, 0, 0, 0, -1.5, 0]]


def test_before_the_first_token_nothing_is_taken():
    scores = torch.randn(1, 6)
    assert torch.equal(PresencePenalty(1.5, 2)(torch.tensor([[1, 2]]), scores), scores)


def test_no_penalty_is_no_processor():
    assert penalized(0.0, 2) is None
    (one,) = penalized(1.5, 2)
    assert isinstance(one, PresencePenalty)
