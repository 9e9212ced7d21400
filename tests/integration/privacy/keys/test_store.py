"""Users' keys lie apart from their texts: what a dump is worth, and what crashes between the two stores leave."""

from __future__ import annotations

import base64
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlmodel import select

from personalization.signals.rows import SignalRow
from personalization.signals.values import row_of
from privacy.erasure import erase as erasures
from privacy.erasure.certificates import BackupRetention
from privacy.errors import KeyUnavailableError, StorageError
from privacy.keys import moving
from privacy.keys.envelope import KEY_ID_BYTES
from privacy.keys.keyring import Plaintext, Sealed
from privacy.keys.master_key import check_master_key
from privacy.keys.moving import move_keys
from privacy.keys.store import KeyStore, open_store
from privacy.keys.store_tables import UserKey
from privacy.keys.tables import SubjectKeyRow, TenantKeyRow
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject
from streams.contracts.dead_letter import DeadLetterReason
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.keys import keyring_of, store_of
from tests.fakes.old_keys import OldInstallation
from tests.fakes.stream_records import NOW, consent, erasure, interaction

MASTER = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def world(engine):
    world = IngestWorld(engine, master_key=MASTER)
    world.take(world.consents, consent("u1"), consent("u2"))
    world.take(world.interactions, interaction("u1", "i1"), interaction("u2", "i2"))
    return world


def rows(engine):
    with transaction(engine) as session:
        return list(session.exec(select(SignalRow).order_by(SignalRow.pseudonym)))


def bytes_of_all_tables(engine):
    """Everything that a dump of the database holds."""
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        found = [list(connection.execute(text(f"SELECT * FROM {name}"))) for name in tables]
        connection.rollback()
    return [
        value for table in found for row in table for value in row if isinstance(value, bytes | memoryview)
    ]


def test_a_dump_of_the_database_holds_no_key_and_reads_nothing_after_an_erasure(world, engine):
    dump, blobs = rows(engine), [bytes(value) for value in bytes_of_all_tables(engine)]
    keys = [key.wrapped for key in world.keyring.store.tenant_keys()]
    keys += list(
        world.keyring.store.user_keys([Subject(row.tenant_id, row.pseudonym) for row in dump]).values()
    )
    assert len(keys) == 4
    assert not set(keys) & set(blobs)
    world.take(world.erasures, erasure("u1", request_id="r1"))
    # Whoever has the dump, the master key and the key store of today reads the other user, and not the erased one.
    (gone,) = {row.pseudonym for row in dump} - {row.pseudonym for row in rows(engine)}
    with transaction(engine) as session:
        reader = keyring_of(engine, MASTER)
        texts = reader.decrypt_many(session, "acme", [sealed(row) for row in dump])
    assert [value is None for value in texts] == [row.pseudonym == gone for row in dump]


def sealed(row):
    context = row_of(row.event_digest, row.domain, row.period_index, row.rank, row.occurred_at)
    return Sealed(row.pseudonym, context, bytes(row.ciphertext))


@pytest.mark.parametrize(
    "change",
    [
        {"event_digest": b"d" * 32}, {"domain": "legal"}, {"period_index": 0}, {"rank": b"r" * 32},
        {"occurred_at": NOW - timedelta(days=3)},
    ],
)  # fmt: skip
def test_a_text_does_not_open_in_another_row_of_the_same_user(world, engine, change):
    row = rows(engine)[0]
    moved = SignalRow(**{**row.model_dump(), **change})
    with transaction(engine) as session:
        assert world.keyring.decrypt(session, "acme", sealed(row))
        with pytest.raises(KeyUnavailableError, match="does not open"):
            world.keyring.decrypt(session, "acme", sealed(moved))


def test_two_texts_of_one_user_cannot_be_exchanged_in_the_database(world, engine):
    world.take(world.interactions, interaction("u1", "i3", completion="another answer"))
    first, second = [row for row in rows(engine) if row.pseudonym == pseudonym_of(world, "u1")]
    with transaction(engine) as session:
        one, other = session.get(SignalRow, first.event_digest), session.get(SignalRow, second.event_digest)
        one.ciphertext, other.ciphertext = second.ciphertext, first.ciphertext
    with pytest.raises(KeyUnavailableError):
        world.users()


def pseudonym_of(world, user):
    with transaction(world.engine) as session:
        return world.keyring.tenant_keys(session, "acme", now=NOW).hashes.pseudonym(user)


def test_sealed_values_name_the_key_that_they_were_sealed_with(world, engine):
    (one, two) = (bytes(row.ciphertext) for row in rows(engine))
    assert one[:1] == two[:1] == b"\x02"
    assert one[1 : 1 + KEY_ID_BYTES] != two[1 : 1 + KEY_ID_BYTES]
    by = {wrapped_by for _, wrapped_by, _ in world.keyring.store.count_users()}
    with transaction(engine) as session:
        assert by == set(world.keyring.tenant_keys(session, "acme", now=NOW).ciphers)


