"""The steps that recipes share: policies, publishing, learning, asking, and reading what it cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personalization.styles.card import StyleCard
from personalization.styles.frames import is_poor
from personalization.styles.wording import sentences
from privacy.ledger import Ledger
from privacy.policy import versions as policies
from privacy.policy.values import DEFAULT_DOMAIN, amended
from privacy.storage.session import transaction
from streams.demo.recipes.measuring import (
    ANSWER_TOKENS,
    answers_of,
    loss_measure,
    measures_of,
    side_by_side,
)
from streams.demo.recipes.people import Crowd
from streams.demo.recipes.values import Spent
from streams.demo.tenancy import demo_policy, set_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Engine

    from personalization.registry.tables import AdapterVersionRow
    from privacy.policy.values import TenantPrivacyPolicy
    from streams.demo.installation import Line
    from streams.demo.recipes.people import Question
    from streams.demo.recipes.values import Measure, Rule, SideBySide, Trial
    from streams.demo.scenario import TenantScenario

EPSILON = 8.0  # of each tenant, over all its releases of a run


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What several arms answered to the same questions, and what it is worth."""

    measures: tuple[Measure, ...]
    examples: tuple[SideBySide, ...]
    answers: dict[str, list[str]]


def recipe_policy(
    trial: Trial,
    *,
    users: int,
    releases: int = 1,
    domains: tuple[str, ...] = (DEFAULT_DOMAIN,),
    memory: bool = False,
) -> TenantPrivacyPolicy:
    """Return the policy of a tenant.

    Args:
        trial: whose clock counts.
        users: that each of its lines has at least; declared, since whoever runs a recipe made them.
        releases: of all lines together.
        domains: the lines.
        memory: whether releases rehearse questions with notes before them.
    """
    policy = demo_policy(users=users, epsilon=EPSILON, rounds=releases, now=trial.now)
    return amended(policy, {"domains": domains, "memory": memory})


def learn(
    trial: Trial,
    tenants: Mapping[str, TenantPrivacyPolicy],
    crowds: Sequence[Crowd | TenantScenario],
    *,
    first: Callable[[], object] = lambda: None,
) -> dict[Line, str]:
    """Start everything, publish, train one release of each line, and return the served name of each that has one.

    Args:
        trial: that starts.
        tenants: their policies.
        crowds: whose interactions are published.
        first: done before anything is published, once tenants are registered: documents are approved, say.
    """
    here = trial.here
    here.start(lambda engine: register_all(engine, tenants, trial))
    first()
    scenarios = [crowd.published(trial.now) if isinstance(crowd, Crowd) else crowd for crowd in crowds]
    publish(trial, scenarios)
    lines = [(crowd.tenant, crowd.domain) for crowd in crowds]
    here.train(lines)
    return here.wait_for_serving(lines)


def register_all(engine: Engine, tenants: Mapping[str, TenantPrivacyPolicy], trial: Trial) -> None:
    """Give each tenant its policy."""
    for tenant, policy in tenants.items():
        set_policy(engine, tenant, policy, now=trial.now)


def publish(trial: Trial, scenarios: Sequence[TenantScenario]) -> None:
    """Publish and wait until everything is stored."""
    published = trial.here.publish(scenarios, trial.now, refusable=False)
    trial.here.wait_for_ingestion(published)


def compare(
    trial: Trial,
    line: str,
    questions: Sequence[Question],
    rules: Sequence[Rule],
    models: Mapping[str, str | None],
    *,
    tokens: int = ANSWER_TOKENS,
) -> Compared:
    """Ask every arm every question, and return what rules and losses say, and what was answered.

    Args:
        trial: whose server is asked.
        line: a name for people.
        questions: of held-out users.
        rules: that answers are judged by.
        models: served name by arm, the base first.
        tokens: of an answer at most.
    """
    prompts = [asked.prompt for asked in questions]
    with trial.here.stages.stage("judge", f"Asking about users that were never trained on: {line}") as stage:
        total = len(models) * len(prompts)
        answers: dict[str, list[str]] = {}
        for number, (arm, model) in enumerate(models.items()):
            before = number * len(prompts)
            answers[arm] = answers_of(
                trial.here.serving,
                prompts,
                model,
                tokens=tokens,
                on_progress=lambda done, before=before: stage.update(before + done, total, "answers"),  # type: ignore[misc]
            )
        loss = loss_measure(line, questions, trial.here.serving, models)
    return Compared(
        measures=(*measures_of(line, rules, questions, answers), loss),
        examples=side_by_side(line, questions, answers),
        answers=answers,
    )


def spent_by(trial: Trial, tenants: Sequence[str]) -> tuple[Spent, ...]:
    """Return what each tenant's ledger says was spent."""
    found = []
    with transaction(trial.here.engine) as session:
        for tenant in tenants:
            known = policies.tenant(session, tenant).policy
            assert known is not None  # the recipe itself set it
            policy = known.policy
            spend = Ledger().spend(session, tenant, policy.period_index(trial.now))
            found.append(
                Spent(
                    tenant=tenant,
                    epsilon=spend.lifetime_epsilon,
                    allowed=policy.lifetime_epsilon,
                    delta=policy.lifetime_delta,
                )
            )
    return tuple(found)


def card_of(version: AdapterVersionRow | None) -> StyleCard | None:
    """Return the style card a version was made with."""
    style = None if version is None else json.loads(version.manifest_json).get("style")
    return None if style is None else StyleCard.from_document(style["card"])


_TOLD = ("open with", "close with", "taken to be alike")


def told_of(line: str, card: StyleCard | None) -> str:
    """Return what a card says of how answers open and close, in one sentence."""
    if card is None:
        return f"{line}: no vote on style was charged."
    if is_poor(card):
        return f"{line}: the vote found no common style, so no public part was made."
    said = [sentence for sentence in sentences(card) if any(one in sentence for one in _TOLD)]
    return f"{line}: " + " ".join(said)
