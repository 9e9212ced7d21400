"""A tenant whose users' reactions decide: its line, the real handlers of its events, and seeded users who react."""

from __future__ import annotations

from sqlmodel import select

from personalization.registry.comparisons import Comparisons
from personalization.rollouts.tables import ComparisonRow, LookRow, ReactionRow, RolloutRow
from privacy.policy.cache import TenantPolicies
from streams.contracts.adapter import drawn_at
from streams.contracts.consent import ConsentPurpose
from streams.contracts.interaction import Accepted, Rejected
from streams.ingest.consents import ConsentHandler
from streams.ingest.erasures import ErasureHandler
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.ingest.work import Work
from tests.fakes.keys import BACKUPS
from tests.fakes.rollouts import RolloutShop
from tests.fakes.stream_records import FakeSender, consent, erasure, interaction

LOOK_SECONDS = 3_600
ASKED = {
    "rollout.steps": (50.0,),
    "rollout.guards": {},
    "rollout.decide": "reactions",
    "rollout.reaction_epsilon": 1.5,
    "rollout.looks": 3,
    "rollout.look_seconds": LOOK_SECONDS,
    "rollout.reacting_users": 200,
    "purposes": ("training", "evaluation"),
    "styles": False,  # its vote takes the longest to plan
}


class ComparedShop(RolloutShop):
    """A rollout shop with comparisons, and with the handlers of interactions, consents and erasures."""

    def __init__(self, engine, clock, folder, tenant="acme", **changes):
        super().__init__(engine, clock, folder, tenant, **{**ASKED, **changes})
        self.comparisons = self.process_of_comparisons()
        shared = {
            "engine": engine,
            "letters": DeadLetterSink(FakeSender(), "workers"),
            "clock": clock.now,
            "keyring": self.keyring,
            "policies": TenantPolicies(0.0),
            "max_event_bytes": 2048,
        }
        self.interactions = InteractionHandler(**shared, redact=list)
        self.consents = ConsentHandler(**shared)
        self.erasures = ErasureHandler(**shared, signer=self.signer, backups=BACKUPS)
        self.tenant, self.told_events = tenant, 0

    def process_of_comparisons(self, **options):
        return Comparisons(self.engine, ledger=self.ledger, keyring=self.keyring, **options)

    def to_comparison(self):
        """Publish a version and a candidate, which half of the users get, and begin to compare them."""
        first, candidate = self.publish(self.tenant), self.publish(self.tenant)
        self.verify(candidate)
        assert self.run_tick().moved == 1
        assert self.compare() == 1
        return first, candidate

    def compare(self):
        return self.comparisons.run(now=self.clock.now())

    def look(self):
        """Let the time of a look come, take it, and let the rollout move by what it says."""
        self.clock.advance(seconds=LOOK_SECONDS)
        self.compare()
        return self.run_tick().moved

    def agree(self, *users, purposes=(ConsentPurpose.TRAINING, ConsentPurpose.EVALUATION), granted=True):
        self.told_events += 1  # so that the same words said again are another event
        self._take(
            self.consents,
            [
                consent(
                    user,
                    tenant=self.tenant,
                    granted=granted,
                    purpose=purpose,
                    at=self.clock.now(),
                    offset=self.told_events,
                )
                for user in users
                for purpose in purposes
            ],
        )

    def names(self):
        """The served names of the candidate and of the version."""
        with self.session() as session:
            newest = select(ComparisonRow).where(ComparisonRow.tenant_id == self.tenant)
            row = session.exec(newest.order_by(ComparisonRow.begun_at.desc())).first()
            return row.candidate_name, row.version_name

    def salt(self):
        with self.session() as session:
            return session.exec(select(RolloutRow.salt).where(RolloutRow.tenant_id == self.tenant)).one()

    def drawn(self, user):
        """Whether the draw gives a user the candidate."""
        return drawn_at(self.salt(), user) < 50.0

    def react(self, said, *, served=None):
        """Have users say what they make of answers: (user, outcome) or (user, accepted), each of the version drawn."""
        salt = self.salt()
        candidate, version = self.names()
        records = []
        for user, outcome in said:
            self.told_events += 1
            made = served or (candidate if drawn_at(salt, user) < 50.0 else version)
            told = outcome if not isinstance(outcome, bool) else Accepted() if outcome else Rejected()
            records.append(
                interaction(
                    user,
                    f"e{self.told_events}",
                    tenant=self.tenant,
                    at=self.clock.now(),
                    outcome=told,
                    served_name=made,
                )
            )
        return self._take(self.interactions, records)

    def forget(self, user):
        self._take(self.erasures, [erasure(user, tenant=self.tenant, at=self.clock.now())])

    def crowd(self, random, users, *, candidate, version, first=0):
        """Consenting users, of whom each accepts an answer with the probability that its version has."""
        names = [f"u{number}" for number in range(first, first + users)]
        self.agree(*names)
        self.clock.advance(seconds=1)
        salt = self.salt()
        said = [
            (user, random.random() < (candidate if drawn_at(salt, user) < 50.0 else version))
            for user in names
        ]
        self.react(said)

    def rows(self, row_type=ReactionRow):
        with self.session() as session:
            found = session.exec(select(row_type)).all()
            for row in found:
                session.expunge(row)
            return found

    def comparison(self, version_id):
        (row,) = [row for row in self.rows(ComparisonRow) if row.candidate_version_id == version_id]
        return row

    def looks(self):
        return sorted(self.rows(LookRow), key=lambda row: row.look)

    def reservation(self, version_id):
        with self.session() as session:
            return self.ledger.attested(session, self.comparison(version_id).reservation_id)

    def _take(self, handler, records):
        return handler.process([Work(record, 0.0, True) for record in records])
