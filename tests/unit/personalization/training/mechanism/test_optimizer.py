"""Opacus' own hooks and optimizer, on one tenant with one row per user, give the same sums and the same step."""

from __future__ import annotations

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from personalization.planning.plan import Family
from personalization.training.engine.portable import adapter_config
from personalization.training.errors import PlanViolatedError
from personalization.training.jobs.job import Example, TenantJob, UserExamples
from personalization.training.mechanism import clipping
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantMechanism
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.noise import lattice, normal
from tests.fakes.tiny_models import encode_user, make_plan, make_run, random_vectors, tiny_model

SIZE = 6
CLIP, COHORT, RATE = 0.8, 3.0, 0.1
PLAN = make_plan(
    family=Family.FULL, clipping_norm=CLIP, noise_multiplier=0.0, steps=1, expected_cohort=COHORT
)
# Rows of one length, as Opacus needs; some are clipped and some are not.
USERS = tuple(
    UserExamples(examples=(Example(prompt=f"path {n}", completion=text),))
    for n, text in enumerate(("abcde", "fghij", "klmno", "aaaaa"))
)


class Sgd(torch.optim.SGD):
    pass


def opacus_step(run, vector):
    """Train one step with Opacus' hooks on a plain peft model; return clipped sums and new weights as flat vectors."""
    base = tiny_model("llama").to(torch.float64)
    for module in base.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = lambda x, m=module: (
                m.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon))
            )
    config = {
        k: v
        for k, v in adapter_config(run.geometry, [slot.key for slot in run.geometry.slots], "base").items()
        if k != "peft_type"
    }
    config["inference_mode"] = False
    config["base_model_name_or_path"] = None  # a model made in code has no name
    model = peft.get_peft_model(base, peft.LoraConfig(**config)).to(torch.float64)
    named = dict(model.named_parameters())
    order = []
    with torch.no_grad():
        for (layer, suffix), (down, up) in run.geometry.factors(vector, run.frozen).items():
            part = "self_attn" if suffix in {"q_proj", "k_proj", "v_proj", "o_proj"} else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{part}.{suffix}"
            for name, value in (
                (f"{stem}.lora_A.default.weight", down),
                (f"{stem}.lora_B.default.weight", up),
            ):
                named[name].copy_(value)
                order.append(named[name])
    base.get_input_embeddings().register_forward_hook(
        lambda _m, _i, out: out.requires_grad_()
    )  # for Opacus' hooks
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=False)
    optimizer = DPOptimizer(
        Sgd(order, lr=RATE), noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=int(COHORT)
    )
    rows = [encode_user(run.encoder, user, PLAN).examples[0].rows[0] for user in USERS]
    assert len({(row.length, row.first_label) for row in rows}) == 1
    ids = torch.tensor([row.tokens for row in rows])
    wrapped.train()
    positions = torch.arange(ids.shape[1] - 1).expand(len(ids), -1)
    logits = wrapped(ids[:, :-1], position_ids=positions).logits
    first = rows[0].first_label
    logp = torch.log_softmax(logits[:, first - 1 :].double(), -1).gather(2, ids[:, first:, None]).squeeze(2)
    (-logp.mean(1)).sum().backward()
    optimizer.clip_and_accumulate()
    sums = torch.cat([_flat(p.summed_grad, i) for i, p in enumerate(order)])
    optimizer.add_noise()
    optimizer.scale_grad()
    optimizer.original_optimizer.step()
    return sums, torch.cat([_flat(p.detach(), i) for i, p in enumerate(order)])


def _flat(tensor, position):
    # The flat vector holds A (r, d_in) and C (r, d_out); peft holds B transposed.
    return (tensor if position % 2 == 0 else tensor.t()).flatten()


def our_step(run, vector):
    members = run._prefix()[0]
    parameter = torch.nn.Parameter(vector[None].clone())
    mechanism = TenantMechanism.of_plan(PLAN, bytes(32), [True] * len(members))
    optimizer = FusedDPOptimizer(Sgd([parameter], lr=RATE), [mechanism])
    parameter.grad_sample = run.user_gradients(parameter.detach(), members)
    norms = torch.linalg.vector_norm(parameter.grad_sample, dim=1)
    optimizer.row_tenants = torch.zeros(len(members), dtype=torch.long)
    optimizer.row_users = [member.number for member in members]
    optimizer.clip_and_accumulate()
    sums = parameter.summed_grad.detach()[0].double() * lattice.unit(CLIP)
    optimizer.add_noise()
    optimizer.scale_grad()
    optimizer.measure_noise()
    optimizer.original_optimizer.step()
    return sums, parameter.detach()[0], norms, optimizer


