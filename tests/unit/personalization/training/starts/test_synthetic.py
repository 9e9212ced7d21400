"""Synthetic interactions follow the tenant's public guide and give a start that knows the style."""

from __future__ import annotations

import pytest

from personalization.planning.plan import Family, PerformanceFlags, TrainingPlan, mechanism_of
from personalization.training.errors import JobInvalidError
from personalization.training.jobs.recipes import StyleGuide
from personalization.training.run.bench import Workbench
from personalization.training.starts.synthetic import synthetic_users, warm_start
from tests.fakes.tiny_models import write_tiny_base

GUIDE = StyleGuide(
    instruction="Answer as fix(area): text.",
    examples=(("a.py", "fix(a): one"),),
    prompts=("b.py", "c.py", "d.py"),
    pattern=r"fix\([a-z]\): ",
)


def test_only_answers_that_follow_the_pattern_are_kept(tmp_path):
    asked = []

    def answers(base_model, adapter, prompts):
        asked.extend(prompts)
        return ["fix(b): two\nand more", "I am sorry", ""]

    found = synthetic_users(tmp_path, GUIDE, generator=answers)
    pairs = [(example.prompt, example.completion) for user in found for example in user.examples]
    assert pairs == [("a.py", "fix(a): one"), ("b.py", "fix(b): two")]
    assert asked[0] == "Answer as fix(area): text.\n\na.py\nfix(a): one\n\nb.py\n"


def test_a_guide_must_follow_itself():
    with pytest.raises(JobInvalidError, match="at least one example"):
        StyleGuide(instruction="x", examples=())
    with pytest.raises(JobInvalidError, match="does not follow its own pattern"):
        StyleGuide(instruction="x", examples=(("a", "no"),), pattern="fix")
    with pytest.raises(JobInvalidError, match="no regular expression"):
        StyleGuide(instruction="x", examples=(("a", "b"),), pattern="(")


def test_the_warm_start_lowers_the_loss_of_the_style(tmp_path):
    plan = TrainingPlan(
        family=Family.CORE, rank=4, alpha=4.0, top_layers=1, expected_cohort=3.0, learning_rate=0.05, max_tokens=60,
        mechanism=mechanism_of(
            steps=3, sample_rate=1.0, clipping_norm=0.1, noise_multiplier=0.5, contribution_bound=2
        ),
    )  # fmt: skip
    bench = Workbench(write_tiny_base(tmp_path, layers=2), plan, PerformanceFlags(device="cpu"))
    users = synthetic_users(tmp_path, GUIDE, generator=lambda *_: ["fix(b): x", "fix(c): y", "fix(d): z"])
    start = warm_start(bench, users, learning_rate=0.05)
    chosen = bench.user_set(users)
    assert sum(bench.losses(chosen, start)) < sum(bench.losses(chosen, None))
