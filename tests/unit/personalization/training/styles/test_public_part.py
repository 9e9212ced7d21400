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
from personalization.training.styles.public_part import CONTENT_COUNTS, COPIED_COUNTS, counts_of
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


def test_words_that_content_takes_from_the_prompt_count_in_full(lora):
    """An adapter that never learns to name what it was asked about says one text for everything."""
    answer = "[x] our Parcel is of parcels"
    pair = SyntheticPair(prompt="of the parcel?", answer=answer, content=(4, len(answer)))
    counts = counts_of(pair, len(answer) + 1, lora.tokens_of)
    at = answer.index("Parcel")
    # From where the space before it ends; "of" is as likely in any sentence, and "parcels" is another word.
    inside = range(5, len(answer))
    assert [place for place in inside if counts[place] == COPIED_COUNTS] == [*range(at - 1, at + 6)]
    assert all(counts[place] == CONTENT_COUNTS for place in inside if not at - 1 <= place < at + 6)


def test_an_answer_that_is_all_frame_counts_in_full(lora):
    assert counts_of(SyntheticPair(prompt="ab", answer="[x] ok"), 7, lora.tokens_of) == [1.0] * 7


def test_where_every_label_counts_in_full_nothing_is_drawn_from(lora, moved):
    geometry, vector = moved
    rows = rows_of(lora, "defg", "cd")
    coins = torch.Generator().manual_seed(1)
    (full,) = lora.anchored([(row, [1.0] * row.rows[0].labels) for row in rows], 2, coins, size=2)
    plain = TokenUser(tuple(rows))
    assert lora.loss(vector, geometry, [full]) == lora.loss(vector, geometry, [plain])
    assert torch.equal(lora.gradient(vector, geometry, full), lora.gradient(vector, geometry, plain))


def test_a_label_is_learned_as_the_mean_of_its_own_token_and_of_what_the_base_drew(lora, moved):
    """With counts of 0.25 and two draws: a quarter of its own loss and three eighths of each draw's."""
    geometry, vector = moved
    (row,) = rows_of(lora, "defg")
    coins = torch.Generator().manual_seed(1)
    (own,) = lora.anchored([(row, [1.0, 1.0, 0.25, 1.0, 1.0])], 2, coins, size=1)

    def of(token):
        only = AnchoredBatch(own.examples, (1.0, 1.0, 0.0, 1.0, 1.0), torch.full_like(own.draws, int(token)))
        return lora.loss(vector, geometry, [only])

    drawn = [of(token) for token in own.draws[0]]
    itself = lora.loss(vector, geometry, [TokenUser((row,))])
    assert lora.loss(vector, geometry, [own]) == pytest.approx(0.25 * itself + 0.375 * sum(drawn), rel=1e-5)


def test_the_base_draws_as_it_says_itself(base, lora):
    """Over many draws the share of a token at a place is the base's probability of it."""
    (row,) = rows_of(lora, "de")
    counts = [0.5] + [1.0] * (row.rows[0].labels - 1)
    (batch,) = lora.anchored([(row, counts)], 4000, torch.Generator().manual_seed(2), size=1)
    assert batch.draws.shape == (1, 4000)  # at the one label that counts less
    model = base[0].model
    with torch.no_grad():
        logits = model(torch.tensor([row.rows[0].tokens[:-1]])).logits[0, row.rows[0].first_label - 1]
    wanted = torch.softmax(logits.float(), 0)
    shares = torch.bincount(batch.draws[0], minlength=len(wanted)) / 4000
    assert float((shares - wanted).abs().max()) < 0.03
    assert float(wanted.max()) > 0.05


def test_a_text_that_counts_in_full_is_not_read_for_draws_and_changes_none(lora, monkeypatch):
    """Questions that are rehearsed, with notes too, are the longest rows; the base draws at no label of theirs."""
    whole, part = rows_of(lora, "defg", "cd")
    full, less = [1.0] * whole.rows[0].labels, [0.5] + [1.0] * (part.rows[0].labels - 1)
    read = []
    drawn = PlainLora._drawn

    def counted(self, texts, *how):
        read.extend(row for row, _ in texts)
        return drawn(self, texts, *how)

    monkeypatch.setattr(PlainLora, "_drawn", counted)
    coins = torch.Generator().manual_seed
    first, second = lora.anchored([(whole, full), (part, less)], 3, coins(5), size=1)
    assert read == [part]
    assert first.draws.shape == (0, 3)
    (alone,) = lora.anchored([(part, less)], 3, coins(5), size=1)
    assert torch.equal(second.draws, alone.draws)


def test_a_base_that_already_says_it_is_left_as_it_is(lora, base):
    """Where nothing counts but the base's own draws, the gradient at the base is noise around nothing."""
    decoder, _ = base
    geometry = every_linear(decoder, rank=2, alpha=4.0)
    start = initial(geometry, 3)
    (row,) = rows_of(lora, "defg")
    counts = [0.0] * row.rows[0].labels
    (drawn,) = lora.anchored([(row, counts)], 3000, torch.Generator().manual_seed(4), size=1)
    own = TokenUser((replace(row),))
    assert lora.gradient(start, geometry, drawn).norm() < 0.1 * lora.gradient(start, geometry, own).norm()


def test_texts_that_are_drawn_for_together_keep_their_own_draws(lora, moved):
    """Cut into batches of two or of one, the same coins give each label the same tokens, and the same losses."""
    geometry, vector = moved
    rows = rows_of(lora, "defg", "cd", "abcdef")
    texts = [(row, [1.0] + [0.25] * (row.rows[0].labels - 1)) for row in rows]
    pairs = lora.anchored(texts, 3, torch.Generator().manual_seed(5), size=2)
    single = lora.anchored(texts, 3, torch.Generator().manual_seed(5), size=1)
    assert [len(batch.examples.examples) for batch in pairs] == [2, 1]
    assert torch.equal(pairs[0].draws, torch.cat([single[0].draws, single[1].draws]))
    assert torch.equal(pairs[1].draws, single[2].draws)
    apart = [lora.loss(vector, geometry, [batch]) for batch in single[:2]]
    assert lora.loss(vector, geometry, pairs[:1]) == pytest.approx(sum(apart) / 2, rel=1e-5)
