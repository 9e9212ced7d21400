"""What the guarantee of a trained adapter rests on: bounded influence of a user, public normalizer, real noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from personalization.training.jobs.job import TenantJob
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantMechanism
from privacy.noise import lattice
from tests.fakes.tiny_models import make_plan, make_run, make_users

SIZE = 6
numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
rows = st.lists(st.lists(numbers, min_size=SIZE, max_size=SIZE), min_size=1, max_size=6)


def clipped_sum(values, clipping_norms, tenants):
    mechanisms = [
        TenantMechanism.of_plan(make_plan(clipping_norm=norm, noise_multiplier=0.0), bytes(32))
        for norm in clipping_norms
    ]
    parameter = torch.nn.Parameter(torch.zeros(len(mechanisms), SIZE, dtype=torch.float64))
    optimizer = FusedDPOptimizer(torch.optim.SGD([parameter], lr=1.0), mechanisms)
    parameter.grad_sample = torch.tensor(values, dtype=torch.float64).view(-1, SIZE)
    optimizer.row_tenants = torch.tensor(tenants, dtype=torch.long)
    optimizer.row_users = range(len(tenants))
    optimizer.clip_and_accumulate()
    return parameter.summed_grad.detach()  # whole numbers, in units of each tenant's lattice


@given(rows=rows, victim=st.integers(0, 5), norm=st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_one_user_moves_the_sum_by_at_most_the_clipping_norm(rows, victim, norm):
    victim %= len(rows)
    with_user = clipped_sum(rows, [norm], [0] * len(rows))
    without = rows[:victim] + rows[victim + 1 :]
    difference = with_user - clipped_sum(without, [norm], [0] * len(without))
    # In whole numbers, so exactly: no slack.
    assert sum(number**2 for number in difference[0].tolist()) <= lattice.REACH**2


@given(rows=rows, split=st.integers(0, 6))
@settings(deadline=None)
def test_tenants_with_own_clipping_norms_never_touch_each_other(rows, split):
    split = min(split, len(rows))
    tenants = [0] * split + [1] * (len(rows) - split)
    both = clipped_sum(rows, [0.5, 2.0], tenants)
    assert torch.equal(both[0], clipped_sum(rows[:split], [0.5], [0] * split)[0])
    assert torch.equal(both[1], clipped_sum(rows[split:], [2.0], [0] * (len(rows) - split))[0])


def noisy_gradient(step, *, users=0, noise_multiplier=2.0):
    plan = make_plan(clipping_norm=0.5, noise_multiplier=noise_multiplier, expected_cohort=10.0, steps=10**5)
    parameter = torch.nn.Parameter(torch.zeros(1, 4000, dtype=torch.float64))
    optimizer = FusedDPOptimizer(
        torch.optim.SGD([parameter], lr=1.0), [TenantMechanism.of_plan(plan, b"k" * 32)]
    )
    optimizer.current_step = step
    parameter.grad_sample = torch.zeros(users, 4000, dtype=torch.float64)
    optimizer.row_tenants = torch.zeros(users, dtype=torch.long)
    optimizer.row_users = range(users)
    optimizer.step()
    return parameter.grad[0]


def test_noise_has_the_planned_size_even_when_nobody_was_drawn():
    for users in (0, 3):
        noise = noisy_gradient(0, users=users)
        # σ·C ÷ public normalizer, whatever the number of users drawn.
        assert float(noise.std()) == pytest.approx(2.0 * 0.5 / 10.0, rel=0.05)
        assert abs(float(noise.mean())) < 4 * 0.1 / math.sqrt(4000)


def test_noise_of_different_steps_is_independent_and_of_a_retry_is_equal():
    first, second = noisy_gradient(0), noisy_gradient(1)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.06
    assert torch.equal(first, noisy_gradient(0))


def test_tenant_without_any_drawn_user_still_takes_every_noisy_step():
    job = TenantJob(job_key="a", plan=make_plan(steps=4), users=(), noise_key=bytes(32))
    run = make_run("llama", [job])
    released = run.train()
    assert float((released - run.start).abs().min()) > 0.0


def test_retry_with_the_same_key_releases_the_same_adapter():
    job = TenantJob(
        job_key="a",
        plan=make_plan(steps=2, sample_rate=0.5),
        users=make_users((3,), (4,), (5,)),
        noise_key=b"r" * 32,
    )
    assert torch.equal(make_run("llama", [job]).train(), make_run("llama", [job]).train())


def test_normalizer_is_the_plans_and_not_the_number_of_users():
    """Doubling the users with the same plan doubles the sum, as only a data-independent normalizer allows."""
    plan = make_plan(noise_multiplier=0.0, clipping_norm=1e-3, steps=1)
    users = make_users((3,), (4,), (5,))
    sums = []
    for people in (users, users + users):
        run = make_run("llama", [TenantJob(job_key="a", plan=plan, users=people, noise_key=bytes(32))])
        parameter = torch.nn.Parameter(run.start.clone())
        optimizer = FusedDPOptimizer(
            torch.optim.SGD([parameter], lr=1.0), [TenantMechanism.of_plan(plan, bytes(32))]
        )
        run._step(optimizer, parameter, run._prefix()[0])
        sums.append((parameter.detach() - run.start)[0])
    torch.testing.assert_close(2 * sums[0], sums[1], rtol=1e-9, atol=1e-15)


def test_progress_says_nothing_of_private_values():
    """Fields of a progress report are stages, steps and memory; no loss, norm or clipped share."""
    from dataclasses import fields

    from personalization.training.jobs.job import Progress

    assert {field.name for field in fields(Progress)} == {
        "stage",
        "done",
        "total",
        "memory_bytes",
    }


def test_noise_key_is_not_in_any_representation():
    job = TenantJob(
        job_key="a", plan=make_plan(), users=make_users((3,)), noise_key=b"SECRETSECRETSECRETSECRETSECRETSE"
    )
    assert "SECRET" not in repr(job)
    assert "abc" not in repr(job)
