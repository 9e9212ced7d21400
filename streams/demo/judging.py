"""Judge what was published, on users that training never saw, by asking the process that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from streams.demo.report import Example

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.demo.scenario import TenantScenario
    from streams.demo.serving_client import ServingClient

TURNS_PER_USER = 2  # of a held-out user's turns, the first ones
EXAMPLE_TOKENS = 28


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Mean loss per token over held-out users, each user counting once."""

    users: int
    nll_base: float
    nll_adapter: float | None


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


def example(scenario: TenantScenario, served_name: str, client: ServingClient) -> Example:
    """Return one held-out prompt with what the base, the adapter and the user wrote."""
    prompt, written = scenario.heldout_examples()[0][0]
    return Example(
        tenant=scenario.tenant,
        prompt=prompt,
        written=written,
        base=client.answer(prompt, None, max_new_tokens=EXAMPLE_TOKENS),
        adapter=client.answer(prompt, served_name, max_new_tokens=EXAMPLE_TOKENS),
    )


def _mean_per_user(
    users: Sequence[Sequence[tuple[str, str]]], client: ServingClient, model: str | None
) -> float:
    losses = iter(client.losses([pair for pairs in users for pair in pairs], model))
    return fmean(fmean(next(losses) for _ in pairs) for pairs in users)
