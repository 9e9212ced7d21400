"""What is measured of an adapter that was made without training: public losses, and the proof that it acts."""

from __future__ import annotations

import torch

from personalization.planning.plan import PerformanceFlags
from personalization.suites.values import SuiteDepth
from personalization.training.child.job import run
from personalization.training.jobs.job import SuiteJob
from personalization.training.run.bench import Workbench
from tests.fakes.tiny_models import make_plan, write_tiny_base


def test_a_released_adapter_is_measured_without_suites_and_proves_itself(tmp_path):
    base, flags = write_tiny_base(tmp_path / "base"), PerformanceFlags(device="cpu", threads=1)
    bench = Workbench(base, make_plan(max_tokens=64), flags)
    noise = torch.Generator().manual_seed(3)
    vector = bench.zero() + 0.01 * torch.randn(bench.geometry.size, generator=noise, dtype=torch.float64)
    adapter = bench.export(vector, tmp_path / "adapter")
    job = SuiteJob(base_model=str(base), adapters={"composed": adapter}, depth=SuiteDepth.OFF, flags=flags)
    (told,) = run(job, lambda _: None)
    assert told.suites is None
    assert told.public_losses is not None
    assert told.activation is not None
    assert told.activation.probes
