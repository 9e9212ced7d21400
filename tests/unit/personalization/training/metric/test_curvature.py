"""Steps in the public metric: the curvature against slow code, its whitening, fused tenants, and what it may see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from personalization.planning.plan import ALL_LINEAR, FEED_FORWARD, Family, PerformanceFlags, Subspace
from personalization.training.errors import NotTrainedError
from personalization.training.jobs.job import TenantJob
from personalization.training.metric import curvature, sparing
from personalization.training.metric.curvature import PublicCurvature
from personalization.training.metric.frozen import LoadedShape
from personalization.training.metric.metric import REFRESHED_AT, Metric, whitening
from personalization.training.metric.sparing import STEP_PULL, pulled_back, step_pull
from personalization.training.public.styles import interactions
from personalization.training.public.texts import protected_users
from personalization.training.run import fused as train
from personalization.training.run.fused import fusion_key
from tests.fakes.tiny_models import (
    damped_plan,
    encode_user,
    in_float64_norms,
    make_run,
    make_users,
    random_vectors,
    tiny_model,
)

FP64 = torch.float64
SOME = interactions()[:120:20]  # of six styles; every second one is used


@pytest.fixture(autouse=True)
def few_interactions(monkeypatch):
    monkeypatch.setattr(train, "metric_texts", lambda: SOME[::2])


def one_tenant(users=((3,), (5, 9, 2)), key=bytes(32), **changes):
    return TenantJob(job_key="a", plan=damped_plan(**changes), users=make_users(*users), noise_key=key)


def curvature_of(run, token_limit=4096):
    flags = PerformanceFlags(tokens_per_microbatch=token_limit)
    return PublicCurvature(SOME[::2], replace(run.shape, flags=flags))


def slow_fisher(style, run, vector):
    """Merge the adapter into the weights of the transformers model and differentiate one label at a time."""
    model = in_float64_norms(tiny_model(style).to(FP64))
    weights = dict(model.named_parameters())
    leaf = vector.clone().requires_grad_()
    merged = {}
    for (layer, suffix), (down, up) in run.geometry.factors(leaf, run.frozen).items():
        name = f"model.layers.{layer}.mlp.{suffix}.weight"
        merged[name] = weights[name].detach() + run.geometry.scaling * up @ down
    logps = []
    for user in SOME[::2]:
        (example,) = encode_user(run.encoder, user, run.tenants[0].plan).examples
        (row,) = example.rows
        out = torch.func.functional_call(model, merged, (torch.tensor([row.tokens[:-1]]),))
        logps.append(torch.log_softmax(out.logits[0, row.first_label - 1 :], -1))
    every = torch.cat(logps)
    coins = torch.rand(len(every), generator=torch.Generator().manual_seed(curvature._SEED))
    total = torch.zeros(len(vector), len(vector), dtype=FP64)
    for logp, coin in zip(every, coins.tolist(), strict=True):
        drawn = int((logp.detach().exp().cumsum(0) < coin).sum())
        (gradient,) = torch.autograd.grad(-logp[drawn], leaf, retain_graph=True)
        total += torch.outer(gradient, gradient)
    return total / len(every)


@pytest.mark.parametrize(
    ("style", "subspace"),
    [("qwen2", Subspace.WEIGHTS), ("mistral", Subspace.WEIGHTS), ("qwen3", Subspace.PUBLIC_GRADIENTS)],
)
def test_the_fisher_information_is_the_mean_over_labels_one_at_a_time(style, subspace):
    run = make_run(style, [one_tenant(subspace=subspace, alpha=6.0)])
    vector = random_vectors(run)[0]
    slow = slow_fisher(style, run, vector)
    assert float(torch.trace(slow)) > 1e-6
    # However the public texts are cut into passes, the coins fall alike.
    for token_limit in (4096, 1):
        fast = curvature_of(run, token_limit).fisher(vector)
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12 * float(slow.abs().max()))


def test_the_same_coins_fall_at_every_call_and_others_draw_other_labels(monkeypatch):
    run = make_run(
        "qwen2", [one_tenant()]
    )  # llama's tied embeddings make it too sure of itself for coins to matter
    vector = random_vectors(run)[0]
    public = curvature_of(run)
    seen = []
    plain = run.decoder.head.drawn_labels

    def drawn(hidden, coins, **how):
        seen.append(plain(hidden, coins, **how))
        return seen[-1]

    monkeypatch.setattr(run.decoder.head, "drawn_labels", drawn)
    first, again = public.fisher(vector), public.fisher(vector)
    monkeypatch.setattr(curvature, "_SEED", 7)
    other = public.fisher(vector)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(first, again)
    assert not torch.equal(seen[0], seen[2])
    assert float((other - first).norm()) > 0.01 * float(first.norm())


def test_a_base_keeps_one_curvature_for_each_shape_it_was_taken_on():
    run = make_run("llama", [one_tenant()])

    def laid_out(**changes):
        return LoadedShape.of_plan(run.decoder, run.encoder, damped_plan(**changes), run.flags)

    kept = PublicCurvature.kept(SOME[:1], run.shape)
    assert PublicCurvature.kept(SOME[:1], laid_out(noise_multiplier=3.0, steps=9)) is kept
    others = [
        PublicCurvature.kept(SOME[1:2], run.shape),
        *(
            PublicCurvature.kept(SOME[:1], laid_out(**changes))
            for changes in (
                {"rank": 2},
                {"max_tokens": 47},
                {"label_shortlist": 20},
                {"subspace": Subspace.PUBLIC_GRADIENTS},
            )
        ),
    ]
    assert len({id(one) for one in (kept, *others)}) == 6


@pytest.mark.parametrize("damping", [0.05, 3.0])
def test_whitening_undoes_the_damped_curvature(damping):
    rows = torch.randn(
        9, 12, generator=torch.Generator().manual_seed(1), dtype=FP64
    )  # three directions are flat
    fisher = rows.t() @ rows / 9
    found = whitening(fisher, damping)
    damped = fisher + damping * torch.trace(fisher) / 12 * torch.eye(12, dtype=FP64)
    torch.testing.assert_close(found, found.t(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found @ damped @ found, torch.eye(12, dtype=FP64), rtol=0, atol=1e-10)
    assert whitening(fisher.float(), damping).dtype is FP64


def test_whitening_of_no_curvature_is_finite_and_of_a_broken_one_is_refused():
    assert bool(torch.isfinite(whitening(torch.zeros(4, 4), 0.3)).all())
    with pytest.raises(NotTrainedError, match="not finite"):
        whitening(torch.full((2, 2), torch.nan), 0.3)


def test_each_tenant_of_a_fused_batch_trains_as_if_alone():
    shapes = [((3,), (5, 9, 2)), ((4, 4),), ((2,), (7,), (1, 1, 1)), ()]
    tenants = [
        TenantJob(
            job_key=f"t{number}",
            users=make_users(*users),
            noise_key=bytes([number] * 32),
            plan=damped_plan(
                steps=2 + 2 * number,
                clipping_norm=0.1 * (number + 1),
                noise_multiplier=0.5 + number,
                expected_cohort=2.0 + number,
                sample_rate=1.0 if number % 2 else 0.6,
                learning_rate=0.01 * (number + 1),
                damping=(0.05, 3.0, 0.3, 0.3)[number],
            ),
        )
        for number, users in enumerate(shapes)
    ]
    assert len({fusion_key(tenant.plan) for tenant in tenants}) == 1
    together = make_run("llama", tenants, tokens_per_microbatch=64).train()
    for number, tenant in enumerate(tenants):
        run = make_run("llama", [tenant], tokens_per_microbatch=64)
        alone = run.train()[0]
        torch.testing.assert_close(together[number], alone, rtol=0, atol=1e-10)
        assert (alone - run.start[0]).abs().max() > 1e-4


def test_turning_many_tenants_is_turning_each():
    factors = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(2), dtype=FP64)
    metric = Metric(curvature=None, dampings=[0.3] * 3, factors=factors)
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=FP64)
    tenants = torch.tensor([0, 0, 0, 2, 2, 2])  # none of tenant 1 was drawn
    turned = metric.precondition(rows, tenants)
    for row, tenant, found in zip(rows, tenants, turned, strict=True):
        torch.testing.assert_close(found, row @ factors[tenant])
    torch.testing.assert_close(metric.precondition(rows[3:], tenants[3:]), turned[3:])
    torch.testing.assert_close(metric.restore(rows[:3])[1], rows[1] @ factors[1])


def test_an_iterate_is_moved_to_where_its_change_and_public_text_cost_least():
    generator = torch.Generator().manual_seed(4)
    half, rows = (torch.randn(7, 7, generator=generator, dtype=FP64) for _ in range(2))
    fisher, protection = half.t() @ half, rows.t() @ rows
    steady = fisher + 0.3 * torch.diagonal(fisher).mean() * torch.eye(7, dtype=FP64)
    iterate = torch.randn(7, generator=generator, dtype=FP64)

    def cost(vector):
        moved = vector - iterate
        return moved @ steady @ moved + STEP_PULL * 0.3 * vector @ protection @ vector

    found = (step_pull(fisher, 0.3, protection) @ iterate).requires_grad_()
    (slope,) = torch.autograd.grad(cost(found), found)
    torch.testing.assert_close(slope, torch.zeros(7, dtype=FP64), rtol=0, atol=1e-10)
    assert cost(found) < cost(iterate)


def test_only_iterates_whose_schedule_runs_are_moved():
    pulls = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(2), dtype=FP64)
    metric = Metric(curvature=None, dampings=[0.3] * 3, factors=torch.zeros_like(pulls), pulls=pulls)
    before = torch.randn(3, 5, generator=torch.Generator().manual_seed(3), dtype=FP64)
    after = before.clone()
    metric.protect(after, [0, 2])
    torch.testing.assert_close(after, torch.stack([pulls[0] @ before[0], before[1], pulls[2] @ before[2]]))


def test_a_release_changes_protected_text_less_than_training_alone(monkeypatch):
    monkeypatch.setattr(train, "pulled_back", lambda vector, *_: vector)
    job = one_tenant(
        users=((3,), (5, 9), (4,)), noise_multiplier=0.0, steps=4, learning_rate=0.3, damping=0.05
    )
    foretold = []
    for spared in (True, False):
        run = make_run("llama", [job])
        run.spare_public_text = spared
        vector = run.train()[0]
        at_base = PublicCurvature.kept(protected_users(), run.shape).fisher(torch.zeros_like(vector))
        foretold.append(float(vector @ at_base @ vector))
    assert foretold[0] < 0.8 * foretold[1]


def test_a_release_is_moved_back_no_further_than_public_text_needs():
    run = make_run("llama", [one_tenant()])
    styles, protected = curvature_of(run), PublicCurvature.kept(protected_users(), run.shape)
    direction = random_vectors(run)[0]
    zero = torch.zeros_like(direction)
    at_base, kept = protected.fisher(zero), protected.loss(zero)

    def foretold(vector):
        return 0.5 * float(vector @ at_base @ vector) / kept

    far = direction * (3 * sparing.LARGEST_FORETOLD_CHANGE / foretold(direction)) ** 0.5
    found = pulled_back(far, styles, protected, protected)
    assert foretold(far) > sparing.LARGEST_FORETOLD_CHANGE >= foretold(found) > 0.0
    assert protected.loss(found) <= (1.0 + sparing.LARGEST_CHANGE) * kept
    near = direction * 1e-3
    assert torch.equal(pulled_back(near, styles, protected, protected), near)


def watched_run(monkeypatch, job):
    """Train; return the run, and the adapter and the whitening at every step."""
    seen = []
    plain = Metric.refresh

    def refresh(self, step, vectors, active):
        plain(self, step, vectors, active)
        seen.append((vectors[0].clone(), self.factors[0].clone()))

    with monkeypatch.context() as patch:
        patch.setattr(Metric, "refresh", refresh)
        run = make_run("llama", [job])
        run.train()
    return run, seen


def test_the_whitening_is_refreshed_at_its_steps_alone(monkeypatch):
    _, seen = watched_run(monkeypatch, one_tenant(steps=11))
    assert len(seen) == 11
    changed = [step for step in range(11) if step == 0 or not torch.equal(seen[step][1], seen[step - 1][1])]
    assert changed == [step for step in REFRESHED_AT if step < 11]


def test_the_whitening_is_a_function_of_public_texts_and_of_the_iterates_alone(monkeypatch):
    _, seen = watched_run(monkeypatch, one_tenant(steps=5))
    others = one_tenant(users=((20, 4), (1,), (13,)), key=b"k" * 32, steps=5)
    run, own = watched_run(monkeypatch, others)
    assert torch.equal(
        own[0][1], seen[0][1]
    )  # both start at the same adapter, with other users and other coins
    assert not torch.equal(own[1][1], seen[1][1])  # then their iterates differ
    for step in (
        0,
        1,
        2,
        4,
    ):  # the second run's metric, after its users were seen, at the first run's iterates
        vector, factors = seen[step]
        run._metric.refresh(step, vector[None], [0])
        assert torch.equal(run._metric.factors[0], factors)


def test_a_user_that_is_not_finite_contributes_nothing_in_the_metric_either():
    job = one_tenant(users=((3,), (5, 9), (4,)), noise_multiplier=0.0, steps=1)
    run = make_run("llama", [job])
    fill = run._prefix

    def poisoned():
        members = fill()
        run._cache._store[members[0][1].cached[0].start] = torch.inf
        return members

    run._prefix = poisoned
    without = make_run("llama", [replace(job, users=(job.users[0], job.users[2]))])
    torch.testing.assert_close(run.train(), without.train(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": Family.FULL},
        {"family": Family.B_ONLY},
        {"top_layers": 2},
        {"target_modules": ALL_LINEAR},
        {"target_modules": ("o_proj",)},
    ],
)
def test_a_plan_whose_labels_do_not_stand_alone_has_no_metric(changes):
    with pytest.raises(ValueError, match="allowed only for the family core on the feed-forward layers"):
        damped_plan(**changes)
    damped_plan(damping=0.0, **changes)


def test_plans_in_the_metric_are_fused_with_their_like_alone():
    plan = damped_plan()
    assert plan.target_modules == FEED_FORWARD
    assert fusion_key(plan) == fusion_key(damped_plan(damping=2.0, steps=9, noise_multiplier=3.0))
    assert fusion_key(plan) != fusion_key(damped_plan(damping=0.0))
    # The curvature is shared, and a text's truncation is part of it.
    assert fusion_key(plan) != fusion_key(damped_plan(max_tokens=47))
    assert fusion_key(damped_plan(damping=0.0)) == fusion_key(damped_plan(damping=0.0, max_tokens=47))
    assert type(plan).from_document(plan.to_document()) == plan
    old = {key: value for key, value in plan.to_document().items() if key != "damping"}
    assert type(plan).from_document(old).damping == 0.0
