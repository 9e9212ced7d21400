"""Opacus' own hooks and optimizer, on one tenant with one row per user, give the same sums and the same step."""

from __future__ import annotations

import peft
import pytest
import torch
from opacus import GradSampleModule
from opacus.accountants import RDPAccountant
from opacus.optimizers import DPOptimizer

from personalization.planning.plan import Family
from personalization.training.engine.portable import adapter_config
from personalization.training.errors import PlanViolatedError
from personalization.training.jobs.job import Example, TenantJob, UserExamples
from personalization.training.mechanism import optimizer
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantMechanism
from privacy.noise import normal
from tests.fakes.tiny_models import encode_user, make_plan, make_run, random_vectors, tiny_model

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
    config = {k: v for k, v in adapter_config(run.geometry, None).items() if k != "peft_type"}
    config["inference_mode"] = False
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
    optimizer = FusedDPOptimizer(Sgd([parameter], lr=RATE), [TenantMechanism.of_plan(PLAN, bytes(32))])
    parameter.grad_sample = run.user_gradients(parameter.detach(), members)
    norms = torch.linalg.vector_norm(parameter.grad_sample, dim=1)
    optimizer.row_tenants = torch.zeros(len(members), dtype=torch.long)
    optimizer.clip_and_accumulate()
    sums = parameter.summed_grad.detach().clone()[0]
    optimizer.add_noise()
    optimizer.scale_grad()
    optimizer.original_optimizer.step()
    return sums, parameter.detach()[0], norms


def test_clipped_sums_and_step_equal_opacus_hooks():
    run = make_run("llama", [TenantJob(job_key="a", plan=PLAN, users=USERS, noise_key=bytes(32))])
    vector = random_vectors(run)[0]
    sums, weights, norms = our_step(run, vector)
    assert (norms > CLIP).any()
    theirs, their_weights = opacus_step(run, vector)
    torch.testing.assert_close(sums, theirs, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(weights, their_weights, rtol=1e-10, atol=1e-13)


def slack_left_out(monkeypatch):
    monkeypatch.setattr(optimizer, "NORM_SLACK", 0.0)


def one_factor_a_millionth_too_large(monkeypatch):
    """The bound of one user that is clipped is wrong, in the tensor that the clipping itself reads."""
    clip = FusedDPOptimizer.clip_and_accumulate

    def wrong(self):
        norms = torch.linalg.vector_norm(self.parameter.grad_sample, dim=1)
        victim = int(torch.nonzero(norms > CLIP)[0])
        self._norms = self._norms.repeat(len(norms))
        self._norms[victim] *= 1 + 1e-6
        self.row_tenants = torch.arange(len(norms))
        clip(self)

    monkeypatch.setattr(FusedDPOptimizer, "clip_and_accumulate", wrong)


def never_clipped(monkeypatch):
    bound = FusedDPOptimizer.__init__

    def unbounded(self, *how):
        bound(self, *how)
        self._norms.fill_(torch.inf)

    monkeypatch.setattr(FusedDPOptimizer, "__init__", unbounded)


@pytest.mark.parametrize("plant", [slack_left_out, one_factor_a_millionth_too_large, never_clipped])
def test_an_error_planted_in_the_clipping_is_seen(plant, monkeypatch):
    run = make_run("llama", [TenantJob(job_key="a", plan=PLAN, users=USERS, noise_key=bytes(32))])
    vector = random_vectors(run)[0]
    theirs, _ = opacus_step(run, vector)
    plant(monkeypatch)
    wrong, _, _ = our_step(run, vector)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(wrong, theirs, rtol=1e-10, atol=1e-13)


def test_noise_scaling_equals_opacus_with_the_same_numbers(monkeypatch):
    """With Opacus' generator replaced by our keystream, its DPOptimizer and ours write the same gradient.

    Ours is rounded to a public lattice afterwards; here one so fine that it can be neglected.
    """
    monkeypatch.setattr(normal, "LATTICE_BITS", 44)
    plan = make_plan(clipping_norm=0.3, noise_multiplier=1.7, expected_cohort=5.0, steps=1)
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = torch.nn.Parameter(torch.zeros(1, 40, dtype=torch.float64))
    fused = FusedDPOptimizer(Sgd([ours], lr=1.0), [TenantMechanism.of_plan(plan, bytes(32))])
    ours.grad_sample = rows.clone()
    fused.row_tenants = torch.zeros(6, dtype=torch.long)
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
    torch.testing.assert_close(ours[0], theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("history", "steps"),
    [
        ([(0.7, 1.0, 2)], 3),
        ([(0.7, 0.5, 3)], 3),
        ([(0.6, 1.0, 3)], 3),
        ([(0.7, 1.0, 2), (0.8, 1.0, 1)], 3),
        ([], 3),
    ],
)
def test_mechanism_other_than_planned_is_refused(history, steps):
    mechanism = TenantMechanism.of_plan(make_plan(steps=steps), bytes(32))
    mechanism.accountant.history = history
    with pytest.raises(PlanViolatedError, match="stays spent"):
        mechanism.check_against_plan()


def test_accountant_of_each_tenant_sees_its_own_schedule():
    tenants = [
        TenantJob(
            job_key=str(n),
            users=USERS,
            noise_key=bytes([n] * 32),
            plan=make_plan(steps=n + 1, noise_multiplier=1.0 + n, sample_rate=0.5),
        )
        for n in range(3)
    ]
    seen = []

    class Recording(RDPAccountant):
        def step(self, **event):
            seen.append(tuple(event.values()))
            super().step(**event)

    run = make_run("llama", tenants)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("personalization.training.mechanism.optimizer.RDPAccountant", Recording)
        run.train()
    assert sorted(seen) == sorted((1.0 + n, 0.5) for n in range(3) for _ in range(n + 1))
