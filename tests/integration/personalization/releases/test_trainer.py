"""One round on a tiny Llama with nothing faked: encrypted signals in, a signed adapter and events out."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import pytest
from safetensors.numpy import load_file
from sqlmodel import select

from personalization.adapters.signing import ManifestSigner
from personalization.artifacts.directory import DirectoryArtifactStore
from personalization.canaries.values import AuditRequest
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import PerformanceFlags
from personalization.registry.publishing import Publisher
from personalization.registry.queries import audits_of, read_version
from personalization.registry.tables import AdapterVersionRow
from personalization.releases.protocol import TrainingRounds
from personalization.releases.trainer import Trainer, TrainerOptions
from personalization.rounds.queries import open_round
from personalization.rounds.tables import RoundRow
from personalization.signals.rows import insert_signals
from personalization.signals.snapshot import StoredSignals
from personalization.signals.values import OutcomeKind, Signal, StoredSignal, row_of
from personalization.starts.shop import Shop
from personalization.training.base.directory import BaseDirectory
from personalization.training.child.parent import ChildProcessTrainer
from privacy.consent import statements as consents
from privacy.consent.admission import Consent
from privacy.keys.keyring import Plaintext
from privacy.ledger import Ledger, ReservationState
from privacy.policy import versions as policies
from privacy.policy.values import DataPurpose
from privacy.reports.statement import privacy_statement
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject
from streams.contracts.topics import ADAPTER_EVENTS, ADAPTERS
from streams.outbox.tables import OutboxRow
from tests.fakes.keys import keyring_of
from tests.fakes.tiny_models import write_tiny_base
from tests.fakes.training import outbox_events, signed_by

USERS = 12
FLAGS = PerformanceFlags(device="cpu", threads=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return BaseDirectory(write_tiny_base(tmp_path_factory.mktemp("base")))


def store_signals(engine, keyring, now, tenant_id):
    subjects = [
        Subject(tenant_id, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(USERS)
    ]
    agreed = Consent(granted=True, notice_version="1", occurred_at=now)
    signal = Signal(
        prompt="src/a.py", completion="fix: the parser", outcome=OutcomeKind.ACCEPTED, final_text=None
    ).to_bytes()
    with transaction(engine) as session:
        consents.record(
            session,
            [
                consents.ConsentStatement(subject=subject, purpose=DataPurpose.TRAINING.value, consent=agreed)
                for subject in subjects
            ],
            now=now,
        )
        digests = [hashlib.sha256(subject.pseudonym.encode()).digest() for subject in subjects]
        rows = [row_of(one, "default", 0, one[:16], now - timedelta(hours=1)) for one in digests]
        sealed = keyring.encrypt_many(
            session,
            [Plaintext(*subject, row, signal) for subject, row in zip(subjects, rows, strict=True)],
            now=now,
        )
        insert_signals(
            session,
            [
                StoredSignal(
                    event_digest=(digest := hashlib.sha256(subject.pseudonym.encode()).digest()),
                    tenant_id=tenant_id,
                    pseudonym=subject.pseudonym,
                    domain="default",
                    period_index=0,
                    rank=digest[:16],
                    occurred_at=now - timedelta(hours=1),
                    ciphertext=ciphertext,
                )
                for subject, ciphertext in zip(subjects, sealed, strict=True)
            ],
        )


def test_a_round_trains_and_publishes_on_real_parts(engine, clock, base, tmp_path):
    now, keyring, events = clock.now(), keyring_of(engine), outbox_events()
    artifacts, signer, ledger = (
        DirectoryArtifactStore(tmp_path / "store"),
        ManifestSigner(bytes(range(32))),
        Ledger(clock),
    )
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=now)
        policies.set_policy(
            session,
            "acme",
            {
                "declared_users": USERS,
                "minimum_cohort": 1,
                "sample_rate": 1.0,
                "steps": 3,
                "planned_releases": 1,
                "lifetime_epsilon": 16.0,
                "period_epsilon": 16.0,
            },
            actor="test",
            reason="test",
            now=now,
        )
    store_signals(engine, keyring, now, "acme")
    with transaction(engine) as session:
        round_id = open_round(session, "acme", "default", actor="test", now=now).round_id
    shop = Shop(
        engine=engine,
        clock=clock,
        base=base,
        shape=read_shape(base.directory()),
        artifacts=artifacts,
        events=events,
        publisher=Publisher(artifacts, signer, events),
    )
    trainer = Trainer(
        shop,
        rounds=TrainingRounds(
            shop, ledger=ledger, keyring=keyring, signals=StoredSignals(keyring), flags=FLAGS
        ),
        trainer=ChildProcessTrainer(),
        options=TrainerOptions(owner="test", flags=FLAGS, audit=AuditRequest(canaries=4096)),
    )

    assert trainer.run_once() == 1

    with transaction(engine) as session:
        row = session.get(RoundRow, round_id)
        assert (row.state, row.outcome) == ("done", "A new version was published.")
        version = read_version(session.exec(select(AdapterVersionRow)).one())
        outbox = session.exec(select(OutboxRow).order_by(OutboxRow.outbox_id)).all()
        spend = ledger.spend(session, "acme", row.period_index)
    checks = {check.name: check for check in version.manifest.evaluation.checks}
    assert checks["public_text"].passed
    assert checks["noise_norm"].value > 0
    audit = version.manifest.privacy.audit
    assert 0 < audit.empirical_epsilon <= audit.claimed_epsilon <= version.manifest.privacy.release_epsilon
    assert (checks["audit"].value, checks["audit"].threshold) == (
        audit.empirical_epsilon,
        audit.claimed_epsilon,
    )
    assert signed_by(signer.public_key, version.manifest.to_bytes(), version.signature)
    weights = load_file(artifacts.open(version.version_id) / "adapter_model.safetensors")
    assert any(abs(tensor).max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    assert spend.reservations == {ReservationState.COMMITTED: 1}
    assert version.manifest.privacy.cumulative_epsilon == pytest.approx(spend.lifetime_epsilon)
    assert [message.topic for message in outbox] == [ADAPTER_EVENTS.name, ADAPTERS.name]
    published = json.loads(outbox[1].value)
    assert published["adapter"]["version_id"] == version.version_id
    assert (
        published["adapter"]["manifest"]["privacy"]["audit"]["empirical_epsilon"] == audit.empirical_epsilon
    )
    with transaction(engine) as session:
        statement = privacy_statement(session, "acme", now=now, audits=audits_of(session, "acme"))
    assert f"epsilon of training at least {audit.empirical_epsilon:.4g}" in statement.to_text()
    assert b"acme" not in b"".join(message.value for message in outbox)