def test_a_crash_after_a_key_was_made_leaves_a_key_that_seals_nothing(engine):
    world = IngestWorld(engine, master_key=MASTER)
    world.take(world.consents, consent("u1"))
    with pytest.raises(RuntimeError), transaction(engine) as session:
        name = world.keyring.tenant_keys(session, "acme", now=NOW).hashes.pseudonym("u1")
        lost = world.keyring.encrypt_many(session, [Plaintext("acme", name, b"row", b"lost")], now=NOW)
        raise RuntimeError("the transaction of the texts fails")
    assert lost
    assert [count for *_, count in world.keyring.store.count_users()] == [1]
    world.take(world.interactions, interaction("u1", "i1"))
    assert [count for *_, count in world.keyring.store.count_users()] == [1]
    assert len(world.users()) == 1


# A process of its own that dies inside an erasure: before its key is destroyed, or after, before the commit.
DYING = """
import os, sys
from sqlalchemy import event
from sqlmodel import Session
from tests.fakes.keys import keyring_of
from streams.contracts.dead_letter import DeadLetterReason
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, erasure
from privacy.storage.session import open_engine
from streams.ingest.erasures import ErasureHandler
from personalization.signals import rows as signal_rows
import streams.ingest.erasures as module

url, master, where = sys.argv[1:]
if where == "before":
    module.delete_user_signals = lambda *_: os._exit(9)
else:
    def die(session):
        if session.get_bind().url.render_as_string(hide_password=False) == url:  # not that of the key store
            os._exit(9)
    event.listen(Session, "before_commit", die)
world = IngestWorld.__new__(IngestWorld)
world.begin(open_engine(url), master)
world.take(world.erasures, erasure("u1", request_id="r1"))
"""


def dies(engine, where):
    url = engine.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-c", DYING, url, MASTER, where],
        cwd=Path(__file__).parents[4], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr


def test_a_crash_before_the_key_is_destroyed_leaves_everything_and_the_request_is_carried_out_later(
    world, engine
):
    dies(engine, "before")
    assert len(world.users()) == 2
    world.take(world.erasures, erasure("u1", request_id="r1"))
    assert len(world.users()) == 1
    with transaction(engine) as session:
        (certificate,) = erasures.certificates(session, "acme")
    assert certificate.keys_destroyed == 1


def test_a_crash_after_the_key_is_destroyed_leaves_nothing_readable_and_nothing_unreported(world, engine):
    dies(engine, "after")
    assert len(rows(engine)) == 2, "the transaction of the texts was not committed"
    fresh = IngestWorld.__new__(IngestWorld)
    fresh.begin(engine, MASTER)
    assert len(fresh.users()) == 1, "its ciphertexts are there, and nobody can read them"
    with transaction(engine) as session:
        assert erasures.certificates(session, "acme") == []
    # What arrives before the request comes again neither fails its batch nor makes the user a new key.
    outcome = fresh.take(
        fresh.interactions, interaction("u1", "i8"), interaction("u2", "i9"), interaction("u2", "i7")
    )
    assert (outcome.effects, outcome.dead_letters) == (2, 1)
    assert fresh.sender.reasons == [DeadLetterReason.USER_ERASED.value]
    # Kafka brings the request again: it is answered, and the answer counts the key that the crash had destroyed.
    fresh.take(fresh.erasures, erasure("u1", request_id="r1"))
    fresh.take(fresh.erasures, erasure("u1", request_id="r2"))
    with transaction(engine) as session:
        told = {one.erasure_id: one.keys_destroyed for one in erasures.certificates(session, "acme")}
    assert told == {"r1": 1, "r2": 0}
    assert {row.pseudonym for row in rows(engine)} == {pseudonym_of(world, "u2")}


def test_a_restored_database_neither_reads_an_erased_user_nor_takes_events_of_one(world, engine):
    before = rows(engine)
    world.take(world.erasures, erasure("u1", request_id="r1"))
    with transaction(engine) as session:  # the backup comes back; the key store is of today
        for row in before:
            session.merge(SignalRow(**row.model_dump()))
        for mark in session.exec(select(SubjectKeyRow)):
            session.delete(mark)
        session.get(TenantKeyRow, "acme").erasures = 0
    world.take(world.consents, consent("u1", offset=9))
    restored = IngestWorld.__new__(IngestWorld)
    restored.begin(engine, MASTER)
    assert len(restored.users()) == 1
    assert restored.take(restored.interactions, interaction("u1", "i5")).dead_letters == 1


def test_a_destroyed_key_leaves_no_trace_in_the_files_of_the_store(tmp_path):
    path = tmp_path / "keys.sqlite3"
    store = open_store(f"sqlite:///{path}")
    store.prepare()
    subject = Subject("acme", "p1")
    secret = b"a wrapped key that nothing else looks like"
    store.add_user_keys([UserKey(subject, secret, b"key")], NOW)
    files = [path, path.with_name(path.name + "-wal")]
    assert {file.stat().st_mode & 0o777 for file in files if file.exists()} == {0o600}
    assert any(secret in file.read_bytes() for file in files if file.exists())
    assert store.destroy_user_keys([subject], b"r1", NOW) == 1
    assert not any(secret in file.read_bytes() for file in files if file.exists())
    assert store.user_keys([subject]) == {subject: None}
    store.add_user_keys([UserKey(subject, secret, b"key")], NOW)
    assert store.user_keys([subject]) == {subject: None}, "a tombstone is never replaced"
    store.engine.dispose()


