"""The audit attacks the code that trains: what is right passes, and each planted leak is seen by its own canaries."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from personalization.canaries.values import AuditDepth, AuditRequest
from personalization.canaries.verdict import facts_of_audit
from personalization.planning.plan import PerformanceFlags
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.mechanism import optimizer
from personalization.training.run import audit as audits
from personalization.training.run import fused
from tests.fakes.tiny_models import damped_plan, make_plan, tiny_model, tiny_tokenizer

DELTA = 1e-5
FLAGS = PerformanceFlags(device="cpu")
# (noise multiplier, rate, steps): the quality benchmark's plan at ε = 4, a sampled one of many steps, a strong signal.
PLANS = {"benchmark": (3.3, 1.0, 8), "sampled": (2.0, 0.3, 40), "short": (1.5, 1.0, 4)}


@pytest.fixture(scope="module")
def base():
    decoder = FrozenDecoder(tiny_model("llama"), torch.device("cpu"), torch.float32)
    return decoder, Encoder(tiny_tokenizer(), 2)


@pytest.fixture(autouse=True)
def coins_of_the_test(monkeypatch):
    """The same canaries, keys and presences in every run of the suite."""
    random = Random(20)
    known = SimpleNamespace(token_bytes=random.randbytes, randbits=random.getrandbits, choice=random.choice)
    monkeypatch.setattr(audits, "secrets", known)


def run(base, name="benchmark", request=None, **changes):
    noise, rate, steps = PLANS[name]
    plan = make_plan(noise_multiplier=noise, sample_rate=rate, steps=steps, **changes)
    return facts_of_audit(
        audits.audit(*base, plan, FLAGS, request or AuditRequest(canaries=16_384)), plan, DELTA
    )


@pytest.mark.parametrize("name", PLANS)
def test_the_mechanism_that_trains_passes_and_the_bound_comes_near(base, name):
    found = run(base, name)
    assert 0.6 * found.claimed_epsilon < found.empirical_epsilon <= found.claimed_epsilon
    assert found.one_run_epsilon > 0.2 * found.claimed_epsilon


def noise_that_is_seven_tenths(monkeypatch):
    plain = optimizer.add_noise

    def weak(sums, rows, purpose, step):
        noise = plain(sums, rows, purpose, step) - sums
        return sums + (0.7 * noise.to(torch.float64)).round().to(torch.int64)

    monkeypatch.setattr(optimizer, "add_noise", weak)


def no_noise(monkeypatch):
    monkeypatch.setattr(optimizer, "add_noise", lambda sums, *_: sums.clone())


def the_same_noise_each_step(monkeypatch):
    plain = optimizer.add_noise
    monkeypatch.setattr(
        optimizer, "add_noise", lambda sums, rows, purpose, _step: plain(sums, rows, purpose, 0)
    )


def everyone_is_drawn(monkeypatch):
    monkeypatch.setattr(fused, "draw_users", lambda _stream, _step, users, _rate: list(range(users)))


def the_rate_is_doubled(monkeypatch):
    plain = fused.draw_users
    monkeypatch.setattr(
        fused, "draw_users", lambda stream, step, users, rate: plain(stream, step, users, 2 * rate)
    )


def no_clipping(monkeypatch):
    def unclipped(rows, scales):
        return rows.to(torch.float64).mul(scales[:, None]).round_()

    monkeypatch.setattr(optimizer.clipping, "whole_rows", unclipped)
    monkeypatch.setattr(
        optimizer.clipping, "too_long", lambda whole: torch.zeros(len(whole), dtype=torch.bool)
    )


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        (noise_that_is_seven_tenths, "benchmark"),
        (noise_that_is_seven_tenths, "sampled"),
        (noise_that_is_seven_tenths, "short"),
        (no_noise, "benchmark"),
        (the_same_noise_each_step, "benchmark"),
        (everyone_is_drawn, "sampled"),
        (the_rate_is_doubled, "sampled"),
        (no_clipping, "benchmark"),
    ],
)
def test_a_planted_leak_is_seen(base, monkeypatch, plant, name):
    plant(monkeypatch)
    # The witness would void such a run before anybody attacks it; here the attack is what is tried.
    monkeypatch.setattr(optimizer.FusedDPOptimizer, "receipts", lambda self: [None] * len(self.mechanisms))
    found = run(base, name)
    assert found.empirical_epsilon > found.claimed_epsilon


def test_the_audit_uses_nobody_and_no_key_of_a_round(base, monkeypatch):
    seen = []
    make = audits._shadow
    monkeypatch.setattr(audits, "_shadow", lambda *of: seen.append(make(*of)) or seen[-1])
    run(base, request=AuditRequest(canaries=1024))
    assert {job.users for job in seen} == {()}
    assert len({job.noise_key for job in seen}) == len(seen)


def test_one_audit_serves_plans_whose_mechanisms_are_equal(base):
    calls = []
    plans = [make_plan(), make_plan(), make_plan(noise_multiplier=0.0), make_plan(steps=2)]
    request = AuditRequest(canaries=256)
    found = audits.audits(plans, lambda: calls.append(0) or base, FLAGS, request)
    assert len(calls) == 2
    assert found[0] is found[1]
    assert found[2] is None
    assert audits.audits(plans, lambda: base, FLAGS, None) == [None] * 4


@pytest.mark.parametrize("make", [make_plan, damped_plan])
def test_an_audit_of_gradients_goes_through_the_model(base, monkeypatch, make):
    monkeypatch.setattr(fused, "metric_texts", lambda: audits.public_users()[:2])
    plan = make(noise_multiplier=1.0, sample_rate=1.0, steps=4, clipping_norm=1e-2)
    request = AuditRequest(depth=AuditDepth.GRADIENTS, canaries=192)
    scores = audits.audit(*base, plan, FLAGS, request)
    values, present = scores.arrays()
    # μ = √4/1 = 2: in and out are four apart, and 192 trials tell.
    assert np.mean(values[present]) - np.mean(values[~present]) == pytest.approx(4.0, abs=1.2)
    found = facts_of_audit(scores, plan, DELTA)
    assert 0.2 * found.claimed_epsilon < found.empirical_epsilon <= found.claimed_epsilon
    assert found.depth == "gradients"
