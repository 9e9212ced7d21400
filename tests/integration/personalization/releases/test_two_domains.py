"""Two domains of one tenant on a tiny Llama with nothing faked: two adapter lines, one account for every user."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from personalization.adapters.signing import ManifestSigner
from personalization.artifacts.directory import DirectoryArtifactStore
from personalization.memory import documents
from personalization.memory.sealing import MemoryKeys
from personalization.memory.values import Draft
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import PerformanceFlags
from personalization.registry import queries as registry
from personalization.registry.publishing import Publisher
from personalization.releases.protocol import TrainingRounds
from personalization.releases.trainer import Trainer, TrainerOptions
from personalization.rounds.queries import list_rounds, open_due_rounds
from personalization.signals.rows import insert_signals
from personalization.signals.snapshot import StoredSignals
from personalization.signals.values import OutcomeKind, Signal, StoredSignal, row_of
from personalization.starts.shop import Shop
from personalization.training.base.directory import BaseDirectory
from personalization.training.child.parent import ChildProcessTrainer
from privacy.accounting.composition import best_epsilon, total_curve
from privacy.consent import statements as consents
from privacy.consent.admission import Consent
from privacy.keys.keyring import Plaintext
from privacy.ledger import Ledger, ReservationState
from privacy.ledger.export import export_ledger
from privacy.ledger.verify import verify_export
from privacy.policy import versions as policies
from privacy.policy.values import DataPurpose
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject
from tests.fakes.keys import keyring_of
from tests.fakes.tiny_models import write_tiny_base
from tests.fakes.training import outbox_events

FLAGS = PerformanceFlags(device="cpu", threads=1)
LEGAL, FINANCE, BOTH = range(4), range(8, 12), range(4, 8)  # who writes where; four people do both


def row_of_place(subject, domain, now):
    digest = hashlib.sha256((subject.pseudonym + domain).encode()).digest()
    return row_of(digest, domain, 0, digest[:16], now - timedelta(hours=1))


def store(engine, keyring, now):
    subjects = [Subject("acme", hashlib.sha256(str(number).encode()).hexdigest()) for number in range(12)]
    agreed = Consent(granted=True, notice_version="1", occurred_at=now)
    places = [(subjects[n], "legal") for n in (*LEGAL, *BOTH)]
    places += [(subjects[n], "finance") for n in (*FINANCE, *BOTH)]
    texts = {"legal": "RE: the clause", "finance": "INVOICE paid"}
    with transaction(engine) as session:
        consents.record(
            session,
            [
                consents.ConsentStatement(subject=one, purpose=DataPurpose.TRAINING.value, consent=agreed)
                for one in subjects
            ],
            now=now,
        )
        plain = [
            Signal(
                prompt=domain, completion=texts[domain], outcome=OutcomeKind.ACCEPTED, final_text=None
            ).to_bytes()
            for _, domain in places
        ]
        sealed = keyring.encrypt_many(
            session,
            [
                Plaintext(*s, row_of_place(s, domain, now), text)
                for (s, domain), text in zip(places, plain, strict=True)
            ],
            now=now,
        )
        insert_signals(
            session,
            [
                StoredSignal(
                    event_digest=(digest := hashlib.sha256((s.pseudonym + domain).encode()).digest()),
                    tenant_id="acme", pseudonym=s.pseudonym, domain=domain, period_index=0, rank=digest[:16],
                    occurred_at=now - timedelta(hours=1), ciphertext=ciphertext,
                )
                for (s, domain), ciphertext in zip(places, sealed, strict=True)
            ],
        )  # fmt: skip


@pytest.fixture
def trainer(engine, clock, tmp_path):
    now, keyring, events = clock.now(), keyring_of(engine), outbox_events()
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=now)
        policies.set_policy(
            session,
            "acme",
            {
                "declared_users": 10, "minimum_cohort": 1, "sample_rate": 1.0, "steps": 3, "planned_releases": 2,
                "lifetime_epsilon": 16.0, "period_epsilon": 16.0, "domains": ["legal", "finance"],
                "schedule": {"first_at": now, "every_seconds": 86_400}, "period_seconds": 86_400,
            },
            actor="test",
            reason="test",
            now=now,
        )  # fmt: skip
    store(engine, keyring, now)
    base = BaseDirectory(write_tiny_base(tmp_path / "base"))
    artifacts = DirectoryArtifactStore(tmp_path / "store")
    shop = Shop(
        engine=engine, clock=clock, base=base, shape=read_shape(base.directory()), artifacts=artifacts, events=events,
        publisher=Publisher(artifacts, ManifestSigner(bytes(32)), events),
    )  # fmt: skip
    return Trainer(
        shop,
        rounds=TrainingRounds(
            shop, ledger=Ledger(clock), keyring=keyring, signals=StoredSignals(keyring), flags=FLAGS
        ),
        trainer=ChildProcessTrainer(),
        options=TrainerOptions(owner="test", flags=FLAGS, max_public_text_change=None),
    )


def test_two_lines_are_trained_and_both_are_charged_to_one_account(engine, clock, trainer):
    with transaction(engine) as session:
        assert len(open_due_rounds(session, clock.now())) == 2
    assert trainer.run_once() == 2

    ledger = Ledger(clock)
    with transaction(engine) as session:
        rows = registry.list_versions(session, tenant_id="acme")
        period = list_rounds(session, tenant_id="acme")[0].period_index
        spend = ledger.spend(session, "acme", period)
        charged = [ledger.reservation(session, row.reservation_id) for row in rows]
    assert sorted(row.domain for row in rows) == ["finance", "legal"]
    assert len({row.line_ref for row in rows}) == 2
    assert len({registry.read_version(row).manifest.lora.tensor_digest for row in rows}) == 2
    assert spend.reservations == {ReservationState.COMMITTED: 2}
    # A user of both domains is in both releases: the account holds their composition, not the larger one.
    both = best_epsilon(total_curve(charged[0].mechanisms + charged[1].mechanisms), spend.delta)[0]
    alone = best_epsilon(total_curve(charged[0].mechanisms), spend.delta)[0]
    assert spend.lifetime_epsilon == pytest.approx(both)
    assert both > alone
    assert both <= spend.lifetime_cap
    second = max(registry.read_version(row).manifest.privacy.cumulative_epsilon for row in rows)
    assert second == pytest.approx(both)
    report = verify_export(export_ledger(engine))
    assert report.ok, report.findings


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # the other one trains on both
def test_a_third_release_in_either_domain_is_refused_by_the_shared_budget(engine, clock, trainer):
    with transaction(engine) as session:
        open_due_rounds(session, clock.now())
    trainer.run_once()
    clock.advance(days=1)
    with transaction(engine) as session:
        assert len(open_due_rounds(session, clock.now())) == 2
    trainer.run_once()
    with transaction(engine) as session:
        newest = list_rounds(session, tenant_id="acme", limit=2)
        assert {row.outcome_code for row in newest} == {"budget_exhausted"}
        assert len(registry.list_versions(session, tenant_id="acme")) == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # what is asked of it has tests on both
def test_a_line_that_no_collection_is_for_rehearses_no_notes(engine, clock, trainer, monkeypatch):
    with transaction(engine) as session:
        policies.set_policy(session, "acme", {"memory": True}, actor="test", reason="test", now=clock.now())
        place = documents.Place(
            tenant_id="acme", collection="default", actor="test", now=clock.now(), domain="legal"
        )
        drafts = [Draft(document_id="lease", title="The lease", text="It ends in May.")]
        documents.add(session, MemoryKeys(bytes(32)), place, documents.prepared(drafts, None))
        open_due_rounds(session, clock.now())
    asked = {}
    train = ChildProcessTrainer.train

    def seen(self, job, **options):
        asked.update({tenant.job_key: tenant.notes for tenant in job.tenants})
        return train(self, job, **options)

    monkeypatch.setattr(ChildProcessTrainer, "train", seen)
    assert trainer.run_once() == 2
    with transaction(engine) as session:
        by_domain = {row.domain: asked[row.reservation_id] for row in list_rounds(session, tenant_id="acme")}
    assert by_domain == {"legal": True, "finance": False}
