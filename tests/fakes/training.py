"""A tenant with users, a trainer that writes a small valid adapter without torch, the protocol over both."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from personalization.adapters.files import WEIGHTS
from personalization.adapters.manifest import BaseFingerprint
from personalization.adapters.signing import ManifestSigner
from personalization.artifacts.directory import DirectoryArtifactStore
from personalization.errors import LeaseLostError, TrainingFailedError
from personalization.planning.model_shape import ModelShape
from personalization.registry.announcements import AdapterLifecycleEvent
from personalization.registry.publishing import Publisher
from personalization.releases.observer import TrainerObserver
from personalization.releases.protocol import TrainingRounds
from personalization.releases.trainer import Trainer, TrainerOptions
from personalization.rounds.queries import open_round
from personalization.signals.snapshot import TrainingSnapshot
from personalization.starts.shop import Shop
from personalization.training.jobs.job import Example, PublicLosses, TenantResult, UserExamples
from personalization.training.jobs.receipt import Receipt, SignedReceipt
from privacy.ledger import Ledger
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.client.signatures import key_id, verify
from streams.contracts.manifest import signed_bytes
from streams.outbox.events import OutboxAdapterEvents
from tests.fakes.keys import keyring_of

SHAPE = ModelShape(layers=2, hidden=32, query=32, key_value=16, intermediate=64)
POLICY = {
    "declared_users": 100,
    "lifetime_epsilon": 8.0,
    "period_epsilon": 8.0,
    "planned_releases": 4,
    "sample_rate": 0.5,
    "steps": 4,
    "minimum_cohort": 20,
}


def outbox_events() -> OutboxAdapterEvents:
    """Events of lines in the outbox, signed with a key of their own that is always the same."""
    return OutboxAdapterEvents(ManifestSigner(bytes(range(32))))


class RecordingEvents:
    """Keeps events of transactions that were committed, as the outbox would."""

    def __init__(self):
        self.committed: list[AdapterLifecycleEvent] = []

    def append(self, session, event):
        from sqlalchemy import event as sa_event

        sa_event.listen(session, "after_commit", lambda _session: self.committed.append(event), once=True)


class FixedSignals:
    """Signals of a number of users; counts how often the private read happened."""

    def __init__(self, users: int):
        self.users = users
        self.reads = 0
        self.salt = "a"
        self.retentions = []

    def load(self, session, tenant_id, domain, *, now, retention, contribution_bound, digest_key):
        self.reads += 1
        self.retentions.append(retention)
        one = UserExamples(examples=(Example(prompt="p", completion="c"),))
        digest = hashlib.sha256(f"{tenant_id}{domain}{self.users}{self.salt}".encode()).hexdigest()
        return TrainingSnapshot(users=(one,) * self.users, data_digest=f"sha256:{digest}")


class FakeBase:
    """A base model that only has a fingerprint."""

    damaged = False

    def unchanged(self):
        return not self.damaged

    def directory(self):
        return Path("/nowhere")

    def fingerprint(self):
        digest = "sha256:" + "0" * 64
        return BaseFingerprint(
            model_id="tiny", revision="", config_digest=digest, weights_digest=digest, tokenizer_digest=digest,
            architecture="LlamaForCausalLM", dtype="float32",
        )  # fmt: skip


class FakeTrainer:
    """Writes an adapter whose values depend on the noise key alone; keeps every noise key it is given."""

    def __init__(self):
        self.keys: list[bytes] = []
        self.jobs: list[int] = []
        self.failures: list[Exception] = []
        self.during = lambda _should_stop: None
        self.values: float | None = None
        self.public_losses = (2.0, 4.0)
        self.receipt = lambda receipt: receipt  # a test changes what was measured, or gives none

    def train(self, job, *, on_progress, should_stop):
        self.jobs.append(len(job.tenants))
        self.during(should_stop)
        if should_stop():
            raise LeaseLostError("stopped")
        if self.failures:
            raise self.failures.pop(0)
        results = []
        for tenant in job.tenants:
            self.keys.append(tenant.noise_key)
            directory = job.output / tenant.job_key
            write_adapter(directory, tenant.plan, int.from_bytes(tenant.noise_key[:4], "big"), self.values)
            results.append(
                TenantResult(
                    job_key=tenant.job_key, adapter=directory, steps=tenant.plan.steps,
                    sample_rate=tenant.plan.sample_rate, noise_multiplier=tenant.plan.noise_multiplier,
                    delta_norm=1.0, trainable_parameters=10,
                    public_losses=self.public_losses and PublicLosses(base=(2.0, 4.0), adapted=self.public_losses),
                    noise_norm=0.5, receipt=self.signed(tenant),
                )
            )  # fmt: skip
        return tuple(results)

    def signed(self, tenant):
        receipt = self.receipt(honest_receipt(tenant.plan))
        return receipt and SignedReceipt.of(receipt, tenant.receipt_key)


class SharedSubspaceTrainer(FakeTrainer):
    """Writes adapters of one frozen subspace: the same A for every tenant."""

    def train(self, job, *, on_progress, should_stop):
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        for result in results:
            path = result.adapter / WEIGHTS
            tensors = load_file(path)
            for name, values in tensors.items():
                if ".lora_A." in name:
                    tensors[name] = np.eye(*values.shape, dtype=np.float32)
            save_file(tensors, path)
        return results


def honest_receipt(plan) -> Receipt:
    """What a run that did what its plan says measures of itself."""
    return Receipt(
        mechanism=plan.mechanism, plan_digest=plan.digest(), steps=plan.steps, noise_count=1000,
        noise_tolerance=0.1, noise_ok=True, distinct_steps_ok=True, coins_ok=True, largest_norm_ok=True,
    )  # fmt: skip


def write_adapter(directory: Path, plan, seed: int, values: float | None = None) -> None:
    """Write a portable LoRA of the plan's shape; ``values`` overrides every number."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for module in plan.target_modules:
        inputs, outputs = SHAPE.linear(module)
        block = "self_attn" if module in {"q_proj", "k_proj", "v_proj", "o_proj"} else "mlp"
        for layer in range(SHAPE.layers - min(plan.top_layers, SHAPE.layers), SHAPE.layers):
            name = f"base_model.model.model.layers.{layer}.{block}.{module}"
            for factor, shape in (("A", (plan.rank, inputs)), ("B", (outputs, plan.rank))):
                array = random.normal(size=shape).astype(np.float32) * 0.01
                tensors[f"{name}.lora_{factor}.weight"] = (
                    array if values is None else np.full_like(array, values)
                )
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": plan.rank, "lora_alpha": plan.alpha, "bias": "none"}
    (directory / "adapter_config.json").write_text(
        json.dumps({**config, "target_modules": list(plan.target_modules)})
    )


