"""Hundreds of tenants in one batch: the work dispatched does not grow with them, and none feels the others."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from personalization.planning.plan import Family
from personalization.training.jobs.job import TenantJob
from personalization.training.mechanism import clipping
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantMechanism
from tests.fakes.tiny_models import make_plan, make_run, make_users


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def tenants_of(count, family, **changes):
    shapes = [((3,), (5, 2)), ((4,),), ((1, 1), (7,), (2,)), ()]
    return [
        TenantJob(
            job_key=f"t{number}",
            users=make_users(*shapes[number % 4]),
            noise_key=number.to_bytes(32, "big"),
            plan=make_plan(
                family=family,
                steps=1 + number % 3,
                clipping_norm=0.1 + 0.01 * number,
                noise_multiplier=0.5 + number % 5,
                expected_cohort=1.0 + number % 7,
                sample_rate=(0.3, 0.7, 1.0)[number % 3],
                learning_rate=0.01 * (1 + number % 4),
                **changes,
            ),
        )
        for number in range(count)
    ]


def operations_of_a_step(count, family):
    """Dispatched operations of one step of ``count`` tenants whose users are all drawn, in one micro-batch."""
    tenants = [
        TenantJob(
            job_key=str(n),
            users=make_users((3,), (5, 2)),
            noise_key=n.to_bytes(32, "big"),
            plan=make_plan(family=family),
        )
        for n in range(count)
    ]
    run = make_run("llama", tenants, tokens_per_microbatch=10**9)
    members = [member for tenant in run._prefix() for member in tenant]
    parameter = torch.nn.Parameter(run.start.clone())
    mechanisms = [TenantMechanism.of_plan(tenant.plan, tenant.noise_key) for tenant in tenants]
    optimizer = FusedDPOptimizer(torch.optim.SGD([parameter], lr=0.1), mechanisms)
    run._step(optimizer, parameter, members)
    with Operations() as operations:
        run._step(optimizer, parameter, members)
    return operations.count


@pytest.mark.parametrize("family", list(Family))
def test_operations_of_a_step_are_the_same_for_2_and_for_1000_tenants(family, monkeypatch):
    # Rows come onto the lattice a block at a time: on a processor what its cache holds, for an operation costs little
    # there; on a GPU, which this test is about, all of these at once.
    monkeypatch.setattr(clipping, "BLOCK_ON_CPU", clipping.BLOCK_ON_GPU)
    assert operations_of_a_step(1000, family) <= 1.02 * operations_of_a_step(2, family)


def test_300_tenants_train_as_if_each_were_alone():
    tenants = tenants_of(300, Family.FULL, top_layers=1, rank=2)
    together = make_run("llama", tenants, tokens_per_microbatch=2048).train()
    for number in (0, 1, 2, 3, 4, 5, 99, 150, 211, 298, 299):
        alone = make_run("llama", [tenants[number]]).train()[0]
        torch.testing.assert_close(together[number], alone, rtol=0, atol=1e-10)
