"""The real handlers of interactions, consents and erasures over one database, with some tenants."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

from sqlmodel import func, select

from personalization.adapters.signing import ManifestSigner
from personalization.signals.snapshot import load_training_users
from privacy.keys.service import new_master_key
from privacy.policy import versions as policies
from privacy.policy.cache import TenantPolicies
from privacy.storage.session import open_engine, transaction
from streams.ingest.consents import ConsentHandler
from streams.ingest.erasures import ErasureHandler
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.ingest.work import Work
from tests.fakes.keys import BACKUPS, keyring_of
from tests.fakes.stream_records import NOW, FakeSender


class IngestWorld:
    """One database with tenants, and the three handlers over it; each tenant keeps three signals of a user."""

    def __init__(self, engine, *, tenants=("acme",), policy=None, master_key=None, redact=None):
        with transaction(engine) as session:
            for tenant in tenants:
                policies.register_tenant(session, tenant, actor="ann", now=NOW)
                changes = {"declared_users": 500, "contribution_bound": 3, **(policy or {})}
                policies.set_policy(session, tenant, changes, actor="ann", reason="first", now=NOW)
        self.begin(engine, master_key or new_master_key(), redact)

    def begin(self, engine, master_key, redact=None):
        """Make the handlers, as another process over the same database would."""
        self.engine = engine
        self.sender = FakeSender()
        self.master_key = master_key
        self.keyring = keyring_of(engine, self.master_key)
        self.now = NOW
        shared = {
            "engine": engine,
            "letters": DeadLetterSink(self.sender, "workers"),
            "clock": lambda: self.now,
            "keyring": self.keyring,
            "policies": TenantPolicies(0.0),
            "max_event_bytes": 2048,
        }
        self.interactions = InteractionHandler(**shared, redact=redact or _without_secrets)
        self.consents = ConsentHandler(**shared)
        self.signer = ManifestSigner(bytes(range(32)))
        self.erasures = ErasureHandler(**shared, signer=self.signer, backups=BACKUPS)

    def take(self, handler, *records, final=True):
        return handler.process([Work(record, 0.0, final) for record in records])

    def count(self, row_type):
        with transaction(self.engine) as session:
            return session.exec(select(func.count()).select_from(row_type)).one()

    def users(self, tenant="acme"):
        with transaction(self.engine) as session:
            policy = policies.current_policy(session, tenant).policy
            return load_training_users(
                session,
                tenant,
                "default",
                retention=policy.retention,
                contribution_bound=policy.contribution_bound,
                keyring=self.keyring,
                now=self.now,
            )


def _without_secrets(texts):
    return [text.replace("secret", "[secret]") for text in texts]


@contextmanager
def copied_engine(template, folder):
    """An engine over a new copy of a migrated SQLite database and its keys, for the many examples of one property."""
    path = folder / "copy.db"
    for name in (path.name, "copy-keys.db"):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(name + suffix).unlink(missing_ok=True)
    shutil.copyfile(template, path)
    keys = template.with_name(f"{template.stem}-keys{template.suffix}")
    if keys.is_file():
        shutil.copyfile(keys, path.with_name("copy-keys.db"))
    engine = open_engine(f"sqlite:///{path}")
    try:
        yield engine
    finally:
        engine.dispose()