def close(sums, expected, factor=1.0):
    """Compare up to the lattice: half a unit for each user's number, and what clipping leaves room for."""
    room = 1 - lattice.inner_reach(len(sums)) / lattice.REACH
    torch.testing.assert_close(
        sums, expected, rtol=0, atol=len(USERS) * (lattice.unit(CLIP) / 2 + room * CLIP) * factor
    )


def test_clipped_sums_and_step_equal_opacus_hooks_to_within_the_lattice():
    run = make_run("llama", [TenantJob(job_key="a", plan=PLAN, users=USERS, noise_key=bytes(32))])
    vector = random_vectors(run)[0]
    sums, weights, norms, _ = our_step(run, vector)
    assert (norms > CLIP).any()
    theirs, their_weights = opacus_step(run, vector)
    close(sums, theirs)
    close(weights, their_weights, RATE / COHORT)


def one_bound_a_thousandth_too_large(monkeypatch):
    """The bound of one user that is clipped is wrong, in the tensor that the clipping itself reads."""
    whole = clipping.whole_rows

    def wrong(rows, scales):
        victim = int(torch.nonzero(torch.linalg.vector_norm(rows, dim=1) > CLIP)[0])
        result = whole(rows, scales)
        result[victim] = (result[victim] * 1.001).round()
        return result

    monkeypatch.setattr(clipping, "whole_rows", wrong)


def never_clipped(monkeypatch):
    monkeypatch.setattr(lattice, "inner_reach", lambda _size: torch.inf)


def clipped_to_half(monkeypatch):
    monkeypatch.setattr(lattice, "inner_reach", lambda _size: lattice.REACH / 2)


@pytest.mark.parametrize("plant", [one_bound_a_thousandth_too_large, never_clipped, clipped_to_half])
def test_an_error_planted_in_the_clipping_is_seen(plant, monkeypatch):
    run = make_run("llama", [TenantJob(job_key="a", plan=PLAN, users=USERS, noise_key=bytes(32))])
    vector = random_vectors(run)[0]
    theirs, _ = opacus_step(run, vector)
    with monkeypatch.context() as patch:
        plant(patch)
        wrong, _, _, optimizer = our_step(run, vector)
    with pytest.raises(AssertionError, match="not close"):
        close(wrong, theirs)
    if plant is not clipped_to_half:  # which only makes users count less
        with pytest.raises(PlanViolatedError, match="longer than the clipping norm"):
            optimizer.receipts()


def test_noise_scaling_equals_opacus_with_the_same_numbers(monkeypatch):
    """With Opacus' generator replaced by our keystream, its DPOptimizer and ours write the same gradient.

    Ours is on a public lattice; half of its multiple is the difference at most, and that of the users' rows.
    """
    plan = make_plan(clipping_norm=0.3, noise_multiplier=1.7, expected_cohort=5.0, steps=1)
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = torch.nn.Parameter(torch.zeros(1, 40, dtype=torch.float64))
    fused = FusedDPOptimizer(Sgd([ours], lr=1.0), [TenantMechanism.of_plan(plan, bytes(32), [True] * 6)])
    ours.grad_sample = rows.clone()
    fused.row_tenants = torch.zeros(6, dtype=torch.long)
    fused.row_users = range(6)
    fused.step()
    theirs = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
    plain = DPOptimizer(Sgd([theirs], lr=1.0), noise_multiplier=1.7, max_grad_norm=0.3, expected_batch_size=5)
    stream = TenantMechanism.of_plan(plan, bytes(32)).stream
    monkeypatch.setattr(
        "opacus.optimizers.optimizer._generate_noise",
        lambda std, reference, **_: (
            torch.from_numpy(normal.gaussians([stream], b"grad", 0, reference.numel())[0]) * std
        ),
    )
    theirs.grad_sample = rows.clone()
    plain.step()
    multiple = lattice.unit(0.3) * 2 ** lattice.coarse_bits(1.7 * lattice.REACH)
    assert multiple < 0.3 * 1.7 / 256
    torch.testing.assert_close(ours[0], theirs, rtol=0, atol=(0.5 * multiple + 6 * 1e-5 * 0.3) / 5)
    assert fused.receipts()[0].departures == ()


