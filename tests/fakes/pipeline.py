"""The whole pipeline with everything frozen but the data: records in, adapter events out, and what can be seen of it.

Real: the ingest handlers, the database, the round protocol and its trainer, the ledger, the registry, the outbox and
its relay. Frozen: clock, keys, seeds, names. In place of the model stands ``SummingTrainer``: the trained numbers are
the exact sum of one bounded vector of each user, with the round's noise; so what one user moves can be read off them.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

import numpy as np
from safetensors.numpy import load_file, save_file
from sqlalchemy import event
from sqlmodel import Session, select

from personalization.adapters.files import WEIGHTS
from personalization.adapters.signing import ManifestSigner
from personalization.registry import announcements
from personalization.registry import queries as lines
from personalization.registry.tables import AdapterVersionRow
from personalization.releases import protocol
from personalization.releases.overdue import forfeit_overdue
from personalization.rounds import queries as rounds
from personalization.rounds.tables import RoundRow
from personalization.signals.snapshot import StoredSignals
from privacy.keys import envelope
from privacy.ledger import service
from privacy.ledger.export import export_ledger
from privacy.noise import lattice
from privacy.noise.keystream import PURPOSE_GRADIENT, SecretStream
from privacy.noise.normal import NoiseRow, whole_noise
from privacy.policy.cache import TenantPolicies
from privacy.reports.statement import privacy_statement
from privacy.storage.session import transaction
from streams.contracts.interaction import Edited
from streams.ingest.consents import ConsentHandler
from streams.ingest.erasures import ErasureHandler
from streams.ingest.intake import Work
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.outbox.events import OutboxAdapterEvents
from streams.outbox.relay import OutboxRelay
from tests.fakes.keys import BACKUPS, keyring_of
from tests.fakes.stream_records import FakeRecord, FakeSender, consent, erasure, interaction
from tests.fakes.training import FakeTrainer, Workshop

TENANT = "acme"
SIZE = 64  # trained numbers
POLICY = {
    "declared_users": 60,
    "minimum_cohort": 1,
    "sample_rate": 1.0,
    "steps": 1,
    "contribution_bound": 3,
    "planned_releases": 4,
    "release_padding_seconds": 3600,
}
PEOPLE = ("ann", "bob", "cleo", "dan", "eve", "finn", "gil", "hana", "ivo")
HEAVY, MALFORMED, LATE = "finn", "dan", "gil"


class KilledError(BaseException):
    """The process ends here: nothing catches this."""


class SummingTrainer(FakeTrainer):
    """Releases the exact sum of the users' bounded vectors with the noise of the round's key."""

    def train(self, job, *, on_progress, should_stop):
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        for result, tenant in zip(results, job.tenants, strict=True):
            plan, total = tenant.plan, np.zeros(SIZE, dtype=np.int64)
            for user in tenant.users:
                total += lattice.on_lattice(direction_of(user) * 10 * plan.clipping_norm, plan.clipping_norm)
            deviation = plan.noise_multiplier * lattice.REACH
            row = NoiseRow(SecretStream(tenant.noise_key), deviation)
            total += whole_noise([row], PURPOSE_GRADIENT, 0, SIZE)[0]
            path = result.adapter / WEIGHTS
            tensors = load_file(path)
            trained = next(name for name in sorted(tensors) if "lora_B" in name)
            # Far smaller than a float32's error here, so that what a user moves is not lost in it.
            values = tensors[trained].reshape(-1)
            values[:] = 0
            values[:SIZE] = total * lattice.unit(plan.clipping_norm)
            save_file(tensors, path)
        return results


def direction_of(user):
    """A unit vector of a user's texts."""
    texts = "".join(f"{one.prompt}|{one.completion}\n" for one in user.examples)
    vector = np.random.default_rng(list(hashlib.sha256(texts.encode()).digest())).normal(size=SIZE)
    return vector / np.linalg.norm(vector)


@dataclass
class Seen:
    """What can be seen from outside after a run.

    Attributes:
        records: every record sent: (topic, key, headers, value).
        rounds: how each round ended.
        ledger: the exported ledger's lines.
        statement: the privacy statement's text.
        manifests: of the registered versions.
        trained: the numbers that each version releases.
    """

    records: list = field(default_factory=list)
    rounds: list = field(default_factory=list)
    ledger: list = field(default_factory=list)
    statement: str = ""
    manifests: list = field(default_factory=list)
    trained: list = field(default_factory=list)


