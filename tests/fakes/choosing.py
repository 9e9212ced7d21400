"""A tenant whose users answered, with templates to choose among, and choices over what is kept of the users."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

from sqlmodel import select

from personalization.choices.asking import ask
from personalization.choices.protocol import PromptChoices, Voting
from personalization.choices.tables import PromptChoiceRow
from personalization.choices.tick import ChoiceTick
from personalization.planning.plan import PerformanceFlags
from personalization.prompts.values import PromptTemplate
from personalization.registry import prompting
from personalization.registry.announcements import Act
from personalization.signals.snapshot import StoredSignals
from personalization.training.jobs.job import Votes
from privacy.ledger import Ledger
from privacy.storage.session import transaction
from streams.contracts.consent import ConsentPurpose
from streams.contracts.interaction import Accepted
from streams.outbox.events import OutboxAdapterEvents
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, consent, interaction

POLICY = {
    "declared_users": 200,
    "lifetime_epsilon": 16.0,
    "period_epsilon": 8.0,
    "sample_rate": 0.5,
    "contribution_bound": 2,
    "release_padding_seconds": 0,
    "period_seconds": 28 * 86_400,
    "purposes": ["training", "evaluation"],
    "schedule": {"first_at": NOW, "every_seconds": 28 * 86_400},
}
TURNS = 3  # more than a test has choices that are due at once
SOURCES = ("{{ prompt }}", "Answer calmly.\n\n{{ prompt }}", "Answer in one line.\n\n{{ prompt }}")


class FakeBase:
    """A base model that only has a name."""

    digest = "sha256:" + "0" * 64

    def unchanged(self):
        return True

    def directory(self):
        return Path("/nowhere")

    def fingerprint(self):
        return SimpleNamespace(weights_digest=self.digest)


class FakeVoting:
    """Users vote for the candidate whose number their own answer ends in; keeps every job that it is asked for."""

    def __init__(self):
        self.jobs = []
        self.during = lambda _should_stop: None

    def __call__(self, job, should_stop):
        self.jobs.append(job)
        self.during(should_stop)
        return Votes(of_users=tuple(int(one.candidates[0].examples[0].completion[-1]) for one in job.ballots))


class ChoosingWorld(IngestWorld):
    """One tenant with three templates; every user agreed to training and evaluation."""

    def __init__(self, engine, users=20, **policy):
        super().__init__(engine, policy={**POLICY, **policy})
        self.names = [f"user-{number}" for number in range(users)]
        self.ledger = Ledger(lambda: self.now)
        self.events = OutboxAdapterEvents(self.signer)
        self.source = StoredSignals(self.keyring)
        self.voting, self.base = FakeVoting(), FakeBase()
        purposes = (ConsentPurpose.TRAINING, ConsentPurpose.EVALUATION)
        self.take(
            self.consents,
            *(
                consent(name, offset=2 * at + more, purpose=purpose)
                for at, name in enumerate(self.names)
                for more, purpose in enumerate(purposes)
            ),
        )
        with transaction(engine) as session:
            for source in SOURCES:
                template = PromptTemplate(source=source)
                prompting.add(session, self.signer, "acme", "default", template, self.act("ready"))

    def act(self, reason="which do users like"):
        return Act(actor="ann", reason=reason, now=self.now)

    def answer(self, vote, names=None, count=1):
        """Let users accept answers that end in the number of the candidate that they will vote for."""
        at = self.now + timedelta(minutes=1)
        records = [
            interaction(
                name, f"{name}-{number}-{at:%H%M%S}", offset=offset, at=at, prompt=f"what of part {number}?",
                outcome=Accepted(), completion=f"answer {vote}",
            )
            for offset, name in enumerate(names or self.names)
            for number in range(count)
        ]  # fmt: skip
        self.now += timedelta(hours=1)
        self.take(self.interactions, *records)

    def ask(self, names=("v1", "v2", "v3"), **options):
        with transaction(self.engine) as session:
            asked = {"epsilon": 1.0, "percent": 10.0, "keys": [self.signer.public_key], **options}
            return ask(session, "acme", "default", names, self.act(), **asked)

    def choices(self, **options):
        voting = Voting(run=self.voting, base=self.base, flags=PerformanceFlags(device="cpu", threads=1))
        return PromptChoices(
            self.engine,
            lambda: self.now,
            ledger=self.ledger,
            signals=options.pop("signals", self.source),
            voting=options.pop("voting", voting),
            signer=self.signer,
            keys=[self.signer.public_key],
            events=self.events,
            **options,
        )

    def tick(self, *, stop=lambda: False, **options):
        """Take what is due now, as a trainer would with nothing else to do, and return how it ended."""
        tick = ChoiceTick(self.engine, lambda: self.now, self.choices(**options))
        return [ended for _ in range(TURNS) if (ended := tick.run(stop=stop)) is not None]

    def rows(self):
        with transaction(self.engine) as session:
            return session.exec(select(PromptChoiceRow).order_by(PromptChoiceRow.asked_at)).all()

    def reservations(self):
        with transaction(self.engine) as session:
            return [
                self.ledger.reservation(session, row.reservation_id)
                for row in session.exec(select(PromptChoiceRow)).all()
                if row.reservation_id is not None
            ]
