"""The output head over the whole vocabulary and over a shortlist, against torch's own cross-entropy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from personalization.training.engine.output_head import OutputHead
from personalization.training.jobs.job import TenantJob
from personalization.training.public.styles import interactions
from personalization.training.run import fused as train
from tests.fakes.tiny_models import damped_plan, make_run, make_users

FP64 = torch.float64
VOCABULARY, WIDTH, LABELS = 40, 6, 9


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


@pytest.fixture
def weight(generator):
    return torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=FP64)


@pytest.fixture
def hidden(generator):
    return torch.randn(LABELS, WIDTH, generator=generator, dtype=FP64, requires_grad=True)


@pytest.fixture
def targets(generator):
    return torch.randint(VOCABULARY, (LABELS,), generator=generator)


def capped(logits, softcap):
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tokens", [range(VOCABULARY), range(0, VOCABULARY, 3), [7]])
def test_a_shortlists_loss_is_that_of_its_tokens_and_the_label(weight, hidden, targets, tokens, softcap):
    head = OutputHead(weight, torch.nn.Identity(), softcap)
    shortlist = head.shortlist(torch.tensor(list(tokens)))
    slow = []
    for row, target in zip(hidden, targets.tolist(), strict=True):
        among = sorted({*tokens, target})
        logits = capped(weight[among] @ row, softcap)
        slow.append(torch.logsumexp(logits, 0) - logits[among.index(target)])
    slow = torch.stack(slow)
    share = torch.arange(1.0, LABELS + 1, dtype=FP64)
    (slope,) = torch.autograd.grad((slow * share).sum(), hidden)
    fast = head.label_nll(hidden, targets, shortlist=shortlist)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(torch.autograd.grad((fast * share).sum(), hidden)[0], slope)
    if len(tokens) == VOCABULARY:
        torch.testing.assert_close(fast, head.label_nll(hidden, targets))


def test_a_labels_loss_does_not_depend_on_the_other_labels(weight, hidden, targets):
    head = OutputHead(weight, torch.nn.Identity(), None)
    shortlist = head.shortlist(torch.arange(10))
    together = head.label_nll(hidden, targets, shortlist=shortlist)
    alone = [head.label_nll(hidden[[at]], targets[[at]], shortlist=shortlist) for at in range(LABELS)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_labels_are_drawn_from_the_shortlist_as_its_softmax_says(weight):
    head = OutputHead(weight, torch.nn.Identity(), None)
    shortlist = head.shortlist(torch.tensor([31, 3, 17]))
    row = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(6), dtype=FP64)
    coins = torch.Generator().manual_seed(7)
    drawn = head.drawn_labels(row.expand(5_000, -1), coins, draws=4, shortlist=shortlist)
    assert drawn.shape == (5_000, 4)
    found = torch.bincount(drawn.flatten(), minlength=VOCABULARY) / 20_000
    wanted = torch.zeros(VOCABULARY, dtype=FP64)
    wanted[shortlist.tokens] = torch.softmax(weight[shortlist.tokens] @ row[0], 0)
    assert float((found - wanted).abs().max()) < 0.02


def test_training_with_a_shortlist_of_nearly_everything_is_nearly_training_with_everything(monkeypatch):
    monkeypatch.setattr(train, "metric_texts", lambda: interactions()[:120:40])
    plan = damped_plan(noise_multiplier=0.0, steps=2)
    job = TenantJob(job_key="a", plan=plan, users=make_users((3,), (5, 9, 2)), noise_key=bytes(32))
    run = make_run("llama", [job])
    whole = run.train()
    every = run.decoder.head.vocabulary
    found = {}
    for count in (every // 8, every - 1, every):
        short = make_run("llama", [replace(job, plan=replace(plan, label_shortlist=count))])
        found[count] = float((short.train() - whole).norm() / (whole - run.start).norm())
    assert found[every] == 0.0
    assert 0.0 < found[every - 1] < 0.1
    assert found[every // 8] > found[every - 1]


def test_a_shortlist_needs_the_metric_whose_public_texts_choose_it():
    with pytest.raises(ValueError, match="label_shortlist is 100; allowed is 0, or above it with a damping"):
        damped_plan(damping=0.0, label_shortlist=100)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_label_with_several_tokens_has_the_mean_of_their_losses_by_their_shares(
    weight, hidden, generator, softcap
):
    head = OutputHead(weight, torch.nn.Identity(), softcap)
    tokens = torch.randint(VOCABULARY, (LABELS, 3), generator=generator)
    tokens[0] = 5  # one token three times
    shares = torch.softmax(torch.randn(LABELS, 3, generator=generator, dtype=FP64), 1)
    slow = sum(shares[:, at] * head.label_nll(hidden, tokens[:, at]) for at in range(3))
    fast = head.label_nll(hidden, tokens, shares=shares)
    torch.testing.assert_close(fast, slow)
    weighted = torch.arange(1.0, LABELS + 1, dtype=FP64)
    slopes = [torch.autograd.grad((loss * weighted).sum(), hidden)[0] for loss in (fast, slow)]
    torch.testing.assert_close(*slopes)


def test_shares_are_refused_with_a_shortlist_whose_loss_knows_none(weight, hidden, targets):
    head = OutputHead(weight, torch.nn.Identity(), None)
    shares = torch.full((LABELS,), 0.5, dtype=FP64)
    with pytest.raises(ValueError, match="shares are given with a shortlist; allowed are those without one"):
        head.label_nll(hidden, targets, shares=shares, shortlist=head.shortlist(torch.arange(10)))
