"""Serving an adapter from the weights, answers as transformers gives them, and verdicts against the base."""

from __future__ import annotations

import pytest
import torch

from personalization.planning.plan import PerformanceFlags
from personalization.quality.answers import answers_to
from personalization.quality.judge import Judge
from personalization.quality.likelihood import likelihood
from personalization.quality.served import served
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.plain_lora import every_linear, without_frozen
from personalization.training.engine.portable import export_adapter
from personalization.training.jobs.job import Example, UserExamples
from personalization.training.run.measure import generate, nll_per_user
from tests.fakes.tiny_models import write_tiny_base

USERS = tuple(
    UserExamples(
        examples=tuple(Example(prompt=f"p{user}{turn}", completion=f"no: {user}") for turn in range(2))
    )
    for user in range(6)
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_tiny_base(tmp_path_factory.mktemp("base"), "mistral", layers=2)
    return folder, *loaded_base(folder, PerformanceFlags(device="cpu"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder, decoder, _ = base
    geometry = every_linear(decoder, rank=2, alpha=4.0)
    vector = torch.randn(geometry.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.2
    path = tmp_path_factory.mktemp("adapters") / "one"
    export_adapter(path, geometry, vector, without_frozen(geometry), str(folder))
    return path


def test_weights_with_an_adapter_are_the_model_that_peft_serves(base, adapter):
    folder, decoder, encoder = base
    prompts = ["p00", "a longer prompt"]
    with served(decoder, adapter) as model:
        found = likelihood(model, encoder, USERS, max_tokens=60)
        texts = [answer.text for answer in answers_to(model, encoder, prompts, limit=6)]
    assert found.losses == pytest.approx(nll_per_user(folder, adapter, USERS, max_tokens=60), rel=1e-4)
    assert texts == generate(folder, adapter, prompts, max_new_tokens=6)


def test_the_base_is_its_own_again_bit_for_bit(base, adapter):
    _, decoder, _ = base
    before = decoder.linear(0, "q_proj").weight.clone()
    with pytest.raises(RuntimeError, match="in between"), served(decoder, adapter):
        assert not torch.equal(before, decoder.linear(0, "q_proj").weight)
        raise RuntimeError("in between")
    assert torch.equal(before, decoder.linear(0, "q_proj").weight)


def test_places_of_labels_make_up_the_loss(base):
    _, decoder, encoder = base
    one = (UserExamples(examples=(Example(prompt="p", completion="abcdef"),)),)  # six letters and an end
    found = likelihood(decoder, encoder, one, max_tokens=60)
    places = found.by_place
    assert found.mean == pytest.approx((places["first"] + 3 * places["2-4"] + 3 * places["5+"]) / 7, rel=1e-5)


def test_drawn_answers_repeat_with_their_seed_and_openings_are_kept(base, adapter):
    _, decoder, encoder = base
    prompts = ["one", "two", "three"]
    with served(decoder, adapter) as model:
        first, again, other = (answers_to(model, encoder, prompts, limit=8, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert all(
        answer.text.startswith("no: ")
        for answer in answers_to(decoder, encoder, prompts, limit=4, openings=["no: "] * 3)
    )


def test_a_verdict_is_against_the_base(base, adapter):
    _, decoder, encoder = base
    judge = Judge(
        decoder, encoder, USERS,
        answers=8, answer_tokens=4, examples=2, max_tokens=60, most_abilities=2,
    )  # fmt: skip
    assert len({prompt[:2] for prompt, _ in judge.asked[:6]}) == 6  # one of each user before a second of any
    verdict = judge.judge(adapter).document
    own = judge.base.document
    assert verdict["gain"] == pytest.approx(1 - verdict["nll"]["value"] / own["nll"]["value"])
    assert verdict["public_text_change"] != 0.0 == own["public_text_change"]
    assert {"right_change", "kept_change"} <= verdict["abilities"].keys()
    assert len(verdict["examples"]) == 2
    assert judge.of_users()["agreement"]["match"]["value"] == 1.0
    assert "abilities" not in judge.judge(adapter, fully=False).document
