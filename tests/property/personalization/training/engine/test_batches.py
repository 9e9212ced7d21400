"""Ragged lengths, many rows per user, empty tenants, infinite rows: no user's gradient feels the others."""

from __future__ import annotations

import functools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from personalization.planning.plan import Family
from personalization.training.engine.batches import split_users
from personalization.training.engine.segments import Segments
from personalization.training.jobs.job import TenantJob
from tests.fakes.tiny_models import make_plan, make_run, make_users, random_vectors

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)
users = st.lists(st.lists(st.integers(0, 12), min_size=0, max_size=4).map(tuple), max_size=4)


@given(
    lengths=lengths,
    wide=st.integers(1, 5),
    narrow=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=60)
def test_segment_products_equal_a_loop(lengths, wide, narrow, dtype):
    wide, narrow = 4 * wide, 4 * narrow if dtype == torch.float32 else narrow
    generator = torch.Generator().manual_seed(sum(lengths))
    segments = Segments(lengths)
    values = torch.randn(segments.tokens, wide, generator=generator, dtype=dtype)
    others = torch.randn(segments.tokens, narrow, generator=generator, dtype=dtype)
    weights = torch.randn(segments.count, wide, narrow, generator=generator, dtype=dtype)
    parts = list(zip(values.split(lengths), others.split(lengths), strict=True))
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    expected = torch.cat([part @ weight for (part, _), weight in zip(parts, weights, strict=True)])
    torch.testing.assert_close(segments.multiply(values, weights), expected, **tolerance)
    expected = torch.stack([left.t() @ right for left, right in parts])
    torch.testing.assert_close(segments.outer(values, others), expected, **tolerance)
    assert torch.equal(segments.unpad(segments.pad(values)), values)


@functools.cache
def runner(family):
    job = TenantJob(job_key="a", plan=make_plan(family=family), users=(), noise_key=bytes(32))
    return make_run("llama", [job])


def fused(family, tenants, vectors_of):
    """Per-user gradients of all tenants in one batch, and each user's members."""
    run = runner(family)
    run.tenants = [
        TenantJob(
            job_key=str(n), plan=make_plan(family=family), users=make_users(*shapes), noise_key=bytes(32)
        )
        for n, shapes in enumerate(tenants)
    ]
    members = [m for tenant in run._prefix() for m in tenant if m.user.examples]
    return run, members, vectors_of(run)


@given(
    family=st.sampled_from(list(Family)),
    tenants=st.lists(users, min_size=1, max_size=4),
    limit=st.integers(1, 400),
    poison=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=40)
def test_a_users_gradient_is_the_same_alone_and_among_others(family, tenants, limit, poison):
    def vectors_of(run):
        run.start = run.start[:1].expand(len(tenants), -1)
        return random_vectors(run)

    run, members, vectors = fused(family, tenants, vectors_of)
    alone = [run.user_gradients(vectors, [member])[0] for member in members]
    together = [row for part in split_users(members, limit) for row in run.user_gradients(vectors, part)]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    if not members:
        return
    # One token of one user becomes infinite: only that user's gradient changes.
    victim = poison % len(members)
    run._cache._store[members[victim].cached[0].start] = math.inf
    poisoned = [row for part in split_users(members, limit) for row in run.user_gradients(vectors, part)]
    for number, (one, other) in enumerate(zip(together, poisoned, strict=True)):
        if number == victim:
            assert not torch.isfinite(other).all()
        else:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
