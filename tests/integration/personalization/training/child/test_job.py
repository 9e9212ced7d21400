"""Public jobs in a real child process: a warm start under a style guide, first-order MAML, the zero adapter."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from personalization.planning.plan import Family, PerformanceFlags, TrainingPlan, mechanism_of
from personalization.training.child.parent import run_job
from personalization.training.errors import JobInvalidError
from personalization.training.jobs.job import (
    PUBLIC_KEY,
    Example,
    PublicJob,
    TenantJob,
    TrainingJob,
    UserExamples,
)
from personalization.training.jobs.recipes import MamlRecipe, StyleGuide
from personalization.training.jobs.wire import decode_job, encode_job
from tests.fakes.tiny_models import write_tiny_base

PLAN = TrainingPlan(
    family=Family.CORE, rank=4, alpha=4.0, top_layers=1, expected_cohort=3.0, learning_rate=0.05, max_tokens=60,
    mechanism=mechanism_of(
        steps=3, sample_rate=1.0, clipping_norm=0.1, noise_multiplier=0.5, contribution_bound=2
    ),
)  # fmt: skip
GUIDE = {
    "instruction": "Answer as fix(area): text.",
    "examples": [{"prompt": "a.py", "answer": "fix(a): one"}, {"prompt": "b.py", "answer": "fix(b): two"}],
    "pattern": r"fix\([a-z]\): ",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"), layers=2)


def run(base, folder, work):
    flags = PerformanceFlags(device="cpu", threads=1)
    (result,) = run_job(PublicJob(base_model=str(base), plan=PLAN, output=folder, work=work, flags=flags))
    assert result.adapter == folder / PUBLIC_KEY
    tensors = load_file(result.adapter / "adapter_model.safetensors")
    assert result.activation.probes
    return result, {name: values for name, values in tensors.items() if "lora_B" in name}


@pytest.mark.parametrize(
    ("work", "moves"),
    [
        (StyleGuide.from_document(GUIDE), True),
        (MamlRecipe(outer_steps=1, inner_steps=2), True),
        (None, False),
    ],
)
def test_a_public_job_returns_a_portable_adapter_and_what_it_forgets(base, tmp_path, work, moves):
    result, up = run(base, tmp_path / "out", work)
    assert any(np.abs(values).max() > 0 for values in up.values()) is moves
    assert (result.delta_norm > 0) is moves
    assert len(result.public_losses.base) == len(result.public_losses.adapted)
    assert (result.public_losses.base != result.public_losses.adapted) is moves
    assert (result.activation.effect > 0) is moves


def test_a_blend_is_the_average_with_the_earlier_version_and_is_what_is_measured(base, tmp_path):
    flags = PerformanceFlags(device="cpu", threads=1)
    users = tuple(
        UserExamples(examples=(Example(prompt=f"{name}.py", completion=f"fix({name}): x"),)) for name in "abc"
    )
    earlier, _ = run(base, tmp_path / "earlier", StyleGuide.from_document(GUIDE))

    def train(folder, **blend):
        tenant = TenantJob(job_key="t", plan=PLAN, users=users, noise_key=bytes(range(32)), **blend)
        job = TrainingJob(base_model=str(base), tenants=(tenant,), output=tmp_path / folder, flags=flags)
        (result,) = run_job(job)
        return result, load_file(result.adapter / "adapter_model.safetensors")

    alone, plain = train("plain")
    mixed, blended = train("mixed", blend_with=earlier.adapter, blend_share=0.25)
    before = load_file(earlier.adapter / "adapter_model.safetensors")
    for name, values in blended.items():
        np.testing.assert_allclose(values, 0.25 * before[name] + 0.75 * plain[name], atol=1e-6)
    assert mixed.public_losses.adapted != alone.public_losses.adapted
    assert mixed.noise_norm == pytest.approx(0.75 * alone.noise_norm, rel=0.5)  # two draws of one length


def test_a_public_job_travels_as_it_is(tmp_path):
    for work in (StyleGuide.from_document(GUIDE), MamlRecipe(), None):
        job = PublicJob(base_model="b", plan=PLAN, output=tmp_path, work=work)
        assert decode_job(encode_job(job)) == job


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tone": "x"}, "unknown field 'tone'"),
        ({"examples": "x"}, "are lists"),
        ({"examples": [{"prompt": "a.py"}]}, "are texts"),
        ({"instruction": 7}, "are texts"),
        ({"prompts": ["a"] * 1001}, "at most 1,000"),
        ({"examples": []}, "at least one example"),
        ({"pattern": "("}, "no regular expression"),
    ],
)
def test_a_style_guide_that_cannot_be_used_is_refused_in_one_sentence(change, said):
    with pytest.raises(JobInvalidError, match=said):
        StyleGuide.from_document(GUIDE | change)
    with pytest.raises(JobInvalidError, match="JSON object"):
        StyleGuide.from_document([GUIDE])


def test_describing_public_work_needs_no_torch():
    modules = "sys, personalization.training.child.parent, personalization.training.jobs.recipes"
    code = f"import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
