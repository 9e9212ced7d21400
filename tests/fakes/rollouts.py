"""Lines whose versions are rolled out in steps, servers that verify them, and what the outbox told."""

from __future__ import annotations

import json

from sqlmodel import select

from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.registry.rollout_tick import RolloutTick
from personalization.rollouts import rows as rollouts
from personalization.rollouts.evidence import Reading
from personalization.rollouts.values import Rollout
from streams.contracts.adapter import AdapterEventV1
from streams.contracts.topics import ADAPTER_EVENTS, ADAPTERS
from streams.outbox import stories
from streams.outbox.tables import OutboxRow
from streams.storage import serving_acks
from streams.storage.serving_acks import keep_newest
from tests.fakes.training import Workshop, outbox_events

STEPS = {
    "rollout.steps": (10.0, 50.0),
    "rollout.bake_seconds": 60,
    "rollout.guards": {"error_rate": 0.05},
    "release_padding_seconds": 0,
}


class RolloutShop(Workshop):
    """A workshop whose tenant rolls out in steps."""

    def __init__(self, engine, clock, folder, tenant="acme", **changes):
        super().__init__(engine, clock, folder, events=outbox_events())
        self.add_tenant(tenant, **{**STEPS, **changes})
        self.tick = RolloutTick(engine, self.events, serving_acks.counts_of)

    def publish(self, tenant_id="acme"):
        """Train a round and return the id of what came of it."""
        round_id = self.open_round(tenant_id)
        self.process("trainer").run_once()
        with self.session() as session:
            rows = registry.list_versions(session, tenant_id=tenant_id)
            return next(row.version_id for row in rows if row.round_id == round_id)

    def act(self, reason="a test asks"):
        return Act(actor="test", reason=reason, now=self.clock.now())

    def stands(self, tenant_id="acme") -> Rollout:
        with self.session() as session:
            line = registry.find_line(session, tenant_id, "default")
            return rollouts.value_of(rollouts.find(session, line.line_ref))

    def line_ref(self, tenant_id="acme"):
        with self.session() as session:
            return registry.find_line(session, tenant_id, "default").line_ref

    def serving(self, tenant_id="acme"):
        with self.session() as session:
            return registry.find_line(session, tenant_id, "default").current_version_id

    def states(self, tenant_id="acme"):
        with self.session() as session:
            return {row.version_id: row.state for row in registry.list_versions(session, tenant_id=tenant_id)}

    def verify(self, version_id, status="verified", server="one"):
        """Have a server say that it verified a version, or failed to."""
        with self.session() as session:
            row = registry.get_version(session, version_id)
            ack = {
                "served_name": row.served_name, "server_id": server, "line_ref": row.line_ref,
                "version_id": version_id, "engine": "test", "status": status, "epoch": 1, "reason": None,
                "probe_effect": None, "occurred_at": self.clock.now(),
            }  # fmt: skip
            keep_newest(session, [ack])
            rollouts.wake(session, [(row.line_ref, version_id)], self.clock.now())

    def measure(self, version_id, value=0.0, name="error_rate"):
        with self.session() as session:
            row = registry.get_version(session, version_id)
            reading = Reading(name=name, value=value, at=self.clock.now())
            rollouts.read_guard(session, row.line_ref, version_id, reading)

    def run_tick(self):
        return self.tick.run(now=self.clock.now())

    def told(self):
        """Every event of lines, in order, as whoever reads the topic takes it."""
        with self.session() as session:
            rows = session.exec(
                select(OutboxRow).where(OutboxRow.topic == ADAPTER_EVENTS.name).order_by(OutboxRow.outbox_id)
            ).all()
            return [json.loads(row.value) for row in rows]

    def desired(self):
        """The newest desired state, as JSON."""
        with self.session() as session:
            row = session.exec(
                select(OutboxRow)
                .where(OutboxRow.topic == ADAPTERS.name)
                .order_by(OutboxRow.outbox_id.desc())
                .limit(1)
            ).one()
            return json.loads(row.value)


def told_of(document):
    """What replaying takes of an event, as the product reads it from the broker."""
    return stories.told_of(AdapterEventV1.model_validate_json(json.dumps(document)))
