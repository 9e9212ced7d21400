"""Which public tasks one outer step of meta-learning looks at. Everything is public, so losses may decide it.

Under differential privacy the order of *users* is fixed by Poisson sampling and may not follow their losses; the order
of public tasks may.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from personalization.training.jobs.recipes import TaskSampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.training.jobs.recipes import MamlRecipe


class TaskSampler:
    """Draws tasks for outer steps; the same recipe draws the same tasks from the same losses and directions.

    Args:
        count: of tasks.
        recipe: public numbers.
        losses: of every task at the present start; asked at each step where losses decide, else once or never.
        directions: of every task's gradient at zero ``(count, size)``; asked once, where diversity decides.
    """

    def __init__(
        self,
        count: int,
        recipe: MamlRecipe,
        *,
        losses: Callable[[], Sequence[float]],
        directions: Callable[[], torch.Tensor],
    ) -> None:
        self._count = count
        self._recipe = recipe
        self._losses = losses
        self._each = min(recipe.tasks_per_step or count, count)
        self._rng = random.Random(f"tasks {recipe.sampling}")  # noqa: S311  # public tasks, no secret
        self._easiest_first: list[int] = []
        self._alike = torch.zeros(0)
        if recipe.sampling is TaskSampling.EASY_FIRST:
            known = list(losses())
            self._easiest_first = sorted(range(count), key=lambda task: known[task])
        elif recipe.sampling is TaskSampling.DIVERSITY:
            unit = torch.nn.functional.normalize(directions(), dim=1)
            self._alike = unit @ unit.T

    def step(self, outer: int) -> list[int]:
        """Return the tasks of outer step ``outer`` (counted from 0), each at most once."""
        sampling = self._recipe.sampling
        if self._each == self._count and sampling is not TaskSampling.EASY_FIRST:
            return list(range(self._count))
        if sampling is TaskSampling.LOSS:
            return self._weighted(list(self._losses()))
        if sampling is TaskSampling.DIVERSITY:
            return self._far_apart()
        pool = list(range(self._count))
        if sampling is TaskSampling.EASY_FIRST:
            share = (outer + 1) / max(1, self._recipe.outer_steps)
            least = self._recipe.tasks_per_step or 1
            pool = self._easiest_first[: max(least, round(share * self._count))]
        return sorted(self._rng.sample(pool, min(self._each, len(pool))))

    def _weighted(self, losses: list[float]) -> list[int]:
        """Return tasks drawn without replacement, each with a weight of its loss."""
        pool, drawn = list(range(self._count)), []
        for _ in range(self._each):
            (task,) = self._rng.choices(pool, [max(losses[one], 1e-6) for one in pool])
            pool.remove(task)
            drawn.append(task)
        return sorted(drawn)

    def _far_apart(self) -> list[int]:
        """Return a random task and then, again and again, the one least like those that are there."""
        drawn = [self._rng.randrange(self._count)]
        while len(drawn) < self._each:
            nearest = self._alike[drawn].amax(0)
            nearest[drawn] = torch.inf
            drawn.append(int(nearest.argmin()))
        return sorted(drawn)
