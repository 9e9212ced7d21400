"""A tenant whose seeded users ask week after week, through the real ingest, and readings of drift over what is kept."""

from __future__ import annotations

import random
from datetime import timedelta

from sqlmodel import select

from personalization.drift.protocol import DriftReadings
from personalization.drift.tables import DriftReadingRow
from personalization.drift.tick import DriftTick
from personalization.signals.snapshot import StoredSignals
from personalization.training.jobs.job import Example, ExampleKind, UserExamples
from privacy.ledger import Ledger
from privacy.storage.session import transaction
from streams.contracts.interaction import Accepted, Edited
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, consent, interaction
from tests.fakes.training import outbox_events

WEEK = timedelta(days=7)
POLICY = {
    "declared_users": 150,
    "lifetime_epsilon": 16.0,
    "period_epsilon": 8.0,
    "sample_rate": 0.5,
    "contribution_bound": 2,
    "release_padding_seconds": 0,
    "period_seconds": 28 * 86_400,
    "schedule": {"first_at": NOW, "every_seconds": 4 * 7 * 86_400},
    "drift": {"share": 0.25, "planned_readings": 12, "level": 0.001},
}
SHORT = ("refund status?", "reset my password?", "where is my invoice?", "cancel the order?")
LONG = (
    "Write a polite answer to the customer below, explain the delay, offer a discount\nand keep it friendly\n"
    "Dear team, the parcel has still not arrived although it was promised for last Tuesday by your colleague"
)


def asks(rng, *, changed=False):
    """What one user asks, and what the user makes of the answer: (prompt, outcome)."""
    if changed:
        return LONG, Edited(final_text="something else altogether, written anew by hand")
    return rng.choice(SHORT), Accepted()


class DriftWorld(IngestWorld):
    """One tenant; a week is a window."""

    def __init__(self, engine, users=120, events=None, **policy):
        changes = {**POLICY, **policy, "drift": {**POLICY["drift"], **policy.get("drift", {})}}
        super().__init__(engine, policy=changes)
        self.rng = random.Random(3)
        self.names = [f"user-{number}" for number in range(users)]
        self.ledger = Ledger(lambda: self.now)
        self.events = events or outbox_events()
        self.heard = []
        self.source = StoredSignals(self.keyring)
        self.take(self.consents, *(consent(name, offset=at) for at, name in enumerate(self.names)))

    def readings(self, **options):
        return DriftReadings(
            self.engine,
            lambda: self.now,
            ledger=self.ledger,
            signals=options.pop("signals", self.source),
            events=self.events,
            **options,
        )

    def tick(self, **options):
        ticking = DriftTick(self.engine, self.readings(**options), heard=self.heard.append)
        return ticking.run(clock=lambda: self.now)

    def ask(self, *, changed=False, names=None):
        """Let every user ask once in the running week."""
        records = []
        for offset, name in enumerate(names or self.names):
            prompt, outcome = asks(self.rng, changed=changed)
            at = self.now + timedelta(hours=1)
            event_id = f"{name}-{self.now:%Y%m%d}"
            records.append(
                interaction(
                    name, event_id, offset=offset, at=at, prompt=prompt, outcome=outcome, completion="sure"
                )
            )
        self.now += timedelta(hours=2)
        self.take(self.interactions, *records)
        self.now -= timedelta(hours=2)

    def week(self, **asked):
        """Let users ask, and take the reading at the week's end."""
        self.ask(**asked)
        self.now += WEEK
        return self.tick()

    def rows(self):
        with transaction(self.engine) as session:
            return session.exec(select(DriftReadingRow).order_by(DriftReadingRow.scheduled_for)).all()

    def reservations(self):
        with transaction(self.engine) as session:
            return [
                self.ledger.reservation(session, row.reservation_id)
                for row in session.exec(select(DriftReadingRow)).all()
                if row.reservation_id is not None
            ]


def user(*prompts, edited=None):
    """A user with these prompts; ``edited`` is what the answer "shown text here" became."""
    kind, shown = (ExampleKind.SFT, None) if edited is None else (ExampleKind.PREFERENCE, "shown text here")
    return UserExamples(
        examples=tuple(
            Example(prompt=prompt, completion=edited or "fine", kind=kind, shown=shown) for prompt in prompts
        )
    )
