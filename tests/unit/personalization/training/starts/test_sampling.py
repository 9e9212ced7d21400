"""Which public tasks an outer step takes: all alike, the worst, those unlike each other, or the easiest first."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from personalization.training.errors import JobInvalidError
from personalization.training.jobs.recipes import MamlRecipe, TaskSampling
from personalization.training.starts.sampling import TaskSampler

LOSSES = [1.0, 2.0, 3.0, 40.0]
DIRECTIONS = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, -0.01], [-1.0, 0.0]])


def _sampler(sampling, each, *, outer_steps=4):
    recipe = MamlRecipe(sampling=sampling, tasks_per_step=each, outer_steps=outer_steps)
    return TaskSampler(4, recipe, losses=lambda: LOSSES, directions=lambda: DIRECTIONS)


@pytest.mark.parametrize("sampling", TaskSampling)
def test_a_step_takes_each_task_at_most_once_and_repeats_itself(sampling):
    one, other = _sampler(sampling, 2), _sampler(sampling, 2)
    for outer in range(4):
        drawn = one.step(outer)
        assert drawn == other.step(outer)
        assert len(set(drawn)) == 2
        assert set(drawn) <= {0, 1, 2, 3}


def test_all_tasks_are_taken_where_no_number_is_given():
    assert _sampler(TaskSampling.UNIFORM, None).step(0) == [0, 1, 2, 3]


def test_losses_draw_the_worst_task_most_often():
    sampler = _sampler(TaskSampling.LOSS, 1)
    counts = Counter(task for outer in range(200) for task in sampler.step(outer))
    assert counts[3] > 140
    assert len(counts) > 1


def test_diversity_takes_the_task_that_points_elsewhere():
    sampler = _sampler(TaskSampling.DIVERSITY, 2)
    assert all(3 in sampler.step(outer) for outer in range(20))


def test_a_curriculum_comes_to_hard_tasks_late():
    sampler = _sampler(TaskSampling.EASY_FIRST, None)
    assert [len(sampler.step(outer)) for outer in range(4)] == [1, 2, 3, 4]
    narrow = _sampler(TaskSampling.EASY_FIRST, 1)
    assert narrow.step(0) == [0]
    assert {task for _ in range(100) for task in narrow.step(3)} == {0, 1, 2, 3}


def test_recipes_from_before_keep_their_digest():
    assert set(MamlRecipe().to_document()) == {"outer_steps", "outer_rate", "inner_steps", "inner_rate"}
    for recipe in (
        MamlRecipe(),
        MamlRecipe(sampling=TaskSampling.EASY_FIRST),
        MamlRecipe(sampling=TaskSampling.LOSS, tasks_per_step=3),
    ):
        assert MamlRecipe.from_document(recipe.to_document()) == recipe
    with pytest.raises(JobInvalidError, match="tasks_per_step is 0"):
        MamlRecipe(tasks_per_step=0)
