"""A private part is released as strong as greedy answers stay sound with it."""

from __future__ import annotations

import pytest
import torch

from personalization.planning.plan import FEED_FORWARD, PerformanceFlags
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.portable import read_factors
from personalization.training.jobs.job import TenantJob, TrainingJob
from personalization.training.run import fused
from personalization.training.run.fused import train
from personalization.training.styles import foundation, public_part, strength
from personalization.training.styles.strength import MORE, STRENGTHS, probe_prompts, soundest, unsound_share
from tests.fakes.tiny_models import damped_plan, make_users, style_card, write_tiny_base

FLAGS = PerformanceFlags(device="cpu")


def told(shares, without=0.0):
    """The strength chosen where shares are as given, and the strengths that were tried."""
    tried = []

    def share_at(at):
        tried.append(at)
        return shares[STRENGTHS.index(at)]

    return soundest(share_at, lambda: without), tried


def test_a_sound_private_part_is_released_whole_after_one_look():
    assert told([MORE, 0.0, 0.0, 0.0, 0.0]) == (1.0, [1.0])


def test_the_largest_strength_within_the_limit_is_taken():
    assert told([0.5, 0.3, 0.01, 0.0, 0.0]) == (STRENGTHS[2], [1.0, STRENGTHS[2], STRENGTHS[1]])
    assert told([0.5, 0.01, 0.0, 0.0, 0.0])[0] == STRENGTHS[1]
    assert told([0.5, 0.3, 0.3, 0.3, 0.02])[0] == STRENGTHS[4]


def test_the_limit_is_that_of_the_public_part_alone():
    assert told([0.25, 0.2, 0.0, 0.0, 0.0], without=0.25)[0] == 1.0
    assert told([0.5, 0.25, 0.0, 0.0, 0.0], without=0.24)[0] == STRENGTHS[1]


def test_where_none_is_within_it_the_soundest_is_taken_and_of_two_the_stronger():
    assert told([0.5, 0.4, 0.3, 0.3, 0.4])[0] == STRENGTHS[2]


def test_prompts_are_made_of_the_card_and_nothing_is_trained_on_them():
    card = style_card()
    prompts = probe_prompts(card)
    assert prompts == probe_prompts(card)
    assert len(prompts) == strength.ASKED
    made = {
        one.prompt
        for seed in (public_part._TRAIN_SEED, public_part._HELD_OUT_SEED)
        for one in public_part._made(card, public_part.PAIRS, seed)
    }
    assert len(made & set(prompts)) < len(prompts) / 4  # short ones may come twice by chance
    # Two thirds are longer than any that is trained on.
    longer = sum("\n" in prompt for prompt in prompts)
    assert longer >= len(prompts) // 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def test_answers_in_circles_are_counted_on_the_model_itself(base):
    decoder, encoder = loaded_base(base, FLAGS)
    head = decoder.model.get_output_embeddings().weight
    before = head.detach().clone()
    prompts = ("file 1", "file 2")
    with torch.no_grad():  # a model that says one and the same word
        head.zero_()
        word = encoder.tokenizer("a", add_special_tokens=False)["input_ids"][0]
        head[word] = decoder.model.model.norm.weight * 0 + 1e-9
    try:
        assert unsound_share(decoder, encoder, prompts) == 1.0
    finally:
        with torch.no_grad():
            head.copy_(before)


def test_a_release_holds_as_much_of_the_private_part_as_was_chosen(base, tmp_path, monkeypatch):
    for name, value in (("PAIRS", 16), ("HELD_OUT", 8), ("REHEARSED", 6), ("INSTRUCTED", 2)):
        monkeypatch.setattr(public_part, name, value)
    monkeypatch.setattr(foundation, "LARGEST_CHANGE", 1e9)
    monkeypatch.setattr(fused, "LARGEST_CHANGE", 1e9)
    tenant = TenantJob(
        job_key="a",
        plan=damped_plan(rank=4, max_tokens=60, steps=2),
        users=make_users((3,), (5, 2)),
        noise_key=bytes(32),
        card=style_card(),
    )
    seen: list[float] = []

    def shares(*found):
        left = iter(found)

        def next_share(decoder, _encoder, _prompts):
            seen.append(float(decoder.linear(2, FEED_FORWARD[0]).weight.double().norm()))
            return next(left)

        return next_share

    def core(folder):
        factors, _ = read_factors(folder)
        return {key: up.double() @ down.double() for key, (down, up) in factors.items() if key[0] == 2}

    def released(name):
        job = TrainingJob(base_model=str(base), tenants=(tenant,), output=tmp_path / name, flags=FLAGS)
        (result,) = train(job, lambda _p: None)
        return result

    monkeypatch.setattr(fused, "unsound_share", shares(0.0))
    whole = released("whole")
    monkeypatch.setattr(fused, "unsound_share", shares(0.9, 0.1, 0.0, 0.5))
    weak = released("weak")  # whole, without, at 0.6, at 0.8
    assert whole.public_part.private_strength == 1.0
    assert weak.public_part.private_strength == STRENGTHS[2]
    assert len(set(seen[1:])) == 4  # four models were looked at
    assert weak.delta_norm == pytest.approx(STRENGTHS[2] * whole.delta_norm, rel=1e-6)
    full, part = core(whole.adapter), core(weak.adapter)
    for suffix in FEED_FORWARD:
        torch.testing.assert_close(part[2, suffix], STRENGTHS[2] * full[2, suffix], rtol=1e-4, atol=1e-8)
