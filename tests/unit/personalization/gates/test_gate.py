"""The gate releases portable, finite, bounded adapters that do something, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from personalization.adapters.manifest import GateCheck
from personalization.adapters.tensors import read_tensors, tensor_digest
from personalization.errors import ArtifactFormatError
from personalization.gates.gate import (
    Accepted,
    GateThresholds,
    PublicEvaluation,
    RejectionReason,
    delta_norm,
    judge,
    trained_count,
)
from personalization.planning.plan import Family, TrainingPlan, mechanism_of
from tests.fakes.training import write_adapter

PLAN = TrainingPlan(
    mechanism=mechanism_of(
        steps=4, sample_rate=0.5, clipping_norm=1.0, noise_multiplier=2.0, contribution_bound=4
    ),
    expected_cohort=50,
    learning_rate=0.1,
    rank=4,
    alpha=4.0,
    top_layers=2,
)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path):
    write_adapter(tmp_path / "adapter", PLAN, 7)
    return tmp_path / "adapter"


def changed_config(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def changed_weights(adapter, change):
    tensors = load_file(adapter / WEIGHTS)
    save_file(change(tensors), adapter / WEIGHTS)


def test_a_portable_adapter_is_accepted_with_its_shape(adapter):
    verdict = judge(adapter, PLAN)
    assert isinstance(verdict, Accepted)
    assert (verdict.lora.rank, verdict.lora.layers) == (4, (0, 1))
    assert verdict.lora.tensor_digest == tensor_digest(read_tensors(adapter / WEIGHTS))
    assert all(check.passed for check in verdict.evaluation.checks)


@pytest.mark.parametrize("family", list(Family))
def test_the_manifest_counts_what_was_trained_not_what_the_file_holds(adapter, family):
    plan = replace(PLAN, family=family)
    shapes = {name: values.shape for name, values in load_file(adapter / WEIGHTS).items()}
    ups = [shape for name, shape in shapes.items() if "lora_B" in name]
    expected = {
        Family.CORE: 4 * 4 * len(ups),
        Family.B_ONLY: sum(outputs * rank for outputs, rank in ups),
        Family.FULL: sum(first * second for first, second in shapes.values()),
    }[family]
    assert judge(adapter, plan).lora.trainable_parameters == expected


def test_of_a_combined_adapter_the_private_part_is_counted(adapter):
    tensors = read_tensors(adapter / WEIGHTS)
    one = next(tensor.name for tensor in tensors).rsplit(".lora_", 1)[0]
    assert trained_count(tensors, Family.CORE, frozenset({one})) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "lm_head"]},
        {"r": 8},
        {"lora_alpha": 8},
        {"peft_type": "LOHA"},
        {"base_model_name_or_path": "/srv/models/base"},
    ],
)
def test_what_servers_do_not_load_is_refused(adapter, changes):
    changed_config(adapter, **changes)
    assert judge(adapter, PLAN).reasons == (RejectionReason.PROFILE,)


def test_another_file_is_refused(adapter):
    (adapter / "run.py").write_text("")
    assert judge(adapter, PLAN).reasons == (RejectionReason.FILES,)


def test_a_damaged_file_is_refused(adapter):
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:-3])
    assert judge(adapter, PLAN).reasons == (RejectionReason.FILES,)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, RejectionReason.NOT_FINITE),
        (0.0, RejectionReason.NO_EFFECT),
        (1e4, RejectionReason.UNBOUNDED),
    ],
)
def test_bad_numbers_are_refused(adapter, value, reason):
    changed_weights(
        adapter, lambda tensors: {name: np.full_like(one, value) for name, one in tensors.items()}
    )
    assert reason in judge(adapter, PLAN).reasons


def test_next_to_nothing_of_a_change_is_no_effect_without_a_public_part(adapter):
    assert isinstance(judge(adapter, replace(PLAN, shrinkage=0.3)), Accepted)
    assert judge(adapter, replace(PLAN, shrinkage=0.02)).reasons == (RejectionReason.NO_EFFECT,)


def test_a_tensor_outside_the_plan_is_refused(adapter):
    changed_weights(adapter, lambda tensors: {**tensors, "lm_head.weight": np.ones((2, 2), np.float32)})
    assert judge(adapter, PLAN).reasons == (RejectionReason.PROFILE,)


def test_a_missing_factor_is_refused(adapter):
    changed_weights(adapter, lambda tensors: dict(list(tensors.items())[1:]))
    assert judge(adapter, PLAN).reasons == (RejectionReason.PROFILE,)


def test_a_rank_that_servers_do_not_hold_is_refused(adapter):
    assert judge(adapter, PLAN, thresholds=GateThresholds(max_rank=2)).reasons == (RejectionReason.PROFILE,)


def test_a_failed_check_on_public_text_refuses(adapter):
    public = PublicEvaluation(checks=(GateCheck(name="public_loss", passed=False, value=3.0, threshold=2.9),))
    verdict = judge(adapter, PLAN, public)
    assert verdict.reasons == (RejectionReason.PUBLIC_EVALUATION,)
    assert "public_evaluation" in verdict.sentence()


def test_the_norm_is_that_of_the_full_product(adapter):
    tensors = {tensor.name: tensor.values.astype(np.float64) for tensor in read_tensors(adapter / WEIGHTS)}
    total = sum(
        np.sum((tensors[name.replace("lora_A", "lora_B")] @ a) ** 2)
        for name, a in tensors.items()
        if "lora_A" in name
    )
    assert delta_norm(read_tensors(adapter / WEIGHTS), 0.5) == pytest.approx(0.5 * np.sqrt(total))


def test_half_precision_is_read_as_stored(tmp_path):
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    body = np.array([1.5, -2.0], "<f4").view("<u4") >> 16
    path = tmp_path / "half.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body.astype("<u2").tobytes())
    (tensor,) = read_tensors(path)
    assert tensor.values.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]},
        {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, entry):
    text = json.dumps({"x": entry}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ArtifactFormatError):
        read_tensors(path)
