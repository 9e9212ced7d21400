"""Names that are favoured piece after piece, until they were said."""

from __future__ import annotations

import torch

from personalization.training.engine.favoured import FavouredNames, favoured

NAME = [3, 4, 5]


def likelier(*said, spellings=(NAME,), prompt=(3, 4)):
    """Return the tokens that become likelier after these, and check by how much."""
    ids = torch.tensor([[*prompt, *said]])
    more = FavouredNames(spellings, 2.0, len(prompt))(ids, torch.zeros(1, 8))
    assert set(more.unique().tolist()) <= {0.0, 2.0}
    return more[0].nonzero().flatten().tolist()


def test_the_first_piece_is_favoured_until_a_name_was_said_and_then_the_next_ones():
    assert likelier() == [3], "what the prompt holds was not said"
    assert likelier(3) == [4]
    assert likelier(1, 3, 4) == [5]
    assert likelier(3, 4, 5) == []
    assert likelier(3, 4, 5, 1, 3) == [4], "it is said again to its end"
    assert likelier(3, 1) == [3]


def test_each_name_and_spelling_counts_for_itself_and_each_answer_for_itself():
    assert likelier(3, 4, 5, spellings=(NAME, [6], [])) == [6]
    ids = torch.tensor([[0, 3], [0, 1]])
    more = FavouredNames([NAME], 2.0, 1)(ids, torch.zeros(2, 8))
    assert more.nonzero().tolist() == [[0, 4], [1, 3]]


def test_no_names_are_no_processor():
    assert list(favoured(None, (), 2.0, 1)) == []
