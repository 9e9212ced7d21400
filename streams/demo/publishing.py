"""Publish a scenario through the client SDK, plus a few events that no worker may accept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from privacy.policy.values import DEFAULT_DOMAIN
from streams.client import ConsentPublisher, InteractionPublisher
from streams.contracts.codec import Record
from streams.contracts.topics import INTERACTIONS
from streams.demo.scenario import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from streams.client.transport import Broker
    from streams.demo.scenario import Person, TenantScenario, Turn

SOURCE = "/demo/product"
NOTICE = "2026-01"


@dataclass
class Published:
    """What was sent.

    Attributes:
        consents: number of consent events.
        interactions: (tenant, user, event id) of the interactions that must be stored.
        refusable: number of interaction records that must end as dead letters.
    """

    consents: int = 0
    interactions: list[tuple[str, str, str]] = field(default_factory=list)
    refusable: int = 0

    @property
    def records(self) -> int:
        """All records on the interactions topic."""
        return len(self.interactions) + self.refusable


def publish_consents(
    broker: str | Broker,
    scenarios: Sequence[TenantScenario],
    *,
    now: datetime,
    on_progress: Callable[[int], None],
) -> int:
    """Grant the purpose ``training`` for every published user; return how many consents were sent."""
    sent = 0
    with ConsentPublisher(broker, source=SOURCE) as publisher:
        for scenario in scenarios:
            for person in scenario.people:
                publisher.grant(
                    tenant_id=scenario.tenant,
                    user_id=person.user_id,
                    notice_version=NOTICE,
                    occurred_at=min([turn.occurred_at for turn in person.turns], default=now),
                    event_id=f"consent-{person.user_id}",
                )
                sent += 1
                on_progress(sent)
    return sent


def publish_interactions(
    broker: str | Broker,
    scenarios: Sequence[TenantScenario],
    *,
    now: datetime,
    on_progress: Callable[[int], None],
    refusable: bool = True,
) -> Published:
    """Publish every interaction of the scenarios' people, then the events that must be refused, if they are wanted."""
    published = Published()
    with InteractionPublisher(broker, source=SOURCE) as publisher:
        for scenario in scenarios:
            for person in scenario.people:
                for turn in person.turns:
                    event = interaction(scenario.tenant, person, turn, domain=scenario.domain)
                    publisher.publish(event, event_id=turn.event_id)
                    published.interactions.append((scenario.tenant, person.user_id, turn.event_id))
                    on_progress(published.records)
        if refusable:
            published.refusable = _publish_refusable(publisher, scenarios[0], now)
        on_progress(published.records)
    return published


def interaction(tenant: str, person: Person, turn: Turn, *, domain: str = DEFAULT_DOMAIN) -> dict[str, Any]:
    """Return the event of one turn as the JSON-like mapping that the publisher takes."""
    outcome: dict[str, Any] = {"kind": turn.outcome.value}
    if turn.outcome is Outcome.EDITED:
        outcome["final_text"] = turn.final
    return {
        "tenant_id": tenant,
        "user_id": person.user_id,
        "interaction_id": turn.event_id,
        "domain": domain,
        "prompt": turn.prompt,
        "completion": turn.shown,
        "outcome": outcome,
        "notice_version": NOTICE,
        "occurred_at": turn.occurred_at,
    }


def _publish_refusable(publisher: InteractionPublisher, scenario: TenantScenario, now: datetime) -> int:
    """Send one event without consent, one of an unknown tenant, and two records that are no events at all."""
    stranger: dict[str, Any] = {
        "tenant_id": scenario.tenant,
        "user_id": "visitor-without-consent",
        "interaction_id": "refusable-1",
        "prompt": "Hello",
        "completion": "Hello!",
        "outcome": {"kind": "accepted"},
        "notice_version": NOTICE,
        "occurred_at": now,
    }
    publisher.publish(stranger, event_id="refusable-1")
    publisher.publish({**stranger, "tenant_id": "nobody"}, event_id="refusable-2")
    topic = INTERACTIONS.name
    garbage = Record(topic=topic, key=b"nobody/x", value=b"{not json", headers=[])
    oversized = Record(topic=topic, key=b"nobody/y", value=b"x" * 100_000, headers=[])
    publisher.send_record(garbage, "refusable-3")
    publisher.send_record(oversized, "refusable-4")
    return 4