class Outcomes(TrainerObserver):
    """Remembers how rounds ended."""

    def __init__(self):
        self.ended = []
        self.store = []

    def store_answered(self, *, ready):
        self.store.append(ready)

    def closed(self, lease, outcome):
        self.ended.append(outcome)


class Workshop:
    """Everything a trainer needs around one database; several trainers may share it."""

    def __init__(self, engine, clock, folder: Path, users: int = 60, events=None):
        self.engine = engine
        self.clock = clock
        self.base = FakeBase()
        self.signals = FixedSignals(users)
        self.events = events or RecordingEvents()
        self.trainer = FakeTrainer()
        self.artifacts = DirectoryArtifactStore(folder / "artifacts")
        self.signer = ManifestSigner(os.urandom(32))
        self.keyring = keyring_of(engine)
        self.ledger = Ledger(clock)
        self.outcomes = Outcomes()

    def add_tenant(self, tenant_id: str = "acme", **changes) -> None:
        now = self.clock.now()
        with transaction(self.engine) as session:
            policies.register_tenant(session, tenant_id, actor="test", now=now)
            policies.set_policy(
                session, tenant_id, {**POLICY, **changes}, actor="test", reason="test", now=now
            )

    def open_round(self, tenant_id: str = "acme", domain: str = "default") -> str:
        with transaction(self.engine) as session:
            return open_round(session, tenant_id, domain, actor="test", now=self.clock.now()).round_id

    def tools(self, engine=None) -> Shop:
        return Shop(
            engine=engine or self.engine,
            clock=self.clock,
            base=self.base,
            shape=SHAPE,
            artifacts=self.artifacts,
            events=self.events,
            publisher=Publisher(self.artifacts, self.signer, self.events),
        )

    def protocol(self, engine=None, copies=None, **options) -> TrainingRounds:
        return TrainingRounds(
            self.tools(engine),
            ledger=self.ledger,
            keyring=self.keyring,
            signals=self.signals,
            copies=copies,
            **options,
        )

    def process(
        self, owner: str = "one", protocol: TrainingRounds | None = None, upkeep=(), **options
    ) -> Trainer:
        return Trainer(
            self.tools(),
            rounds=protocol or self.protocol(),
            trainer=self.trainer,
            options=TrainerOptions(owner=owner, **{"lease": timedelta(seconds=60), **options}),
            observer=self.outcomes,
            upkeep=upkeep,
        )

    @contextmanager
    def session(self):
        with transaction(self.engine) as session:
            yield session


def failed() -> TrainingFailedError:
    return TrainingFailedError("training failed in the test; its charge stays")


def signed_by(public_key: bytes, manifest: bytes, signature) -> bool:
    """Say whether a server that trusts the key takes the signature of a manifest's bytes."""
    raw = base64.b64decode(signature.signature)
    return signature.key_id == key_id(public_key) and verify(public_key, raw, signed_bytes(manifest))
