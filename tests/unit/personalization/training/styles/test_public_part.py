"""Inside made-up content the public part learns mostly what the base says there; frames are learned in full."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from personalization.planning.plan import PerformanceFlags
from personalization.styles.synthesis import SyntheticPair
from personalization.training.engine.encoding import TokenUser
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.plain_lora import AnchoredBatch, PlainLora, every_linear, initial
from personalization.training.jobs.job import Example
from personalization.training.styles.public_part import CONTENT_COUNTS, counts_of
from tests.fakes.tiny_models import write_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_tiny_base(tmp_path_factory.mktemp("base"), layers=2)
    return loaded_base(folder, PerformanceFlags(device="cpu"))


@pytest.fixture(scope="module")
def lora(base):
    return PlainLora(*base)


@pytest.fixture(scope="module")
def moved(base):
    """A layout and a vector that change what the base says."""
    geometry = every_linear(base[0], rank=2, alpha=4.0)
    return geometry, initial(geometry, 3) + 0.02


def rows_of(lora, *answers):
    return lora.encoded([Example(prompt="abc", completion=answer) for answer in answers], 60)


def test_labels_inside_content_count_less_and_all_others_in_full(lora):
    pair = SyntheticPair(prompt="ab", answer="[x] hey you | ok", content=(4, 11))
    counts = counts_of(pair, len(pair.answer) + 1, lora.tokens_of)  # one token a character, and the end
    # The space before content is taken with its first token, as tokenizers of words do; so "h" is inside here.
    assert [at for at, count in enumerate(counts) if count != 1.0] == list(range(4, 11))
    assert set(counts) == {1.0, CONTENT_COUNTS}


def test_an_answer_that_is_all_frame_counts_in_full(lora):
    assert counts_of(SyntheticPair(prompt="ab", answer="[x] ok"), 7, lora.tokens_of) == [1.0] * 7


def test_where_every_label_counts_in_full_nothing_is_drawn_from(lora, moved):
    geometry, vector = moved
    rows = rows_of(lora, "defg", "cd")
    full = lora.anchored(
        [(row, [1.0] * row.rows[0].labels) for row in rows], 2, torch.Generator().manual_seed(1)
    )
    plain = TokenUser(tuple(rows))
    assert lora.loss(vector, geometry, [full]) == lora.loss(vector, geometry, [plain])
    assert torch.equal(lora.gradient(vector, geometry, full), lora.gradient(vector, geometry, plain))


def test_a_label_is_learned_as_the_mean_of_its_own_token_and_of_what_the_base_drew(lora, moved):
    """With counts of 0.25 and two draws: a quarter of its own loss and three eighths of each draw's."""
    geometry, vector = moved
    (row,) = rows_of(lora, "defg")
    own = lora.anchored([(row, [1.0, 1.0, 0.25, 1.0, 1.0])], 2, torch.Generator().manual_seed(1))

    def of(token):
        only = AnchoredBatch(own.examples, (1.0, 1.0, 0.0, 1.0, 1.0), torch.full_like(own.draws, int(token)))
        return lora.loss(vector, geometry, [only])

    drawn = [of(token) for token in own.draws[:, 2]]
    itself = lora.loss(vector, geometry, [TokenUser((row,))])
    assert lora.loss(vector, geometry, [own]) == pytest.approx(0.25 * itself + 0.375 * sum(drawn), rel=1e-5)


def test_the_base_draws_as_it_says_itself(base, lora):
    """Over many draws the share of a token at a place is the base's probability of it."""
    (row,) = rows_of(lora, "de")
    batch = lora.anchored([(row, [1.0] * row.rows[0].labels)], 4000, torch.Generator().manual_seed(2))
    model = base[0].model
    with torch.no_grad():
        logits = model(torch.tensor([row.rows[0].tokens[:-1]])).logits[0, row.rows[0].first_label - 1]
    wanted = torch.softmax(logits.float(), 0)
    shares = torch.bincount(batch.draws[:, 0], minlength=len(wanted)) / 4000
    assert float((shares - wanted).abs().max()) < 0.03
    assert float(wanted.max()) > 0.05


def test_a_base_that_already_says_it_is_left_as_it_is(lora, base):
    """Where nothing counts but the base's own draws, the gradient at the base is noise around nothing."""
    decoder, _ = base
    geometry = every_linear(decoder, rank=2, alpha=4.0)
    start = initial(geometry, 3)
    (row,) = rows_of(lora, "defg")
    counts = [0.0] * row.rows[0].labels
    drawn = lora.anchored([(row, counts)], 3000, torch.Generator().manual_seed(4))
    own = TokenUser((replace(row),))
    assert lora.gradient(start, geometry, drawn).norm() < 0.1 * lora.gradient(start, geometry, own).norm()
