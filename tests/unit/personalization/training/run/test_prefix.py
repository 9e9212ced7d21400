"""The cached prefix changes nothing: in memory, in a file, or not at all; nor does the size of micro-batches."""

from __future__ import annotations

import pytest
import torch

from personalization.training.engine import batches
from personalization.training.errors import JobInvalidError
from personalization.training.jobs.job import TenantJob
from tests.fakes.tiny_models import make_plan, make_run, make_users

USERS = make_users((3,), (5, 9, 2), (1, 14), (7,))


def release(**flags):
    job = TenantJob(job_key="a", plan=make_plan(), users=USERS, noise_key=bytes(32))
    return make_run("llama", [job], **flags).train()


@pytest.mark.parametrize(
    "flags",
    [
        {"cache_prefix": False},
        {"label_only_logits": False},
        {"tokens_per_microbatch": 1},
        {"tokens_per_microbatch": 90},
    ],
)
def test_performance_flags_do_not_change_the_release(flags):
    torch.testing.assert_close(release(**flags), release(), rtol=0, atol=1e-11)


def test_large_prefix_lives_in_a_file_and_changes_nothing(monkeypatch):
    expected = release()
    opened = []
    plain = torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda *a, **k: opened.append(a) or plain(*a, **k))
    monkeypatch.setattr(batches, "PREFIX_BYTES_IN_MEMORY", 0)
    torch.testing.assert_close(release(), expected, rtol=0, atol=1e-11)
    assert len(opened) == 1


def test_more_layers_than_the_model_has_are_refused():
    with pytest.raises(JobInvalidError, match="the base model has 3"):
        make_run(
            "llama", [TenantJob(job_key="a", plan=make_plan(top_layers=4), users=USERS, noise_key=bytes(32))]
        )


def test_all_layers_adapted_needs_no_prefix():
    job = TenantJob(job_key="a", plan=make_plan(top_layers=3), users=USERS, noise_key=bytes(32))
    run = make_run("llama", [job])
    assert torch.isfinite(run.train()).all()
    assert run._cache._store is None
