"""The workbench trains exactly as a round does, measures each user, and its first-order meta-learning learns."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from personalization.planning.plan import Family, PerformanceFlags, TrainingPlan, mechanism_of
from personalization.quality.options import QualityOptions
from personalization.quality.suite import FORMAT, run_quality
from personalization.training.child import job as finish
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.portable import import_adapter
from personalization.training.errors import JobInvalidError
from personalization.training.jobs.job import Example, PublicJob, TenantJob, TrainingJob, UserExamples
from personalization.training.jobs.recipes import MamlRecipe, StyleGuide
from personalization.training.run.bench import Workbench
from personalization.training.run.fused import train_on
from personalization.training.run.measure import nll_per_user
from personalization.training.starts.maml import maml_start
from tests.fakes.tiny_models import write_tiny_base

PLAN = TrainingPlan(
    family=Family.CORE, rank=4, alpha=4.0, top_layers=1, expected_cohort=3.0, learning_rate=0.05, max_tokens=60,
    mechanism=mechanism_of(
        steps=3, sample_rate=0.6, clipping_norm=0.1, noise_multiplier=0.5, contribution_bound=2
    ),
)  # fmt: skip


def users(count, word="answer"):
    return tuple(
        UserExamples(examples=(Example(prompt=f"question {number}", completion=f"{word} {number}"),))
        for number in range(count)
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = write_tiny_base(tmp_path_factory.mktemp("base"), layers=2)
    return Workbench(folder, PLAN, PerformanceFlags(device="cpu"))


def test_it_trains_what_a_round_trains(bench, tmp_path):
    people = users(5)
    vector = bench.train(bench.user_set(people), PLAN, noise_key=b"s" * 32)
    job = TrainingJob(
        base_model=str(bench.base_model),
        tenants=(TenantJob(job_key="one", plan=PLAN, users=people, noise_key=b"s" * 32),),
        output=tmp_path,
    )
    (result,) = train_on(bench.decoder, bench.encoder, job, lambda _: None)
    torch.testing.assert_close(
        vector, import_adapter(result.adapter, bench.geometry, bench.frozen), atol=1e-5, rtol=1e-4
    )


def test_it_measures_what_the_exported_adapter_does(bench, tmp_path):
    people = users(4)
    chosen = bench.user_set(people)
    vector = bench.train(chosen, PLAN.with_mechanism(noise_multiplier=0.0), noise_key=b"s" * 32)
    exported = bench.export(vector, tmp_path / "adapter")
    assert bench.losses(chosen, vector) == pytest.approx(
        nll_per_user(bench.base_model, exported, people, max_tokens=60), rel=1e-4
    )
    facts = bench.facts(chosen, None)
    assert facts.losses == pytest.approx(
        nll_per_user(bench.base_model, None, people, max_tokens=60), rel=1e-4
    )
    assert len(facts.confidences) == len(facts.correct) > 0
    assert all(0 < confidence <= 1 for confidence in facts.confidences)


def test_first_order_meta_learning_lowers_the_loss_of_its_tasks(bench):
    tasks = [bench.user_set(users(4, word)) for word in ("alpha", "omega")]
    start = maml_start(bench, tasks, MamlRecipe(outer_steps=4, inner_steps=2))
    before = sum(sum(bench.losses(task, None)) for task in tasks)
    assert sum(sum(bench.losses(task, start)) for task in tasks) < before
    with pytest.raises(JobInvalidError, match="at least two users"):
        maml_start(bench, [tasks[0].first(1)])


def test_a_public_job_loads_its_base_once(tmp_path, monkeypatch):
    loads = []
    plain = FrozenDecoder.load

    def counted(*how):
        loads.append(how)
        return plain(*how)

    monkeypatch.setattr(FrozenDecoder, "load", counted)
    folder = write_tiny_base(tmp_path / "base", layers=2)
    guide = StyleGuide(instruction="Answer in short.", examples=(("a", "b"),), prompts=("c",))
    job = PublicJob(base_model=str(folder), plan=PLAN, output=tmp_path / "out", work=guide)
    finish.run(job, lambda _: None)  # answers prompts, trains on the bench and measures public texts
    assert len(loads) == 1


def test_the_suite_measures_every_arm(tmp_path):
    folder = write_tiny_base(tmp_path / "base", layers=2)
    for tenant in ("acme", "brine", "cobalt"):
        with gzip.open(tmp_path / f"{tenant}.jsonl.gz", "wt", encoding="utf-8") as file:
            for user in range(40):
                line = {"user": f"u{user}", "id": f"{user}", "at": user, "prompt": f"p{user}"}
                file.write(json.dumps({**line, "completion": f"{tenant}: {user}"}) + "\n")
    options = QualityOptions(
        data=tmp_path, tenant="acme", holdout_tenants=("cobalt",), base_model=folder, users=(30,), epsilons=(8.0,),
        seeds=1, heldout_users=8, meta_users=30, meta_epsilon=8.0, max_tokens=40, open_steps=(4,), threads=1,
        answers=4, answer_tokens=8, abilities=3, releases=2, choosing_users=4, plain_rates=(1e-2, 1e-3),
        plain_passes=(1,), cache=tmp_path / "kept",
    )  # fmt: skip
    said: list[str] = []
    kept: list[dict[str, object]] = []
    results = run_quality(options, said.append, kept.append)
    assert [len(one["runs"]) for one in kept] == [len(results["runs"]) - 2]  # all but the controls
    assert json.loads(json.dumps(results))["format"] == FORMAT
    arms = [run["arm"] for run in results["runs"]]
    assert set(arms) == {
        "base", "meta", "plain", "small_family", "private", "card_only", "prompt_card", "forced_prefix", "noise_only",
        "wrong_tenant",
    }  # fmt: skip
    starts = {run["start"] for run in results["runs"] if run["arm"] == "private"}
    assert starts == {"card", "meta", "zero"}
    assert results["meta_tenants"] == ["brine"]
    assert [len(one["earlier_windows_change"]) for one in results["releases"]] == [1, 2]
    assert all(0 <= run["agreement"]["match"]["value"] <= 1 for run in results["runs"])
    assert sum(results["conventions"]["openings"].values()) == 1
    assert results["users"]["agreement"]["in_set"]["value"] == 1
    (plain,) = (run for run in results["runs"] if run["arm"] == "plain")
    assert len(plain["tried"]) == 2
    assert any(row["name"] == "30 users, ε = 8, from meta, 1 noise seeds: in set" for row in results["rows"])
    assert said
