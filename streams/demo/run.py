"""The whole path on one machine: from published interactions to adapters that answer, in a few minutes.

Real processes do the work: the embedded broker, ``discreet worker``, ``discreet trainer`` and ``discreet
serve``. This module only plays the product (it publishes), the operator (it registers tenants and opens
rounds) and the reader (it measures).
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.registry import queries as registry
from personalization.styles.card import StyleCard
from personalization.styles.wording import sentences
from personalization.training.base.directory import BUNDLED
from privacy.ledger import Ledger
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.demo.companies import COMPANIES, make_company
from streams.demo.display import Stages
from streams.demo.installation import Installation
from streams.demo.judging import judge, likeness
from streams.demo.observing import signals_per_tenant
from streams.demo.recordings import read_recording, recorded_tenants
from streams.demo.report import DemoReport, EventCounts, Example, TenantFacts
from streams.demo.tenancy import register
from streams.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from personalization.registry.tables import AdapterVersionRow
    from personalization.rounds.tables import RoundRow
    from streams.demo.installation import Line
    from streams.demo.judging import Judgement, Likeness
    from streams.demo.scenario import TenantScenario


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What bounds the work.

    Attributes:
        data: folder of recorded interactions; ``None`` takes the project's own companies.
        tenants: names to take; empty takes the first three (recordings) or all (companies).
        max_users: users per tenant whose interactions are published.
        epsilon: what each tenant's policy allows over all rounds.
        rounds: training rounds per tenant.
        base_model: the bundled model, or the directory of another one.
        keep: new folder for database, logs and adapters; ``None`` removes them at the end.
    """

    data: Path | None = None
    tenants: tuple[str, ...] = ()
    max_users: int = 60
    epsilon: float = 8.0
    rounds: int = 1
    keep: Path | None = None
    base_model: str = next(iter(BUNDLED))


def scenarios_of(options: DemoOptions, now: datetime) -> list[TenantScenario]:
    """Return the tenants to play, with their people and held-out users.

    Raises:
        ScenarioError: a tenant is unknown, a recording cannot be used, or a bound is too small.
    """
    if options.max_users < 10:
        raise ScenarioError(
            f"--max-users is {options.max_users}; allowed are 10 or more: one user hides among many"
        )
    if options.data is not None:
        names = options.tenants or tuple(recorded_tenants(options.data)[:3])
        return [read_recording(options.data, name, max_users=options.max_users, now=now) for name in names]
    names = options.tenants or tuple(COMPANIES)
    unknown = [name for name in names if name not in COMPANIES]
    if unknown:
        raise ScenarioError(
            f"--tenants names {unknown[0]!r}; the demonstration's own are {', '.join(COMPANIES)}"
        )
    return [make_company(name, max_users=options.max_users, now=now) for name in names]


def run_demo(
    options: DemoOptions, console: Console, *, stop_asked: Callable[[], bool] = lambda: False
) -> DemoReport:
    """Run everything and return what was found; every process is stopped and the state removed afterwards.

    Raises:
        ScenarioError: the options cannot be used.
        DemoError: a process stopped or something did not get done in time.
        KeyboardInterrupt: ``stop_asked`` became true.
    """
    now = datetime.now(UTC)
    scenarios = scenarios_of(options, now)
    stages = Stages(console, stop_asked)
    with ExitStack() as stack:
        state = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="discreet-demo-"))
        )
        state.mkdir(parents=True, exist_ok=options.keep is None)
        try:
            return _Demo(options, scenarios, stages, stack, state).run(now)
        except Exception as error:
            if stop_asked():  # a library may turn the interrupt into an error of its own
                raise KeyboardInterrupt from error
            raise


class _Demo:
    """One run; the stack holds everything that has to be stopped."""

    def __init__(
        self,
        options: DemoOptions,
        scenarios: Sequence[TenantScenario],
        stages: Stages,
        stack: ExitStack,
        state: Path,
    ) -> None:
        self._options = options
        self._scenarios = scenarios
        self._here = Installation(stages, stack, state, options.base_model)

    def run(self, now: datetime) -> DemoReport:
        """Go through the stages in order."""
        options = self._options
        here = self._here
        here.start(
            lambda engine: register(
                engine, self._scenarios, epsilon=options.epsilon, rounds=options.rounds, now=now
            )
        )
        events = here.wait_for_ingestion(here.publish(self._scenarios, now))
        lines = [(scenario.tenant, scenario.domain) for scenario in self._scenarios]
        last: dict[Line, RoundRow] = {}
        for number in range(1, options.rounds + 1):
            last = here.train(lines, f" (round {number} of {options.rounds})" if options.rounds > 1 else "")
        return self._judge(events, last, here.wait_for_serving(lines))

    def _judge(self, events: EventCounts, last: dict[Line, RoundRow], names: dict[Line, str]) -> DemoReport:
        facts: list[TenantFacts] = []
        examples: list[Example] = []
        with self._here.stages.stage(
            "judge", "Asking the server about users that were never trained on"
        ) as stage:
            signals = signals_per_tenant(self._here.engine, [scenario.tenant for scenario in self._scenarios])
            steps = [0]

            def advance() -> None:
                steps[0] += 1
                stage.update(steps[0], 2 * len(self._scenarios) + 2 * len(names))

            for scenario in self._scenarios:
                line = (scenario.tenant, scenario.domain)
                name = names.get(line)
                judged = judge(scenario, name, self._here.serving, on_progress=advance)
                like = None
                if name is not None:
                    like = likeness(scenario, name, self._here.serving, on_progress=advance)
                    examples.extend(like.examples)
                facts.append(self._facts(scenario, last[line], signals[scenario.tenant], judged, like, name))
        return DemoReport(
            tenants=tuple(facts), events=events, seconds=self._here.stages.seconds, examples=tuple(examples)
        )

    def _facts(
        self,
        scenario: TenantScenario,
        row: RoundRow,
        signals: int,
        judged: Judgement,
        like: Likeness | None,
        name: str | None,
    ) -> TenantFacts:
        ledger = Ledger()
        with transaction(self._here.engine) as session:
            policy = policies.tenant(session, scenario.tenant).policy
            spend = ledger.spend(session, scenario.tenant, row.period_index)
            state = "none"
            if row.reservation_id is not None:
                state = ledger.reservation(session, row.reservation_id).state.value
            version = None if name is None else registry.find_version(session, name)
        assert policy is not None  # the demonstration itself set it
        return TenantFacts(
            tenant=scenario.tenant,
            users=len(scenario.people),
            signals=signals,
            heldout_users=judged.users,
            epsilon=spend.lifetime_epsilon,
            target_epsilon=policy.policy.lifetime_epsilon,
            delta=policy.policy.lifetime_delta,
            nll_base=judged.nll_base,
            nll_adapter=judged.nll_adapter,
            prompts=0 if like is None else like.prompts,
            styled_base=0 if like is None else like.base,
            styled_adapter=0 if like is None else like.adapter,
            style=_style_of(version),
            adapter_version=None if version is None else version.version,
            served_name=name,
            ledger_state=state,
            outcome=row.outcome or "",
        )


def _style_of(version: AdapterVersionRow | None) -> tuple[str, ...]:
    """Return what a version's style card says, in sentences; nothing where it has none."""
    style = None if version is None else json.loads(version.manifest_json).get("style")
    return () if style is None else tuple(sentences(StyleCard.from_document(style["card"])))