@pytest.mark.parametrize("microbatch", [1, 3, 7, 64])
def test_a_sum_has_no_order_and_no_micro_batches(microbatch, monkeypatch):
    """In float32, with users of very unequal size, in any order and cut: the same whole numbers."""
    plan = make_plan(clipping_norm=0.3)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 40, generator=generator) * torch.logspace(-4, 4, 64)[:, None]

    def total(order, size):
        parameter = torch.nn.Parameter(torch.zeros(1, 40))
        fused = FusedDPOptimizer(Sgd([parameter], lr=1.0), [TenantMechanism.of_plan(plan, bytes(32))])
        for part in rows[order].split(size):
            parameter.grad_sample = part.clone()
            fused.row_tenants = torch.zeros(len(part), dtype=torch.long)
            fused.row_users = range(len(part))
            fused.clip_and_accumulate()
        return parameter.summed_grad

    expected = total(torch.arange(64), 64)
    assert expected.dtype == torch.int64
    shuffled = torch.randperm(64, generator=generator)
    assert torch.equal(total(shuffled, microbatch), expected)
    monkeypatch.setattr(clipping, "BLOCK_ON_CPU", 40 * 5)  # five rows at a time
    assert torch.equal(total(shuffled, microbatch), expected)


@given(
    rows=st.lists(st.lists(st.floats(width=32), min_size=SIZE, max_size=SIZE), min_size=1, max_size=6),
    norm=st.floats(1e-9, 1e6),
    wide=st.booleans(),
)
@settings(deadline=None)
def test_no_row_of_any_floats_is_longer_than_the_bound_or_found_too_long(rows, norm, wide):
    """The exact check is what the guarantee rests on, and by the slack of the clipping it never has to act."""
    values = torch.tensor(rows, dtype=torch.float64 if wide else torch.float32)
    whole = clipping.whole_rows(values, torch.full((len(rows),), 1 / lattice.unit(norm), dtype=torch.float64))
    for row in whole.tolist():
        assert all(number.is_integer() for number in row)
        assert sum(int(number) ** 2 for number in row) <= lattice.REACH**2
    assert not clipping.too_long(whole).any()


def test_the_exact_check_knows_one_unit_too_many():
    on = torch.tensor([[lattice.REACH, 0.0], [0.6 * 2**20, 0.0]], dtype=torch.float64)
    over = torch.tensor([[lattice.REACH, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]], dtype=torch.float64)
    assert clipping.too_long(on).tolist() == [False, False]
    assert clipping.too_long(over).tolist() == [True, True, True]


def test_what_is_released_are_the_public_multiples():
    noisy = torch.tensor([[0, 3, 4, -4, -5, 2**40 + 5], [1, -1, 0, 7, 8, 9]])
    units = torch.tensor([0.5, 2.0], dtype=torch.float64)
    out = clipping.released(noisy, torch.tensor([3, 0]), units, torch.float64)
    assert out.tolist() == [[0, 0, 4, 0, -4, 2.0**39 + 4], [2, -2, 0, 14, 16, 18]]


def test_each_tenant_has_a_receipt_of_its_own_schedule():
    tenants = [
        TenantJob(
            job_key=str(n),
            users=USERS,
            noise_key=bytes([n] * 32),
            plan=make_plan(steps=n + 1, noise_multiplier=1.0 + n, sample_rate=0.5),
        )
        for n in range(3)
    ]
    run = make_run("llama", tenants)
    run.train()
    for tenant, receipt in zip(tenants, run.receipts, strict=True):
        plan = tenant.plan
        assert receipt.departures == ()
        assert (receipt.steps, receipt.noise_count) == (plan.steps, plan.steps * run.geometry.size)
        assert receipt.plan_digest == plan.digest()
        assert receipt.mechanism == PoissonSampledGaussian(
            noise_multiplier=plan.noise_multiplier, sample_rate=0.5, steps=plan.steps,
            clipping_norm=plan.clipping_norm, contribution_bound=plan.contribution_bound,
        )  # fmt: skip
        assert 0 < receipt.noise_tolerance < 0.2
