"""What a quality run measures, and how much of it each profile takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.policy.values import TenantPrivacyPolicy

DELTA = 1e-5
STEPS = (
    (600, 16),
    (200, 12),
    (0, 8),
)  # users (at least) and steps: the more signal, the more steps are worth it


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """What is measured.

    Attributes:
        data: folder of recorded interactions.
        tenant: whose adapter is judged.
        holdout_tenants: tenants that never enter the meta start; the first one is the wrong-tenant control. One may
            lie in another folder: ``../commits/kafka``.
        base_model: a local base model.
        users: numbers of users trained on.
        epsilons: budgets of one release.
        cells: pairs of users and ε to measure, most important first; all pairs of both by default.
        seeds: noise seeds of each release of the first way; other ways are compared with one.
        heldout_users: users that are measured on.
        choosing_users: users by whom the length and rate of the non-private adapters are chosen.
        meta_users: users of each tenant behind the meta start.
        meta_epsilon: budget of each of those, in each generation.
        meta_generations: how often those tenants release, each time from the mean of all releases before.
        contribution_bound: interactions of one user.
        max_tokens: truncation of one interaction.
        plain_rates: of the plain LoRA; each is tried at the middle length with the first number of users.
        plain_passes: lengths of the plain LoRA; with few users each is multiplied (``bound.passes_of``).
        open_steps: lengths of the small family's non-private run; the best of them counts.
        small_family: whether the small family's non-private run is made at all.
        ways: how releases are made: ``card`` (a vote on style, a public part, the private core on it), ``meta`` and
            ``zero`` (no vote; the private core from the meta start, or from zero).
        compared: pairs of users and ε at which the other ways are run beside the first; all by default.
        answers: held-out prompts that are answered in full; 0 leaves them out.
        answer_tokens: of the longest answer.
        examples: answers shown side by side in the results, the first ones.
        abilities: most questions and instructions asked; None asks all, 0 none.
        releases: successive releases over as many windows of time, each from the average of those before; 0 leaves
            them out.
        threads: of torch; None keeps its default.
        cache: where the non-private adapters are kept from run to run; None keeps them for one run.
    """

    data: Path
    tenant: str
    base_model: Path
    holdout_tenants: tuple[str, ...] = ()
    users: tuple[int, ...] = (100, 300)
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    cells: tuple[tuple[int, float], ...] = ()
    seeds: int = 3
    heldout_users: int = 150
    choosing_users: int = 40
    meta_users: int = 200
    meta_epsilon: float = 4.0
    meta_generations: int = 1
    contribution_bound: int = 4
    max_tokens: int = 96
    plain_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    plain_passes: tuple[int, ...] = (1, 2, 3)
    open_steps: tuple[int, ...] = (12, 24, 48)
    small_family: bool = True
    ways: tuple[str, ...] = ("card", "meta", "zero")
    compared: tuple[tuple[int, float], ...] = ()
    answers: int = 200
    answer_tokens: int = 48
    examples: int = 10
    abilities: int | None = None
    releases: int = 5
    threads: int | None = None
    cache: Path | None = None

    @property
    def chosen(self) -> tuple[tuple[int, float], ...]:
        """The pairs of users and ε that are measured, in order."""
        return self.cells or tuple((users, epsilon) for users in self.users for epsilon in self.epsilons)

    @property
    def most_users(self) -> int:
        """Users of the largest run."""
        return max(users for users, _ in self.chosen)


MECHANICS = ("few_shot", "sampling", "swap", "continual", "warm_start", "ability")


@dataclass(frozen=True, kw_only=True)
class MechanicsOptions:
    """What is measured, and how much of it.

    Attributes:
        data: folder of recorded interactions.
        base_model: a local base model.
        tenants: new tenants that starts are judged on; empty takes the first two of the folder.
        only: of ``MECHANICS``.
        few_users: users of the first release.
        users: users of any other release.
        heldout_users: users that are measured on, of each tenant.
        epsilon: of a release.
        windows: of time, one release each.
        outer_steps: of MAML.
        tasks_per_step: that MAML looks at where tasks are drawn.
        seeds: of the noise.
        contribution_bound: interactions of one user.
        max_tokens: truncation of one interaction.
        threads: of torch; None keeps its default.
    """

    data: Path
    base_model: Path
    tenants: tuple[str, ...] = ()
    only: tuple[str, ...] = MECHANICS
    few_users: int = 50
    users: int = 200
    heldout_users: int = 80
    epsilon: float = 4.0
    windows: int = 5
    outer_steps: int = 10
    tasks_per_step: int = 4
    seeds: int = 3
    contribution_bound: int = 4
    max_tokens: int = 72
    threads: int | None = None


QUICK: dict[str, Any] = {
    "few_users": 20,
    "users": 40,
    "heldout_users": 16,
    "windows": 3,
    "outer_steps": 3,
    "seeds": 1,
}


PROFILES: dict[str, dict[str, Any]] = {
    # One tenant within an hour on two cores, most of it the plain LoRA.
    "cpu": {
        "cells": ((300, 4.0), (100, 4.0), (300, 1.0)),
        "seeds": 3,
        "heldout_users": 80,
        "meta_users": 100,
        "max_tokens": 72,
        "open_steps": (12, 24),
        "answers": 120,
        "releases": 0,
        "ways": ("card", "zero"),
    },
    "gpu": {
        "cells": (
            (300, 4.0), (100, 4.0), (300, 1.0), (50, 2.0), (1000, 2.0), (100, 1.0), (100, 2.0), (300, 2.0), (50, 4.0)
        ),
        "heldout_users": 200,
    },
}  # fmt: skip


def benchmark_policy(
    users: int, epsilon: float, contribution_bound: int, *, styles: bool = False
) -> TenantPrivacyPolicy:
    """Return the policy of a tenant that spends ``epsilon`` on one release in a few full passes."""
    return TenantPrivacyPolicy(
        declared_users=users,
        period_epsilon=epsilon,
        lifetime_epsilon=epsilon,
        period_delta=DELTA,
        lifetime_delta=DELTA,
        contribution_bound=contribution_bound,
        minimum_cohort=min(20, users),
        planned_releases=1,
        styles=styles,
        sample_rate=1.0,  # everyone in every step: no noise from sampling, and few steps are enough
        steps=next(steps for least, steps in STEPS if users >= least),
    )
