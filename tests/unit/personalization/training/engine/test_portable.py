"""A trained adapter is a plain PEFT LoRA: exactly two files, equal logits, and a start for the next release."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from personalization.planning.plan import Family, PerformanceFlags
from personalization.training.base.directory import fingerprint, resolve_base
from personalization.training.child import entry as child
from personalization.training.child import parent
from personalization.training.child.parent import run_job
from personalization.training.errors import (
    AdapterFormatError,
    BaseModelError,
    ChildFailedError,
    NotTrainedError,
    TrainingStoppedError,
)
from personalization.training.jobs.job import Example, Progress, TenantJob, TrainingJob, UserExamples
from personalization.training.jobs.receipt import public_key_of
from personalization.training.jobs.wire import decode_job, decode_reply, encode_failure, encode_job
from personalization.training.run.fused import train
from personalization.training.run.host import AdapterHost
from personalization.training.run.measure import generate, nll_per_user
from tests.fakes.tiny_models import STYLES, make_plan, write_tiny_base

RECEIPT_KEY = bytes([9] * 32)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def make_job(base, output, *, family=Family.CORE, start=None, **changes):
    fields = {
        "steps": 2,
        "sample_rate": 1.0,
        "expected_cohort": 2.0,
        "clipping_norm": 1.0,
        "noise_multiplier": 0.1,
        "learning_rate": 0.1,
        "contribution_bound": 4,
        "top_layers": 2,
        "rank": 4,
        "family": family,
    }
    users = tuple(
        UserExamples(examples=(Example(prompt=f"path {n}", completion="fix: the thing"),)) for n in range(3)
    )
    tenant = TenantJob(
        job_key="a",
        plan=make_plan(max_tokens=96, **{**fields, **changes}),
        users=users,
        noise_key=bytes(32),
        receipt_key=RECEIPT_KEY,
        start_adapter=start,
    )
    return TrainingJob(
        base_model=str(base), tenants=(tenant,), output=output, flags=PerformanceFlags(device="cpu")
    )


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("style", STYLES)
def test_adapter_reloads_through_plain_peft_with_equal_loss(tmp_path, style, family):
    base = write_tiny_base(tmp_path / "base", style)
    job = make_job(base, tmp_path / "out", family=family)
    (result,) = train(job, lambda _p: None)
    assert sorted(path.name for path in result.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(plain, str(result.adapter))
    users = job.tenants[0].users
    ours = nll_per_user(base, result.adapter, users)
    from personalization.training.engine.encoding import Encoder

    row = Encoder.load(base).row(users[0].examples[0].prompt, users[0].examples[0].completion, 96)
    labels = torch.tensor([[-100] * row.first_label + list(row.tokens[row.first_label :])])
    theirs = model(torch.tensor([row.tokens]), labels=labels).loss
    assert ours[0] == pytest.approx(float(theirs), rel=2e-5)
    assert abs(ours[0] - nll_per_user(base, None, users)[0]) > 1e-3


@pytest.mark.parametrize("family", list(Family))
def test_next_release_starts_where_the_last_ended(base, tmp_path, family):
    (first,) = train(make_job(base, tmp_path / "one", family=family), lambda _p: None)
    job = make_job(base, tmp_path / "two", family=family, start=first.adapter, learning_rate=1e-6)
    (second,) = train(job, lambda _p: None)
    users = job.tenants[0].users
    assert nll_per_user(base, second.adapter, users) == pytest.approx(
        nll_per_user(base, first.adapter, users), rel=1e-4
    )
    assert 100 * second.delta_norm < first.delta_norm


def test_start_from_another_line_is_refused(base, tmp_path):
    (first,) = train(make_job(base, tmp_path / "one", rank=2), lambda _p: None)
    with pytest.raises(AdapterFormatError, match="rank"):
        train(make_job(base, tmp_path / "two", start=first.adapter, rank=4, alpha=16.0), lambda _p: None)
    (b_only,) = train(make_job(base, tmp_path / "three", family=Family.FULL), lambda _p: None)
    with pytest.raises(AdapterFormatError, match="same line"):
        train(make_job(base, tmp_path / "four", start=b_only.adapter), lambda _p: None)


def test_weights_that_did_not_move_fail_loudly(base, tmp_path):
    with pytest.raises(NotTrainedError, match="did not move"):
        train(make_job(base, tmp_path, learning_rate=0.0), lambda _p: None)
    assert not (tmp_path / "a").exists()


def test_job_survives_the_wire(base, tmp_path):
    job = make_job(base, tmp_path)
    assert decode_job(encode_job(job)) == job


def test_child_process_trains_and_reports(base, tmp_path):
    seen = []
    (result,) = run_job(make_job(base, tmp_path), on_progress=seen.append)
    assert (result.adapter / "adapter_model.safetensors").is_file()
    result.receipt.verify(public_key_of(RECEIPT_KEY))
    assert result.receipt.receipt.departures == ()
    assert [p.stage for p in seen if p.stage != "prefix"] == ["load", "load", "train", "train", "export"]
    (alone,) = train(make_job(base, tmp_path / "again"), lambda _p: None)
    here, there = (load_file(one.adapter / "adapter_model.safetensors") for one in (alone, result))
    torch.testing.assert_close(
        here, there
    )  # not to the bit: the two processes may use other numbers of threads


def test_child_failure_arrives_as_its_class(base, tmp_path):
    for job, expected in (
        (make_job(base, tmp_path, learning_rate=0.0), NotTrainedError),
        (make_job(tmp_path / "nothing", tmp_path), BaseModelError),
    ):
        ours, theirs = multiprocessing.Pipe()
        ours.send_bytes(encode_job(job))
        child.main(theirs)  # in this process: a spawned one takes seconds to import torch
        with pytest.raises(expected):
            while isinstance(decode_reply(ours.recv_bytes()), Progress):
                pass


def test_failure_from_elsewhere_does_not_quote_its_text():
    reply = encode_failure(ValueError("alice@example.org wrote: hello"))
    assert b"alice" not in reply
    with pytest.raises(ChildFailedError, match="ValueError"):
        decode_reply(reply)


def test_child_that_dies_is_reported(base, tmp_path, monkeypatch):
    monkeypatch.setattr(parent, "_TRAINING", "keyword")  # a module that does nothing and ends
    with pytest.raises(ChildFailedError, match="exit status"):
        run_job(make_job(base, tmp_path))


def test_lost_lease_kills_the_child(base, tmp_path):
    with pytest.raises(TrainingStoppedError):
        run_job(make_job(base, tmp_path, steps=100_000), should_stop=lambda: True)


def test_parent_side_imports_no_torch():
    code = (
        "import sys, personalization.training.child.parent;"
        " sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_config_is_the_portable_profile(base, tmp_path):
    (result,) = train(make_job(base, tmp_path), lambda _p: None)
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["bias"] == "none"
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["base_model_name_or_path"] == base.name == fingerprint(base).model_id


def test_no_released_file_tells_where_anything_lies_on_the_trainer(base, tmp_path):
    (result,) = train(make_job(base, tmp_path), lambda _p: None)
    host = AdapterHost(base)
    host.load("a", result.adapter)  # PEFT puts it beside a base that is loaded already
    assert host.names == {"a"}
    for file in result.adapter.iterdir():
        content = file.read_bytes()
        for place in (base.parent, tmp_path, Path.home(), Path.cwd()):
            assert str(place).encode() not in content


def test_a_base_is_known_by_its_digests_and_is_a_directory(base, tmp_path):
    other = write_tiny_base(tmp_path / "other", seed=5)
    assert fingerprint(base) == fingerprint(base)
    assert fingerprint(other).weights_digest != fingerprint(base).weights_digest
    assert fingerprint(other).config_digest == fingerprint(base).config_digest
    with pytest.raises(BaseModelError, match="never downloaded"):
        resolve_base("some/model", tmp_path)
    assert resolve_base(str(base), tmp_path) == base


def test_answers_with_and_without_an_adapter(base, tmp_path):
    (result,) = train(make_job(base, tmp_path, learning_rate=5.0), lambda _p: None)
    before = generate(base, None, ["path 1", "a longer path 2"], max_new_tokens=6)
    after = generate(base, result.adapter, ["path 1", "a longer path 2"], max_new_tokens=6)
    assert before != after
    assert generate(base, None, ["path 1", "a longer path 2"], max_new_tokens=6) == before
    assert generate(base, None, ["path 1"], max_new_tokens=6) == before[:1]