def test_a_store_without_tables_or_of_a_newer_version_is_refused(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    with pytest.raises(StorageError, match="db upgrade"):
        store.check()
    store.prepare()
    store.prepare()
    store.check()
    with transaction(store.engine) as session:
        session.execute(text("INSERT INTO key_store VALUES (9)"))
    with pytest.raises(StorageError, match="newer"):
        store.check()
    store.engine.dispose()


def test_a_key_store_that_belongs_to_another_database_is_refused(world, engine, tmp_path):
    other = open_store(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    other.prepare()
    keyring = keyring_of(engine, MASTER)
    keyring.store = other
    with transaction(engine) as session, pytest.raises(KeyUnavailableError, match="DISCREET_KEYS__URL"):
        check_master_key(session, keyring, now=NOW)
    other.engine.dispose()


class TestMovingOut:
    """Keys that lie in the database of an older installation."""

    @pytest.fixture
    def old(self, engine, monkeypatch):
        monkeypatch.setattr(moving, "USERS_AT_ONCE", 2)
        with transaction(engine) as session:
            policies.register_tenant(session, "acme", actor="ann", now=NOW)
            old = OldInstallation(session, base64.b64decode(MASTER), "acme", NOW)
            keys = {f"p{number}": old.user(f"p{number}") for number in range(5)}
            old.erased("p9")
        self.texts = [(name, old.text(key, name, name.encode())) for name, key in keys.items()]
        return old

    def readable(self, engine):
        keyring = keyring_of(engine, MASTER)
        with transaction(engine) as session:
            return keyring.decrypt_many(
                session, "acme", [Sealed(name, b"", value) for name, value in self.texts]
            )

    def left(self, engine):
        with transaction(engine) as session:
            tenants = [row.wrapped_key for row in session.exec(select(TenantKeyRow))]
            return [row.pseudonym for row in session.exec(select(SubjectKeyRow))], tenants

    def test_keys_move_and_old_texts_stay_readable(self, old, engine):
        with transaction(engine) as session, pytest.raises(KeyUnavailableError, match="db upgrade"):
            check_master_key(session, keyring_of(engine, MASTER), now=NOW)
        assert move_keys(engine, store_of(engine), now=NOW) == 5
        assert self.readable(engine) == [name.encode() for name, _ in self.texts]
        assert self.left(engine) == (["p9"], [None])
        assert move_keys(engine, store_of(engine), now=NOW) == 0
        with transaction(engine) as session:
            keyring = keyring_of(engine, MASTER)
            check_master_key(session, keyring, now=NOW)
            assert keyring.destroyed_among(session, [Subject("acme", "p9"), Subject("acme", "p1")]) == {
                Subject("acme", "p9")
            }
            assert keyring.tenant_keys(session, "acme", now=NOW).pseudonym_key == old.pseudonym_key

    def test_a_crash_at_any_step_loses_no_key(self, old, engine, monkeypatch):
        real, calls = KeyStore.add_user_keys, []

        def failing(store, keys, now):
            calls.append(len(keys))
            if len(calls) in (2, 4):
                raise StorageError("the key store is away")
            real(store, keys, now)
            if len(calls) == 5:
                raise StorageError("the key store died after its commit")

        monkeypatch.setattr(KeyStore, "add_user_keys", failing)
        for _ in range(3):
            with pytest.raises(StorageError):
                move_keys(engine, store_of(engine), now=NOW)
        monkeypatch.setattr(KeyStore, "add_user_keys", real)
        move_keys(engine, store_of(engine), now=NOW)
        assert self.readable(engine) == [name.encode() for name, _ in self.texts]
        assert self.left(engine) == (["p9"], [None])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (timedelta(days=7), "Backups of the key store end by 2026-03-09T09:30:00+00:00"),
        (timedelta(0), "The key store has no backups"),
    ],
)
def test_a_certificate_says_what_backups_hold_and_until_when(engine, clock, keys, says):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=clock())
        certificate = erasures.erase(
            session,
            ("acme", "p1"),
            erasure_id="r1",
            requested_at=clock(),
            actor="worker",
            now=clock(),
            store=store_of(engine),
            backups=BackupRetention(keys=keys, database=timedelta(days=30)),
            delete_signals=lambda *_: 0,
        )
    assert certificate.backups_until == clock() + keys
    assert certificate.database_backups_until == clock() + timedelta(days=30)
    assert says in certificate.statement
    assert "Backups of the database end by 2026-04-01T09:30:00+00:00" in certificate.statement
    assert "cannot be read" not in certificate.statement
    with transaction(engine) as session:
        assert erasures.certificates(session, "acme") == [certificate]
    old = {**certificate.to_document(), "backups_until": None, "database_backups_until": None}
    assert "was not recorded" in type(certificate).from_document(old).statement