def history(people):
    """Yield (handler, record) of these people in the order of arrival; a person's records never depend on others."""
    for number, name in enumerate(PEOPLE):
        if name not in people:
            continue
        place = {"offset": 100 * number}
        if name != LATE:
            yield "consents", consent(name, tenant=TENANT, **place)
        if name == MALFORMED:
            yield (
                "interactions",
                FakeRecord(b"{not json", f"{TENANT}/{name}".encode(), (), offset=100 * number + 1),
            )
            broken = interaction(name, "same-id", tenant=TENANT, offset=100 * number + 2)
            yield (
                "interactions",
                FakeRecord(b"{}", broken.key, broken.headers, broken.topic, 0, broken.offset),
            )
            yield (
                "interactions",
                interaction(name, "same-id", tenant=TENANT, domain="elsewhere", offset=100 * number + 3),
            )
        for turn in range(12 if name == HEAVY else 1 + number % 3):
            # Everyone's ids are alike, as those of a product that counts per person.
            yield (
                "interactions",
                interaction(
                    name,
                    f"e{turn}",
                    tenant=TENANT,
                    offset=100 * number + 10 + turn,
                    prompt=f"{name} asks {turn}",
                    completion=f"answer {turn}",
                    outcome=Edited(final_text=f"{name} wrote {turn}"),
                ),
            )
        if name == LATE:
            yield "consents", consent(name, tenant=TENANT, **place)


class Pipeline:
    """One database with a tenant, its ingest and its trainers.

    Args:
        engine: a fresh database.
        clock: stands still until it is moved.
        folder: of artifacts.
        post: carries records in and out, where a real broker is to be in between.
        policy: changes of the policy.
    """

    def __init__(self, engine, clock, folder, *, post=None, policy=None):
        self.engine, self.clock, self._post = engine, clock, post
        self.keyring = keyring_of(engine, bytes(range(32)))
        self.sender = post or FakeSender()
        signer = ManifestSigner(bytes(range(32)))
        self.shop = Workshop(engine, clock, folder, events=OutboxAdapterEvents(signer))
        self.shop.signer = signer
        self.shop.keyring, self.shop.signals = self.keyring, StoredSignals(self.keyring)
        self.shop.trainer = SummingTrainer()
        self.shop.add_tenant(TENANT, **{**POLICY, **(policy or {})})
        with transaction(engine) as session:  # before anybody came, so that nobody's coming moves it
            self.keyring.keys_of_tenants(session, [TENANT], now=clock.now())
        shared = {
            "engine": engine,
            "letters": DeadLetterSink(self.sender, "workers"),
            "clock": clock,
            "keyring": self.keyring,
            "policies": TenantPolicies(0.0),
            "max_event_bytes": 2048,
        }
        self._handlers = {
            "interactions": InteractionHandler(**shared, redact=list),
            "consents": ConsentHandler(**shared),
            "erasures": ErasureHandler(**shared, signer=self.shop.signer, backups=BACKUPS),
        }

    def take(self, arriving, batch=5):
        """Hand records to their handlers, in batches of what arrived together; what waits comes again at the end."""
        waiting = []
        arriving = list(arriving)
        for start in range(0, len(arriving), batch):
            part = arriving[start : start + batch]
            for name, handler in self._handlers.items():
                works = [Work(record, 0.0) for kind, record in part if kind == name]
                if works:
                    waiting += [(handler, work) for work in handler.process(works).held]
        for handler, work in waiting:
            work.final = True
            handler.process([work])

    def act(self, name, deed):
        """Let somebody withdraw or ask to be erased, as any other event."""
        if deed == "withdraws":
            self.take(
                [("consents", consent(name, tenant=TENANT, granted=False, offset=50, at=self.clock.now()))]
            )
        elif deed == "is erased":
            self.take(
                [("erasures", erasure(name, tenant=TENANT, request_id=f"r-{name}", at=self.clock.now()))]
            )

    def run(self, people, *, crash=None, durable=False, deed=None, leaver=None):
        """Take everybody's history, run a round, crash where asked, and send what waits; return what was seen."""
        arriving = list(history(people))
        self.take(arriving if self._post is None else self._post.deliver(arriving))
        self.shop.open_round(TENANT)
        deeds = [deed] if deed and leaver in people else []

        def meanwhile(_should_stop):
            while deeds:
                with paused(self.engine):
                    self.act(leaver, deeds.pop())

        self.shop.trainer.during = meanwhile
        with dying(self.engine, crash, durable=durable) as died, suppress(KilledError):
            self.shop.process("first").run_once()
        meanwhile(None)
        self.crashed = died()
        self.clock.advance(seconds=61)
        self.shop.process("second").run_once()
        for _ in range(3):  # past the end of the slot, whatever is still open is closed by the clock
            self.clock.advance(seconds=3600)
            with transaction(self.engine) as session:
                forfeit_overdue(session, self.shop.ledger, self.shop.events, now=self.clock.now())
        relay = OutboxRelay(self.engine, self.sender, batch_rows=100)
        while relay.relay_once(self.clock.now()):
            pass
        return self.seen()

    def seen(self):
        """Return everything that somebody outside could read by now."""
        with transaction(self.engine) as session:
            closed = [(row.state, row.outcome_code, row.outcome) for row in session.exec(select(RoundRow))]
            versions = session.exec(select(AdapterVersionRow)).all()
            try:
                statement = privacy_statement(session, TENANT, now=self.clock.now()).to_text()
            except Exception as error:  # noqa: BLE001  nothing was ever reserved: the answer is part of what is seen
                statement = type(error).__name__
        with closing(export_ledger(self.engine, [TENANT])) as exported:
            entries = [json.loads(line) for line in exported]
        trained = []
        for version in versions:
            tensors = load_file(self.shop.artifacts.open(version.version_id) / WEIGHTS)
            name = next(name for name in sorted(tensors) if "lora_B" in name)
            trained.append(tensors[name].reshape(-1)[:SIZE].astype(np.float64))
        return Seen(
            records=[
                (
                    one.topic,
                    bytes(one.key or b""),
                    list(one.headers),
                    None if one.value is None else bytes(one.value),
                )
                for one in self.sender.sent
            ],
            rounds=closed,
            ledger=entries,
            statement=statement,
            manifests=[json.loads(version.manifest_json) for version in versions],
            trained=trained,
        )


