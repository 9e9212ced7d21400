"""Per-user gradients, clipped sums and fused tenants against slow, obviously right code in float64."""

from __future__ import annotations

import math

import peft
import pytest
import torch

from personalization.planning.plan import Family, Objective
from personalization.training.engine.losses import DPO_BETA
from personalization.training.engine.portable import adapter_config
from personalization.training.jobs.job import ExampleKind, TenantJob, UserExamples
from tests.fakes.tiny_models import (
    STYLES,
    encode_user,
    in_float64_norms,
    make_plan,
    make_run,
    make_users,
    random_vectors,
    tiny_model,
)

FP64 = torch.float64
ATTENTION = {"gemma2": "eager"}  # the other implementation of transformers leaves its soft cap out


@pytest.fixture(autouse=True)
def softmax_keeps_float64(monkeypatch):
    """Reference attention casts its softmax to float32 even in a float64 model (Gemma 2); keep float64 instead."""
    plain = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: plain(x, dim))


def slow_user_gradient(run, style, vector, user, plan):
    """One user alone through plain peft and autograd, one row at a time, gradient of the flat vector."""
    base = in_float64_norms(tiny_model(style).to(FP64))
    base.set_attn_implementation(ATTENTION.get(style, "sdpa"))
    config = peft.LoraConfig(
        **{
            k: v
            for k, v in adapter_config(run.geometry, [slot.key for slot in run.geometry.slots], None).items()
            if k != "peft_type"
        }
    )
    config.inference_mode = False
    model = peft.get_peft_model(base, config).to(FP64)
    leaf = vector.clone().requires_grad_()
    factors = run.geometry.factors(leaf, run.frozen)
    overrides = {}
    for (layer, suffix), (down, up) in factors.items():
        part = "self_attn" if suffix in {"q_proj", "k_proj", "v_proj", "o_proj"} else "mlp"
        stem = f"base_model.model.model.layers.{layer}.{part}.{suffix}"
        overrides[f"{stem}.lora_A.default.weight"] = down
        overrides[f"{stem}.lora_B.default.weight"] = up
    encoded = encode_user(run.encoder, user, plan)
    reference = in_float64_norms(tiny_model(style).to(FP64))
    reference.set_attn_implementation(ATTENTION.get(style, "sdpa"))

    def label_logp(forward, row):
        logits = forward(torch.tensor([row.tokens[:-1]])).logits[0].to(FP64)
        targets = torch.tensor(row.tokens[row.first_label :])
        return torch.log_softmax(logits[row.first_label - 1 :], -1).gather(1, targets[:, None]).squeeze(1)

    def adapted(ids):
        return torch.func.functional_call(model, overrides, (ids,))

    total = torch.zeros((), dtype=FP64)
    for example in encoded.examples:
        logps = [label_logp(adapted, row) for row in example.rows]
        if example.kind is ExampleKind.SFT:
            loss = -logps[0].mean()
        elif example.kind is ExampleKind.UNLIKELIHOOD:
            loss = -torch.log1p(-logps[0].exp()).mean()
        else:
            with torch.no_grad():
                fixed = [label_logp(reference, row).sum() for row in example.rows]
            margin = (logps[0].sum() - fixed[0]) - (logps[1].sum() - fixed[1])
            loss = -torch.nn.functional.logsigmoid(DPO_BETA * margin)
        total = total + example.weight * loss / len(encoded.examples)
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("style", STYLES)
def test_user_gradients_equal_a_slow_loop(style, family):
    plan = make_plan(family=family)
    users = make_users((3,), (5, 9, 2), (1, 14))
    run = make_run(style, [TenantJob(job_key="a", plan=plan, users=users, noise_key=bytes(32))])
    members = run._prefix()[0]
    vectors = random_vectors(run)
    fast = run.user_gradients(vectors, members)
    for number, user in enumerate(users):
        slow = slow_user_gradient(run, style, vectors[0], user, plan)
        assert torch.linalg.vector_norm(slow) > 1e-4
        torch.testing.assert_close(
            fast[number], slow, rtol=1e-11, atol=1e-12 * float(slow.abs().max()) + 1e-15
        )


@pytest.mark.parametrize(
    ("objective", "kind"),
    [(Objective.SFT_UNLIKELIHOOD, ExampleKind.UNLIKELIHOOD), (Objective.DPO_SIGMOID, ExampleKind.PREFERENCE)],
)
def test_other_losses_equal_a_slow_loop(objective, kind):
    plan = make_plan(objective=objective)
    users = make_users((3, 4), (6,), kind=kind)
    users = (UserExamples(examples=(*users[0].examples, *make_users((5,))[0].examples)), users[1])
    run = make_run("llama", [TenantJob(job_key="a", plan=plan, users=users, noise_key=bytes(32))])
    vectors = random_vectors(run)
    fast = run.user_gradients(vectors, run._prefix()[0])
    for number, user in enumerate(users):
        slow = slow_user_gradient(run, "llama", vectors[0], user, plan)
        torch.testing.assert_close(fast[number], slow, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("family", list(Family))
def test_each_tenant_of_a_fused_batch_trains_as_if_alone(family):
    shapes = [((3,), (5, 9, 2)), ((4, 4),), ((2,), (7,), (1, 1, 1)), ()]
    tenants = [
        TenantJob(
            job_key=f"t{number}",
            users=make_users(*users),
            noise_key=bytes([number] * 32),
            plan=make_plan(
                family=family,
                steps=2 + number,
                clipping_norm=0.1 * (number + 1),
                noise_multiplier=0.5 + number,
                expected_cohort=2.0 + number,
                sample_rate=1.0 if number % 2 else 0.6,
                learning_rate=0.01 * (number + 1),
            ),
        )
        for number, users in enumerate(shapes)
    ]
    together = make_run("llama", tenants, tokens_per_microbatch=64).train()
    for number, tenant in enumerate(tenants):
        alone = make_run("llama", [tenant]).train()[0]
        torch.testing.assert_close(together[number], alone, rtol=0, atol=1e-10)
        assert (alone - make_run("llama", [tenant]).start[0]).abs().max() > 1e-4


def test_a_user_with_values_that_are_not_finite_contributes_exactly_zero():
    plan = make_plan(noise_multiplier=0.0, steps=1)
    users = make_users((3,), (5, 9), (4,))
    job = TenantJob(job_key="a", plan=plan, users=users, noise_key=bytes(32))
    run = make_run("llama", [job])
    fill = run._prefix

    def poisoned():
        members = fill()
        run._cache._store[members[0][1].cached[0].start] = math.inf
        return members

    run._prefix = poisoned
    without = TenantJob(job_key="a", plan=plan, users=(users[0], users[2]), noise_key=bytes(32))
    torch.testing.assert_close(run.train(), make_run("llama", [without]).train(), rtol=0, atol=1e-13)


def test_planted_error_is_found():
    """The comparison above sees one wrong entry of one user."""
    plan = make_plan()
    users = make_users((3,), (5, 9, 2))
    run = make_run("llama", [TenantJob(job_key="a", plan=plan, users=users, noise_key=bytes(32))])
    vectors = random_vectors(run)
    fast = run.user_gradients(vectors, run._prefix()[0])
    slow = slow_user_gradient(run, "llama", vectors[0], users[1], plan)
    fast[1, 7] += 1e-9 * slow.abs().max()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(fast[1], slow, rtol=1e-11, atol=1e-12 * float(slow.abs().max()) + 1e-15)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(fast[0], slow, rtol=1e-11, atol=1e-12 * float(slow.abs().max()) + 1e-15)
