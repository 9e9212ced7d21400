"""The plain LoRA behind the bound: what peft and AdamW train, chosen by users of its own, and kept."""

from __future__ import annotations

import pytest
import torch

from personalization.planning.plan import PerformanceFlags
from personalization.quality.bound import Bounds, passes_of
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.plain_lora import PlainLora, PlainRecipe
from personalization.training.jobs.job import Example, UserExamples
from tests.fakes.tiny_models import write_tiny_base


def users(count, first=0):
    return tuple(
        UserExamples(examples=(Example(prompt=f"question {number}", completion=f"answer {number}"),))
        for number in range(first, first + count)
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_tiny_base(tmp_path_factory.mktemp("base"), layers=2)
    return folder, *loaded_base(folder, PerformanceFlags(device="cpu"))


def test_the_best_on_the_choosing_users_is_kept_and_trained_once(base, tmp_path, monkeypatch):
    folder, decoder, encoder = base
    trained = []
    plain = PlainLora.train

    def counted(self, examples, recipe, *how):
        trained.append((recipe.rate, recipe.epochs))
        return plain(self, examples, recipe, *how)

    monkeypatch.setattr(PlainLora, "train", counted)

    def bounds():
        return Bounds(
            decoder=decoder, encoder=encoder, base_model=folder, choosing=users(5, first=90), folder=tmp_path,
            rates=(1e-6, 1e-2), passes=(1, 2, 3), max_tokens=60,
        )  # fmt: skip

    kept = bounds()
    best = kept.best(users(10))
    # Both rates at the middle length (2, four times as long for few users), then the better one at the others.
    assert trained == [(1e-6, 8), (1e-2, 8), (1e-2, 4), (1e-2, 12)]
    assert best.recipe.rate == 1e-2
    assert min(one["choosing_loss"] for one in best.tried) == next(
        one["choosing_loss"] for one in best.tried
        if (one["rate"], one["epochs"]) == (best.recipe.rate, best.recipe.epochs)
    )  # fmt: skip
    assert kept.best(users(10)) == best
    assert bounds().best(users(10)) == best  # another run finds the folder
    assert len(trained) == 4
    kept.best(users(12))  # other users: other adapters, at the rate that was found
    assert {rate for rate, _ in trained[4:]} == {1e-2}


def test_few_users_get_more_passes():
    assert passes_of((1, 2, 3), 300) == (1, 2, 3)
    assert passes_of((1, 2, 3), 100) == (2, 4, 6)
    assert passes_of((1, 2), 50) == (4, 8)


def test_a_step_is_one_of_peft_and_adamw(base):
    """The flat engine against peft itself: equal start, examples and rate give equal factors."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder, decoder, encoder = base
    people = users(4)
    examples = [user.examples[0] for user in people]  # whose prompts begin alike
    recipe = PlainRecipe(rank=2, alpha=4.0, rate=1e-2, epochs=1, batch=4, max_tokens=60, seed=3)
    vector, geometry = PlainLora(decoder, encoder, half=False).train(examples, recipe)

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", lora_dropout=0.0),
    )
    from personalization.training.engine.plain_lora import initial

    start = initial(geometry, 3)
    named = dict(model.named_parameters())

    def parameter(slot, part):
        place = "self_attn" if slot.suffix[0] in "qkvo" and slot.suffix != "up_proj" else "mlp"
        return named[
            f"base_model.model.model.layers.{slot.layer}.{place}.{slot.suffix}.lora_{part}.default.weight"
        ]

    with torch.no_grad():
        for slot in geometry.slots:
            parameter(slot, "A").copy_(start[slot.down].view(2, -1))
    trainable = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=1e-2 * 0.5, weight_decay=0.01
    )  # half the rate in the middle of step 1
    loss = 0.0
    for example in examples:
        row = encoder.row(example.prompt, example.completion, 60)
        ids = torch.tensor([row.tokens])
        logits = model(ids).logits[0, row.first_label - 1 : -1]
        loss = loss + torch.nn.functional.cross_entropy(logits, ids[0, row.first_label :]) / 4
    loss.backward()
    optimizer.step()
    for slot in geometry.slots:
        torch.testing.assert_close(
            vector[slot.up].view(2, -1).t(), parameter(slot, "B"), atol=1e-5, rtol=1e-3
        )
        torch.testing.assert_close(vector[slot.down].view(2, -1), parameter(slot, "A"), atol=1e-5, rtol=1e-3)
