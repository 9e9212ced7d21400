"""Neighboring datasets through the real training loop with frozen noise: one user moves a step by at most C.

The whole loop runs: encoding, Poisson coins, losses, per-user gradients, clipping, noise, public
normalizer. The inner optimizer is replaced by plain subtraction, so what a one-step run releases, times the
normalizer, is the noisy sum itself. The noise key is the same for both datasets and the last user is the
one that leaves, so coins and noise are equal and the difference is that user's influence. Then the classic
bugs are planted one by one: each must be seen.
"""

from __future__ import annotations

import pytest
import torch

from personalization.planning.plan import FEED_FORWARD, Family, Objective
from personalization.training.engine.batches import Member
from personalization.training.engine.encoding import TokenUser
from personalization.training.engine.losses import LossTerms
from personalization.training.errors import NotTrainedError
from personalization.training.jobs.job import ExampleKind, TenantJob, UserExamples
from personalization.training.mechanism import optimizer
from personalization.training.mechanism.optimizer import FusedDPOptimizer
from personalization.training.metric.metric import Metric
from personalization.training.public.styles import interactions
from personalization.training.run import fused as train
from privacy.noise import normal
from tests.fakes.tiny_models import make_plan, make_run, make_users

# Users of very unequal size; the last one is large and has many examples.
PEOPLE = make_users((3,), (4, 4), (2,), (20,), (3, 2), (24, 22, 20, 18))
MIXED = (
    *make_users((3,), (4, 4)),
    *make_users((5,), (6, 2), kind=ExampleKind.PREFERENCE),
    *make_users((4, 9), (2,), kind=ExampleKind.UNLIKELIHOOD),
    UserExamples(
        examples=tuple(
            example
            for kind in ExampleKind
            for user in make_users((14, 17), kind=kind)
            for example in user.examples
        )
    ),
)
# The coins of keys 1, 2 and 8 draw the last user, those of key 5 do not.
KEYS = [bytes([number]) * 32 for number in (1, 2, 5, 8)]
COHORT = 3.0
IN_METRIC = {
    "family": Family.CORE, "alpha": 4.0, "top_layers": 1, "target_modules": FEED_FORWARD, "damping": 0.3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def subtract_the_gradient(monkeypatch):
    def subtraction(parameter, *_):  # in the metric: of the noisy mean as it is, not turned back
        return torch.optim.SGD([parameter], lr=1.0)

    monkeypatch.setattr(train, "TenantAdam", subtraction)
    monkeypatch.setattr(train, "TenantDescent", subtraction)


@pytest.fixture(autouse=True)
def few_public_texts(monkeypatch):
    monkeypatch.setattr(train, "metric_texts", lambda: interactions()[:120:60])
    # What moves iterates and releases for public text is post-processing; the influence is that on the noisy sum.
    monkeypatch.setattr(train, "pulled_back", lambda vector, *_: vector)
    monkeypatch.setattr(Metric, "protect", lambda *_: None)


@pytest.fixture(autouse=True)
def fine_lattice(monkeypatch):
    """Rounding is post-processing, but two rounded sums differ by more than the sums: look at the sums."""
    monkeypatch.setattr(normal, "LATTICE_BITS", 40)


def noisy_sum(users, key, **changes):
    """Return what one step releases for these users, times the public normalizer."""
    plan = make_plan(steps=1, sample_rate=0.6, expected_cohort=COHORT, **changes)
    run = make_run("llama", [TenantJob(job_key="a", plan=plan, users=tuple(users), noise_key=key)])
    return (run.start - run.train())[0] * COHORT


def influence(users, key, **changes):
    """Return how far the last user moves a step; infinite where one of the two runs releases nothing."""
    try:
        with_user, without = noisy_sum(users, key, **changes), noisy_sum(users[:-1], key, **changes)
    except NotTrainedError:
        return float("inf")
    return float(torch.linalg.vector_norm(with_user - without))


def typical_norm(users, **changes):
    """Return the median norm of a user's gradient before clipping."""
    plan = make_plan(steps=1, sample_rate=1.0, expected_cohort=COHORT, **changes)
    run = make_run("llama", [TenantJob(job_key="a", plan=plan, users=tuple(users), noise_key=bytes(32))])
    (members,) = run._prefix()
    rows = run.user_gradients(run.start, [member for member in members if member.user.examples])
    metric = run._make_metric(run.start)
    if metric is not None:
        metric.refresh(0, run.start, [0])
        rows = metric.precondition(rows, torch.zeros(len(rows), dtype=torch.long))
    return float(torch.linalg.vector_norm(rows, dim=1).median())


def largest_ratio(users, **changes):
    """Return the largest influence ÷ clipping norm over keys and clipping norms around the typical one."""
    typical = typical_norm(users, **changes)
    ratios = [
        influence(people, key, clipping_norm=typical * factor, **changes) / (typical * factor)
        for factor in (0.2, 1.0)
        for key in KEYS
        for people in (users, users[-1:])
    ]
    return max(ratios)


@pytest.mark.parametrize(
    ("users", "objective"),
    [(PEOPLE, Objective.SFT), (MIXED, Objective.SFT_UNLIKELIHOOD), (MIXED, Objective.DPO_SIGMOID)],
    ids=["completions", "completions and rejections", "preferences"],
)
def test_one_user_moves_a_step_by_at_most_the_clipping_norm(users, objective):
    ratio = largest_ratio(users, objective=objective)
    assert 0.9 < ratio <= 1 + 1e-9  # the last user is clipped, so the bound is reached and never passed


@pytest.mark.parametrize("damping", [0.05, 3.0])
def test_one_user_moves_a_step_in_the_public_metric_by_at_most_the_clipping_norm(damping):
    ratio = largest_ratio(PEOPLE, **{**IN_METRIC, "damping": damping})
    assert 0.9 < ratio <= 1 + 1e-9


def test_the_user_that_leaves_was_drawn_in_some_of_the_replays_and_not_in_others():
    typical = typical_norm(PEOPLE)
    # Whoever shares a batch may change the last bits of a sum; an influence is far above them.
    moved = [influence(PEOPLE, key, clipping_norm=typical) > 1e-9 * typical for key in KEYS]
    assert any(moved)
    assert not all(moved)


def normalizer_from_the_batch(monkeypatch):
    monkeypatch.setattr(
        FusedDPOptimizer, "scale_grad", lambda self: self.parameter.grad.div_(max(1, len(self.row_tenants)))
    )


def batch_mean_token_loss(monkeypatch):
    """The loss of `labels=` in transformers: a mean over all tokens of the batch, times its users."""
    of_users = LossTerms.of_users.__func__

    def over_the_batch(cls, users, device, dtype):
        terms = of_users(cls, users, device, dtype)
        return LossTerms(**{**vars(terms), "sft": torch.full_like(terms.sft, len(users) / len(terms.sft))})

    monkeypatch.setattr(LossTerms, "of_users", classmethod(over_the_batch))


def skipped_empty_batch(monkeypatch):
    step = train.FusedRun._step
    monkeypatch.setattr(
        train.FusedRun,
        "_step",
        lambda self, optimizer, parameter, drawn: step(self, optimizer, parameter, drawn) if drawn else 0,
    )
    monkeypatch.setattr(train.TenantMechanism, "check_against_plan", lambda _self: None)


def clipped_per_example(monkeypatch):
    split = train.split_users

    def examples_as_users(members, limit):
        alone = [
            Member(member.tenant, TokenUser((example,)), (cached,))
            for member in members
            for example, cached in zip(member.user.examples, member.cached, strict=True)
        ]
        return split(alone, limit)

    monkeypatch.setattr(train, "split_users", examples_as_users)


def unaccounted_truncation(monkeypatch):
    """A step takes two users at most; when one leaves, another moves up."""
    split = train.split_users
    monkeypatch.setattr(train, "split_users", lambda members, limit: split(members[-2:], limit))


def noise_of_the_data(monkeypatch):
    """The noise is drawn from a stream that the data moves on."""
    plain = optimizer.add_noise
    add = FusedDPOptimizer.add_noise

    def moved(self):
        drawn = len(self.row_tenants)
        monkeypatch.setattr(
            optimizer,
            "add_noise",
            lambda sums, noisy, purpose, step: plain(sums, noisy, purpose, step + drawn),
        )
        add(self)

    monkeypatch.setattr(FusedDPOptimizer, "add_noise", moved)


@pytest.mark.parametrize(
    "plant",
    [
        normalizer_from_the_batch,
        batch_mean_token_loss,
        skipped_empty_batch,
        clipped_per_example,
        unaccounted_truncation,
        noise_of_the_data,
    ],
)
def test_a_planted_bug_is_seen(plant, monkeypatch):
    plant(monkeypatch)
    assert largest_ratio(PEOPLE) > 1.05


def clipped_before_turning(monkeypatch):
    """Gradients are clipped as they are, and what noise is added to is ``W`` times their sum."""
    refresh, add = Metric.refresh, FusedDPOptimizer.add_noise
    seen = []

    def noticed(self, *where):
        refresh(self, *where)
        seen.append(self.factors)

    def turned(self):
        self.parameter.summed_grad.copy_(torch.bmm(self.parameter.summed_grad[:, None], seen[-1])[:, 0])
        add(self)

    monkeypatch.setattr(Metric, "refresh", noticed)
    monkeypatch.setattr(Metric, "precondition", lambda _self, rows, _tenants: rows)
    monkeypatch.setattr(FusedDPOptimizer, "add_noise", turned)


def whitening_of_the_data(monkeypatch):
    """The metric is taken on the users' own texts."""
    make = train.FusedRun._make_metric

    def private(self, vectors):
        own = [user for tenant in self.tenants for user in tenant.users for _ in range(2)]
        alone = [UserExamples(examples=(example,)) for user in own for example in user.examples[:1]]
        with monkeypatch.context() as patch:
            patch.setattr(train, "metric_texts", lambda: tuple(alone))
            return make(self, vectors)

    monkeypatch.setattr(train.FusedRun, "_make_metric", private)


@pytest.mark.parametrize(
    ("plant", "least"), [(clipped_before_turning, 1.05), (whitening_of_the_data, 1.0001)]
)
def test_a_bug_planted_in_the_metric_is_seen(plant, least, monkeypatch):
    plant(monkeypatch)
    assert largest_ratio(PEOPLE, **IN_METRIC) > least
