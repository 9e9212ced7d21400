"""Judge what was published, on users that training never saw, by asking the process that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from personalization.quality.conventions import Conventions
from streams.demo.report import Example

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.demo.scenario import TenantScenario
    from streams.demo.serving_client import ServingClient

TURNS_PER_USER = 1  # of a held-out user's turns, the first ones
ANSWER_TOKENS = 36
MOST_PROMPTS = 20  # of a tenant's unseen users that are answered in full
SHOWN = 2  # answers of each tenant that are shown, the first ones


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Mean loss per token over held-out users, each user counting once."""

    users: int
    nll_base: float
    nll_adapter: float | None


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How many answers open or close as the tenant's people do, by conventions that the unseen users' own texts show.

    Attributes:
        prompts: prompts of unseen users that were answered.
        base: answers of the base model that follow a convention.
        adapter: the same with the adapter.
        examples: the first answers, side by side.
    """

    prompts: int
    base: int
    adapter: int
    examples: tuple[Example, ...]


def judge(
    scenario: TenantScenario,
    served_name: str | None,
    client: ServingClient,
    *,
    on_progress: Callable[[], None],
) -> Judgement:
    """Return the losses of the base model and, if there is one, of the adapter ``served_name``."""
    users = [pairs[:TURNS_PER_USER] for pairs in scenario.heldout_examples()]
    base = _mean_per_user(users, client, None)
    on_progress()
    adapter = None if served_name is None else _mean_per_user(users, client, served_name)
    on_progress()
    return Judgement(users=len(users), nll_base=base, nll_adapter=adapter)


def likeness(
    scenario: TenantScenario, served_name: str, client: ServingClient, *, on_progress: Callable[[], None]
) -> Likeness:
    """Answer prompts of unseen users with and without the adapter, and count who opens or closes as they do."""
    pairs = [pair for user in scenario.heldout_examples() for pair in user]
    asked = pairs[:MOST_PROMPTS]
    ends = [Conventions.of(pairs), Conventions.of(pairs, backward=True)]
    prompts = [prompt for prompt, _ in asked]
    answers = []
    for model in (None, served_name):
        answers.append(client.answers(prompts, model, max_new_tokens=ANSWER_TOKENS))
        on_progress()
    followed = [
        sum(
            any(end.name(answer, prompt) for end in ends)
            for prompt, answer in zip(prompts, given, strict=True)
        )
        for given in answers
    ]
    return Likeness(
        prompts=len(prompts),
        base=followed[0],
        adapter=followed[1],
        examples=tuple(
            Example(tenant=scenario.tenant, prompt=prompt, written=written, base=base, adapter=adapted)
            for (prompt, written), base, adapted in list(zip(asked, *answers, strict=True))[:SHOWN]
        ),
    )


def _mean_per_user(
    users: Sequence[Sequence[tuple[str, str]]], client: ServingClient, model: str | None
) -> float:
    losses = iter(client.losses([pair for pairs in users for pair in pairs], model))
    return fmean(fmean(next(losses) for _ in pairs) for pairs in users)
