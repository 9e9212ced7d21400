"""The benchmark's rows that do not depend on the machine, and its GPU suite at a tiny size."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "trainer.py"
    spec = importlib.util.spec_from_file_location("trainer_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def ours(benchmark, tenants, rows_each):
    model = benchmark.random_model("tiny", CPU, torch.float32)
    return benchmark.Ours(model, "tiny", tenants, rows_each, 4, 4)


def test_operations_per_step_do_not_depend_on_the_number_of_tenants(benchmark):
    one = benchmark.dispatched_ops(ours(benchmark, 1, 64))
    many = benchmark.dispatched_ops(ours(benchmark, 64, 1))
    assert many <= 1.05 * one


def test_fused_step_dispatches_a_small_part_of_sequential_hooks(benchmark):
    tenants = 8
    peer = benchmark.Peer(
        benchmark.random_model("tiny", CPU, torch.float32), "tiny", tenants, 2, 4, 4, mode="hooks"
    )
    assert benchmark.dispatched_ops(ours(benchmark, tenants, 2)) < 0.1 * benchmark.dispatched_ops(peer)


def test_gpu_suite_runs_on_a_processor_at_a_tiny_size(benchmark):
    report = benchmark.Report(CPU, {})
    benchmark.h200(argparse.Namespace(tiny=True), CPU, torch.float32, report)
    assert all(row["value"] > 0 for row in report.rows)
    assert {"tokens/s", "s", "per hour", "ratio"} <= {row["unit"] for row in report.rows}


def test_report_has_one_row_for_each_figure_of_each_side(benchmark):
    report = benchmark.Report(CPU, {"seed": 0})
    args = argparse.Namespace(tiny=True, full=False, sides=None, repeats=1, only="tenants")
    benchmark.table(args, CPU, torch.float32, report)
    document = report.document()
    assert set(document) == {"machine", "settings", "rows"}
    names = [row["name"] for row in document["rows"]]
    assert len(set(names)) == len(names) == 4 * 2 * 4  # sides × numbers of tenants × figures
    report.add("slow", 2.0, "ratio", at_most=1.0)
    assert document["rows"][-1] == {
        "name": "slow",
        "value": 2.0,
        "unit": "ratio",
        "must": "<= 1.0",
        "ok": False,
    }


def test_both_sides_train_on_the_same_rows(benchmark):
    left = benchmark.random_rows(256, 4, 8, 3)
    assert left == benchmark.random_rows(256, 4, 8, 3)
    assert [(row.length, row.labels) for row in left] == [(8, 3)] * 4