_PAUSED: set[int] = set()


@contextmanager
def paused(engine):
    """Commits inside are others' and do not count."""
    _PAUSED.add(id(engine))
    try:
        yield
    finally:
        _PAUSED.discard(id(engine))


@contextmanager
def dying(engine, at_commit, *, durable):
    """End the process at its n-th commit, before it happens or (``durable``) right after; None never does."""
    count = 0

    def step(*_arguments):
        nonlocal count
        if id(engine) in _PAUSED:
            return
        count += 1
        if count == at_commit:
            raise KilledError

    target, name = (Session, "after_commit") if durable else (engine, "commit")
    event.listen(target, name, step)
    try:
        yield lambda: at_commit is not None and count >= at_commit
    finally:
        event.remove(target, name, step)


def freeze(monkeypatch):
    """Make every name and seed the same in each pipeline; return what starts them anew."""
    sources = {}

    def again():
        for name in ("round", "line", "event", "reservation", "seed", "keys"):
            sources[name] = Random(name)

    def made(name):
        return lambda: uuid.UUID(int=sources[name].getrandbits(128), version=4)

    def octets(count, name="seed"):
        return sources[name].randbytes(count)

    again()
    # Tenant keys come first and decide ranks and order; users' own keys and nonces are seen nowhere.
    monkeypatch.setattr(envelope, "secrets", SimpleNamespace(token_bytes=lambda count: octets(count, "keys")))
    monkeypatch.setattr(protocol, "secrets", SimpleNamespace(token_bytes=octets))
    monkeypatch.setattr(
        lines, "secrets", SimpleNamespace(token_hex=lambda n: sources["line"].randbytes(n).hex())
    )
    monkeypatch.setattr(announcements, "uuid", SimpleNamespace(uuid4=made("event")))
    monkeypatch.setattr(rounds, "uuid", SimpleNamespace(uuid4=made("round")))
    monkeypatch.setattr(service, "uuid", SimpleNamespace(uuid4=made("reservation")))
    return again
