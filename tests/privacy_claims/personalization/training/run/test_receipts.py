"""A run that is not the charged mechanism is refused by what was measured: each bug is planted in the real loop."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from personalization.training.engine.batches import Member
from personalization.training.errors import PlanViolatedError
from personalization.training.jobs.job import TenantJob
from personalization.training.jobs.receipt import public_key_of
from personalization.training.mechanism import clipping, optimizer, witness
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantMechanism
from personalization.training.mechanism.witness import Witness, noise_tolerance
from personalization.training.run import fused as train
from privacy.noise import lattice
from tests.fakes.tiny_models import make_plan, make_run, make_users

PEOPLE = make_users((3,), (4, 4), (2,), (5,), (3, 2), (8, 7))
KEY = b"w" * 32
RATES = (0.3, 0.6)


def job(**changes):
    plan = make_plan(**{"steps": 4, "sample_rate": 0.6, "top_layers": 1, "clipping_norm": 0.05, **changes})
    return TenantJob(job_key="a", plan=plan, users=PEOPLE, noise_key=KEY)


def run_of(**changes):
    return make_run("llama", [job(**changes)], tokens_per_microbatch=20)


def test_a_run_as_planned_has_a_receipt_without_departures():
    run = run_of()
    run.train()
    (receipt,) = run.receipts
    assert receipt.departures == ()
    assert receipt.mechanism.steps == receipt.steps == 4
    assert receipt.mechanism.sample_rate == 0.6


def test_a_run_without_users_or_with_users_who_teach_nothing_has_one_too():
    for users in ((), (*PEOPLE[:2], replace(PEOPLE[2], examples=()), *PEOPLE[3:])):
        run = make_run("llama", [replace(job(), users=users)])
        run.train()
        assert run.receipts[0].departures == ()


def test_a_plan_changed_after_the_charge_is_named_in_its_receipt():
    """Fifty times the steps: run as planned, so its receipt does not fit what was reserved."""
    charged, ran = job(), run_of(steps=200)
    ran.train()
    (receipt,) = ran.receipts
    assert receipt.mechanism.steps == receipt.steps == 200
    assert receipt.plan_digest != charged.plan.digest()


def steps_times(factor):
    def plant(monkeypatch):
        make = train.FusedRun.__post_init__

        def longer(self):
            make(self)
            self.steps = max(1, round(self.steps * factor))

        monkeypatch.setattr(train.FusedRun, "__post_init__", longer)
        everyone = property(lambda self: list(range(len(self.mechanisms))))
        monkeypatch.setattr(FusedDPOptimizer, "active", everyone)

    return plant


def noise_times(factor):
    def plant(monkeypatch):
        right = TenantMechanism.deviation.fget
        monkeypatch.setattr(TenantMechanism, "deviation", property(lambda self: factor * right(self)))

    return plant


def noise_left_out(monkeypatch):
    monkeypatch.setattr(optimizer, "add_noise", lambda sums, *_: sums.clone())


def noise_left_out_by_another_method(monkeypatch):
    def bare(self):
        self.parameter.grad = self.parameter.summed_grad.to(self.parameter.dtype) * self._units[:, None]
        self.parameter.summed_grad._processed = True

    monkeypatch.setattr(FusedDPOptimizer, "add_noise", bare)


def the_same_noise_each_step(monkeypatch):
    plain = optimizer.add_noise
    monkeypatch.setattr(
        optimizer, "add_noise", lambda sums, rows, purpose, _step: plain(sums, rows, purpose, 0)
    )


def opposite_noise_every_other_step(monkeypatch):
    """The noise of two steps cancels in their sum."""
    plain = optimizer.add_noise

    def paired(sums, rows, purpose, step):
        noise = plain(torch.zeros_like(sums), rows, purpose, step // 2)
        return sums + (noise if step % 2 else -noise)

    monkeypatch.setattr(optimizer, "add_noise", paired)


def partly_repeated_noise(monkeypatch):
    """All but one in eight of the numbers are the same in each step."""
    plain = optimizer.add_noise

    def mixed(sums, rows, purpose, step):
        noisy = plain(sums, rows, purpose, 0)
        fresh = sums.shape[1] // 8
        noisy[:, :fresh] = plain(sums, rows, purpose, step)[:, :fresh]
        return noisy

    monkeypatch.setattr(optimizer, "add_noise", mixed)


def noise_in_one_step_only(monkeypatch):
    plain = optimizer.add_noise

    def sparse(sums, rows, purpose, step):
        return sums.clone() if step else plain(sums, rows, purpose, step)

    monkeypatch.setattr(optimizer, "add_noise", sparse)


def shifted_noise(monkeypatch):
    plain = optimizer.add_noise
    monkeypatch.setattr(
        optimizer,
        "add_noise",
        lambda sums, rows, purpose, step: plain(sums, rows, purpose, step) + lattice.REACH // 8,
    )


def everyone_drawn(monkeypatch):
    monkeypatch.setattr(train, "draw_users", lambda _stream, _step, users, _rate: list(range(users)))


def drawn_at_another_rate(monkeypatch):
    plain = train.draw_users
    monkeypatch.setattr(
        train, "draw_users", lambda stream, step, users, rate: plain(stream, step, users, rate / 2)
    )


def the_same_draw_each_step(monkeypatch):
    plain = train.draw_users
    monkeypatch.setattr(train, "draw_users", lambda stream, _step, users, rate: plain(stream, 0, users, rate))


def a_batch_of_fixed_size(chosen):
    def plant(monkeypatch):
        monkeypatch.setattr(
            train, "draw_users", lambda _stream, _step, users, _rate: list(range(users))[chosen]
        )

    return plant


def drawn_users_left_out(monkeypatch):
    """The draw is right, but a step takes two users at most."""
    split = train.split_users
    monkeypatch.setattr(train, "split_users", lambda members, limit: split(members[-2:], limit))


def a_user_taken_twice(monkeypatch):
    split = train.split_users
    monkeypatch.setattr(train, "split_users", lambda members, limit: split(members[:1] + members, limit))


def examples_taken_as_users(monkeypatch):
    split = train.split_users

    def alone(members, limit):
        rows = [
            Member(member.tenant, type(member.user)((example,)), (cached,), member.number)
            for member in members
            for example, cached in zip(member.user.examples, member.cached, strict=True)
        ]
        return split(rows, limit)

    monkeypatch.setattr(train, "split_users", alone)


def small_draws_skipped(monkeypatch):
    step = train.FusedRun._step
    monkeypatch.setattr(
        train.FusedRun,
        "_step",
        lambda self, optimizer, parameter, drawn: (
            step(self, optimizer, parameter, drawn) if len(drawn) > 4 else 0
        ),
    )


def no_clipping(monkeypatch):
    monkeypatch.setattr(lattice, "inner_reach", lambda _size: math.inf)


def no_clipping_by_another_method(monkeypatch):
    """A plain sum of rows, as a trainer without privacy has it."""

    def plain(self):
        rows = self.parameter.grad_sample
        total = self.parameter.summed_grad
        new = (rows.sum(0, keepdim=True) / self._units[:, None]).round().to(torch.int64)
        self.parameter.summed_grad = new if total is None else total + new
        rows._processed = True

    monkeypatch.setattr(FusedDPOptimizer, "clip_and_accumulate", plain)


def clipped_to_twice_the_norm(monkeypatch):
    right = clipping.whole_rows
    monkeypatch.setattr(clipping, "whole_rows", lambda rows, scales: 2 * right(rows, scales))


REFUSED = {
    "steps × 50": (steps_times(50), "the steps are not"),
    "half of the steps": (steps_times(0.5), "the steps are not"),
    "no noise": (noise_left_out, "the noise that was added is not"),
    "no noise, another method": (noise_left_out_by_another_method, "the steps are not"),
    "noise ÷ 100": (noise_times(0.01), "the noise that was added is not"),
    "noise ÷ 10": (noise_times(0.1), "the noise that was added is not"),
    "noise × 0.7": (noise_times(0.7), "the noise that was added is not"),
    "noise × 1.2": (noise_times(1.2), "the noise that was added is not"),
    "the same noise each step": (the_same_noise_each_step, "added the same noise"),
    "opposite noise": (opposite_noise_every_other_step, "added the same noise"),
    "partly repeated noise": (partly_repeated_noise, "the noise that was added is not"),
    "noise in one step": (noise_in_one_step_only, "the noise that was added is not"),
    "shifted noise": (shifted_noise, "the noise that was added is not"),
    "everyone drawn": (everyone_drawn, "whose coins fell"),
    "drawn at half the rate": (drawn_at_another_rate, "whose coins fell"),
    "the same draw each step": (the_same_draw_each_step, "whose coins fell"),
    "the first three": (a_batch_of_fixed_size(slice(3)), "whose coins fell"),
    "the last three": (a_batch_of_fixed_size(slice(-3, None)), "whose coins fell"),
    "drawn users left out": (drawn_users_left_out, "whose coins fell"),
    "a user twice": (a_user_taken_twice, "whose coins fell"),
    "examples as users": (examples_taken_as_users, "whose coins fell"),
    "small draws skipped": (small_draws_skipped, "the steps are not"),
    "no clipping": (no_clipping, "longer than the clipping norm"),
    "no clipping, another method": (no_clipping_by_another_method, "whose coins fell"),
    "clipped to 2 C": (clipped_to_twice_the_norm, "longer than the clipping norm"),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_planted_change_is_refused(name, rate, monkeypatch):
    plant, words = REFUSED[name]
    plant(monkeypatch)
    run = run_of(sample_rate=rate)
    with pytest.raises(PlanViolatedError, match=words):
        run.train()
    assert run.receipts == []


def test_a_refusal_says_no_number():
    """What was measured of noise or users stays in the child, also when a run is void."""
    with pytest.MonkeyPatch.context() as patch:
        everyone_drawn(patch)
        noise_left_out(patch)
        with pytest.raises(PlanViolatedError) as refused:
            run_of().train()
    assert not any(letter.isdigit() for letter in str(refused.value))


def test_the_child_signs_its_receipt_with_the_key_of_the_round(tmp_path):
    from personalization.training.jobs.job import TrainingJob

    for key in (None, b"r" * 32):
        tenant = replace(job(), receipt_key=key)
        whole = TrainingJob(base_model="nowhere", tenants=(tenant,), output=tmp_path / str(key))
        run = make_run("llama", [tenant])
        (result,) = train.train_on(run.decoder, run.encoder, whole, lambda _p: None)
        if key is None:
            assert result.receipt is None
        else:
            result.receipt.verify(public_key_of(key))
            assert result.receipt.receipt.plan_digest == tenant.plan.digest()
    assert "rrrr" not in repr(tenant)


@pytest.mark.parametrize("count", [1, 2, 10, 100, 10**4, 10**7])
def test_the_limits_of_the_noise_are_rare_and_not_much_too_wide(count):
    lower, upper = witness._limits(count, 31.0)
    tails = stats.chi2.logcdf(lower * count, count), stats.chi2.logsf(upper * count, count)
    for tail in tails:
        assert -31.0 - 0.5 * math.log(count) - 8 < tail <= -31.0 + 1e-6


def test_a_tenth_of_the_noise_is_seen_in_few_numbers_and_seven_tenths_in_a_few_hundred():
    assert noise_tolerance(64) < 0.9
    assert witness._limits(320, 31.0)[0] > 0.7**2
    assert noise_tolerance(10**6) < 0.006


def test_the_witness_has_coins_of_its_own_and_they_are_the_streams():
    from personalization.training.mechanism.noise import draw_users
    from privacy.noise.keystream import SecretStream

    for rate in (1e-7, 0.013, 0.3, 0.5, 0.999, 1.0):
        watching = Witness(make_plan(sample_rate=rate), KEY, [True] * 500)
        for step in range(4):
            expected = draw_users(SecretStream(KEY), step, 500, rate)
            assert np.flatnonzero(watching._coins(step)).tolist() == expected
