"""First-order MAML on public interactions: an outer loop for the meta start that needs no tenant at all.

Each public task is a handful of users that write in one style. The inner loop trains on half of them from the present
start; the outer loop moves the start along the gradient that the other half has at the adapted point (first order: the
inner steps are not differentiated through). It reads public interactions alone and costs nothing.

Source: Finn et al., "Model-Agnostic Meta-Learning" (arXiv 1703.03400), section 5.2, first-order approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch

from personalization.planning.plan import TrainingPlan
from personalization.training.errors import JobInvalidError
from personalization.training.jobs.recipes import MamlRecipe
from personalization.training.run.bench import UserSet, Workbench
from personalization.training.starts.sampling import TaskSampler


def maml_start(bench: Workbench, tasks: Sequence[UserSet], recipe: MamlRecipe | None = None) -> torch.Tensor:
    """Return a start ``(size,)`` from which a few steps go far on every public task.

    Args:
        bench: a loaded base and an adapter shape.
        tasks: users of one style each, at least two per task: the first half adapts, the second half judges.
        recipe: public numbers.

    Raises:
        JobInvalidError: there is no task, or one has fewer than two users.
    """
    numbers = recipe or MamlRecipe()
    if not tasks or any(len(task.members) < 2 for task in tasks):
        raise JobInvalidError(
            "meta-learning needs public tasks of at least two users each; one adapts, one judges"
        )
    start = bench.zero()
    sampler = TaskSampler(
        len(tasks),
        numbers,
        losses=lambda: [fmean(bench.losses(task, start)) for task in tasks],
        directions=lambda: torch.stack([bench.gradient(task, bench.zero()) for task in tasks]),
    )
    for outer in range(numbers.outer_steps):
        direction = torch.zeros_like(start)
        drawn = sampler.step(outer)
        for number in drawn:
            task = tasks[number]
            half = len(task.members) // 2
            inner = _inner_plan(bench.plan, numbers, half)
            key = f"maml {outer} {number}".encode().ljust(32, b".")
            adapted = bench.train(task.first(half), inner, start=start, noise_key=key)
            gradient = bench.gradient(UserSet(task.members[half:], task.cache), adapted)
            direction += gradient / torch.linalg.vector_norm(gradient).clamp_min(1e-12)
        start = start - numbers.outer_rate * direction / len(drawn)
    return start


def _inner_plan(plan: TrainingPlan, numbers: MamlRecipe, users: int) -> TrainingPlan:
    """Return a plan of the same shape without noise: the data are public."""
    return replace(
        replace(plan, scaled_layers=0).with_mechanism(
            steps=numbers.inner_steps, sample_rate=1.0, noise_multiplier=0.0
        ),
        learning_rate=numbers.inner_rate,
        expected_cohort=float(users),
        averaging_fraction=1.0 / numbers.inner_steps,
        shrinkage=1.0,
        damping=0.0,
        label_shortlist=0,
    )
