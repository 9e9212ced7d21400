"""Products with frozen weights in bfloat16: on public texts alone, near those in float32, and only where asked."""

from __future__ import annotations

import pytest
import torch

from personalization.training.engine import decoder as module
from personalization.training.engine.batches import Member, assemble
from personalization.training.jobs.job import TenantJob
from personalization.training.metric.curvature import PublicCurvature
from personalization.training.public.texts import public_users
from tests.fakes.tiny_models import damped_plan, encode_user, make_run, make_users

STYLES = ("llama", "qwen2", "gemma2")


@pytest.fixture(autouse=True)
def processor_with_instructions(monkeypatch):
    monkeypatch.setattr(module, "native_bfloat16", lambda: True)


def one_tenant():
    return TenantJob(job_key="a", plan=damped_plan(), users=make_users((3,), (5, 9, 2)), noise_key=bytes(32))


def states_below(run, *, half):
    """What the layers below the adapter make of two users' rows."""
    plan = run.tenants[0].plan
    users = [encode_user(run.encoder, user, plan) for user in make_users((4, 6), (5,))]
    micro = assemble([Member(0, user, ()) for user in users], torch.device("cpu"), run.decoder.dtype)
    below = range(run.decoder.layer_count)
    return run.decoder.run(run.decoder.embed(micro.tokens), micro.batch, below, half=half)


@pytest.mark.parametrize("style", STYLES)
def test_half_products_are_near_those_in_float32(style):
    run = make_run(style, [one_tenant()], torch.float32)
    exact, half = (states_below(run, half=half) for half in (False, True))
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    assert float((half - exact).norm()) < 0.02 * float(exact.norm())


def test_other_bases_and_other_processors_multiply_as_ever(monkeypatch):
    wide = make_run("llama", [one_tenant()], torch.float64)
    assert torch.equal(states_below(wide, half=False), states_below(wide, half=True))
    monkeypatch.setattr(module, "native_bfloat16", lambda: False)
    plain = make_run("llama", [one_tenant()], torch.float32)
    assert torch.equal(states_below(plain, half=False), states_below(plain, half=True))


def test_users_rows_pass_the_frozen_layers_in_float32_and_public_texts_need_not():
    """A product's last digits may owe something to the rest of its batch, and in bfloat16 those are worth more."""
    stored, public = [], []
    for half in (False, True):
        run = make_run("llama", [one_tenant()], torch.float32, half_products=half)
        run._prefix()
        stored.append(run._cache._store)
        public.append(PublicCurvature(public_users()[:2], run.shape)._cache._store)
    assert torch.equal(*stored)
    assert not torch.equal(*public)
