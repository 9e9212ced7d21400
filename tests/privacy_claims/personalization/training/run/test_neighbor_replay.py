"""Neighboring datasets through the real training loop with frozen noise: one user moves a step by at most C.

The whole loop runs: encoding, Poisson coins, losses, per-user gradients, clipping, noise, public
normalizer. The inner optimizer is replaced by plain subtraction, so what a one-step run releases, times the
normalizer, is the noisy sum itself. The noise key is the same for both datasets and the last user is the
one that leaves, so coins and noise are equal and the difference is that user's influence. Then the classic
bugs are planted one by one: each must be seen. Last, any one user leaves and everybody else keeps their coins, over
several steps, and the influence is counted in whole numbers.

What the witness of a run refuses is no part of this (``test_receipts.py``): the replay has to see a bug by itself.
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
from privacy.noise import lattice
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
    """Rounding noisy sums is post-processing, but two rounded sums differ by more than the sums: look at the sums."""
    monkeypatch.setattr(lattice, "COARSE_BITS", 40)


@pytest.fixture(autouse=True)
def no_witness(monkeypatch):
    monkeypatch.setattr(FusedDPOptimizer, "receipts", lambda self: [None] * len(self.mechanisms))


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
        total = self.parameter.summed_grad.to(seen[-1].dtype)
        self.parameter.summed_grad.copy_(torch.bmm(total[:, None], seen[-1])[:, 0].round())
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


# The heaviest user stands neither first nor last.
CROWD = (PEOPLE[0], PEOPLE[-1], *PEOPLE[1:-1])
STEPS = 5


class Ledger(torch.optim.Optimizer):
    """Notes every step's noisy mean and moves nothing, so that each step of both runs stands at the same weights."""

    def __init__(self, parameter, noted):
        super().__init__([parameter], {})
        self._noted = noted

    def step(self, closure=None):
        self._noted.append(self.param_groups[0]["params"][0].grad[0].clone())


def whole_sums(users, key, leaver, monkeypatch, **changes):
    """Return each step's noisy sum in units; without ``leaver``, while everybody else keeps their coins."""
    plan = make_plan(steps=STEPS, sample_rate=0.6, expected_cohort=COHORT, **changes)
    stays = [user for user in range(len(users)) if user != leaver]
    noted = []
    draw = train.draw_users

    def with_the_same_coins(stream, step, count, rate):
        assert count == len(stays)
        fell = set(draw(stream, step, len(users), rate))
        return [place for place, user in enumerate(stays) if user in fell]

    with monkeypatch.context() as patch:
        patch.setattr(train, "draw_users", with_the_same_coins)
        for inner in ("TenantAdam", "TenantDescent"):
            patch.setattr(train, inner, lambda parameter, *_: Ledger(parameter, noted))
        patch.setattr(train.FusedRun, "_released", lambda self, _averages: self.start)
        people = tuple(users[user] for user in stays)
        make_run("llama", [TenantJob(job_key="a", plan=plan, users=people, noise_key=key)]).train()
    exact = torch.stack(noted) * COHORT / lattice.unit(plan.clipping_norm)
    whole = exact.round()
    assert (exact - whole).abs().max() < 1e-3
    return whole.to(torch.int64)


def whole_influences(users, key, leaver, monkeypatch, **changes):
    """Return the squared influence of one user on each step, in squared units of 2⁻²⁰ of the clipping norm."""
    everyone = whole_sums(users, key, None, monkeypatch, **changes)
    moved = everyone - whole_sums(users, key, leaver, monkeypatch, **changes)
    return [sum(number**2 for number in step) for step in moved.tolist()]


@pytest.mark.parametrize("changes", [{}, IN_METRIC], ids=["plain", "in the metric"])
@pytest.mark.parametrize("leaver", [0, 1, 3, 5], ids=["first", "heaviest", "middle", "last"])
def test_whoever_leaves_moves_no_step_by_more_than_the_clipping_norm(leaver, changes, monkeypatch):
    typical = typical_norm(CROWD, **changes)
    moved = [
        square
        for key in KEYS[:2]
        for square in whole_influences(
            CROWD, key, leaver, monkeypatch, clipping_norm=0.2 * typical, **changes
        )
    ]
    assert max(moved) <= lattice.REACH**2  # whole numbers: no slack
    assert max(moved) > 0.9 * lattice.REACH**2
    assert min(moved) == 0  # a step whose coin did not fall


@pytest.mark.parametrize("plant", [batch_mean_token_loss, clipped_per_example, noise_of_the_data])
def test_a_planted_bug_is_seen_whoever_leaves(plant, monkeypatch):
    typical = typical_norm(CROWD)
    plant(monkeypatch)
    moved = [
        max(whole_influences(CROWD, KEYS[0], leaver, monkeypatch, clipping_norm=0.2 * typical))
        for leaver in range(len(CROWD))
    ]
    assert max(moved) > 1.1 * lattice.REACH**2
