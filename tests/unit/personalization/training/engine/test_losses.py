"""Losses are per user; encoding keeps the template and the answer."""

from __future__ import annotations

import pytest
import torch

from personalization.planning.plan import Objective
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.losses import LossTerms
from personalization.training.errors import JobInvalidError
from personalization.training.jobs.job import Example, ExampleKind, UserExamples
from tests.fakes.tiny_models import encode_user, make_plan, make_users, tiny_tokenizer


@pytest.fixture(scope="module")
def encoder():
    return Encoder(tiny_tokenizer(), 2)


def test_a_users_factors_do_not_depend_on_other_users(encoder):
    plan = make_plan()
    users = [encode_user(encoder, user, plan) for user in make_users((3, 20), (1,), (7, 7, 7))]
    together = LossTerms.of_users(users, torch.device("cpu"), torch.float64)
    at = 0
    for user in users:
        alone = LossTerms.of_users([user], torch.device("cpu"), torch.float64)
        labels = len(alone.sft)
        assert torch.equal(together.sft[at : at + labels], alone.sft)
        # A user's loss is a mean over own examples of means over own labels: factors sum to one.
        assert float(alone.sft.sum()) == pytest.approx(1.0)
        at += labels


def test_only_the_kinds_of_the_objective_are_used(encoder):
    user = UserExamples(
        examples=(
            Example(prompt="p", completion="good"),
            Example(prompt="p", completion="bad", kind=ExampleKind.UNLIKELIHOOD),
            Example(prompt="p", completion="edited", shown="shown", kind=ExampleKind.PREFERENCE),
        )
    )
    kinds = {
        objective: [e.kind for e in encode_user(encoder, user, make_plan(objective=objective)).examples]
        for objective in Objective
    }
    sft, unlikely, pair = ExampleKind.SFT, ExampleKind.UNLIKELIHOOD, ExampleKind.PREFERENCE
    assert kinds == {
        Objective.SFT: [sft, sft],
        Objective.SFT_UNLIKELIHOOD: [sft, unlikely, sft],
        Objective.DPO_SIGMOID: [sft, pair],
    }


def test_row_is_the_template_then_the_answer_and_its_end(encoder):
    row = encoder.row("hi", "ok", 96)
    text = encoder.tokenizer.decode(row.tokens)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nok<|im_end|>"
    assert encoder.tokenizer.decode(row.tokens[row.first_label :]) == "ok<|im_end|>"


@pytest.mark.parametrize(
    ("prompt", "completion"), [("x" * 500, "done"), ("hi", "y" * 500), ("x" * 500, "y" * 500)]
)
def test_long_examples_are_cut_to_the_limit_and_keep_the_template(encoder, prompt, completion):
    row = encoder.row(prompt, completion, 60)
    assert row.length <= 60
    text = encoder.tokenizer.decode(row.tokens[: row.first_label])
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert row.labels >= 1


def test_room_smaller_than_the_template_still_gives_a_row(encoder):
    row = encoder.row("hello", "world", 8)
    assert (row.length, row.labels) == (8, 4)


def test_tokenizer_without_a_template_joins_by_a_line_break():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    assert tokenizer.decode(Encoder(tokenizer, 2).row("a", "b", 96).tokens) == "a\nb<|im_end|>"


def test_more_examples_than_the_bound_are_refused(encoder):
    with pytest.raises(JobInvalidError, match="allows 1"):
        encode_user(encoder, make_users((1, 1))[0], make_plan(contribution_bound=1))


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan"), float("inf")])
def test_weights_outside_the_unit_interval_are_refused(encoder, weight):
    user = UserExamples(examples=(Example(prompt="p", completion="c", weight=weight),))
    with pytest.raises(JobInvalidError, match="weight"):
        encode_user(encoder, user, make_plan())
