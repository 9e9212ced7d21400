"""Keys are rotated while events come in: nothing is lost, nobody is linked anew, interrupted rotations are taken up."""

from __future__ import annotations

import base64
import os
import threading
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import event, text
from sqlmodel import Session, select

from personalization.signals.resealing import reseal
from personalization.signals.rows import SignalRow
from personalization.signals.values import OutcomeKind, Signal
from privacy.audit import trail as audit_trail
from privacy.consent.tables import ConsentRow
from privacy.erasure.tables import ErasureRow
from privacy.errors import KeyRotationError, KeyUnavailableError, StorageError
from privacy.keys import renaming, rotation
from privacy.keys.envelope import sealed_under
from privacy.keys.keyring import Plaintext, Sealed
from privacy.keys.moving import move_keys
from privacy.keys.pseudonyms import names_of
from privacy.keys.rotation import rotate_master, rotate_pseudonyms, rotate_tenant
from privacy.keys.service import MasterKeys
from privacy.keys.store import KeyStore
from privacy.keys.tables import SubjectKeyRow, TenantKeyRow
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.keys import keyring_of, store_of
from tests.fakes.old_keys import OldInstallation
from tests.fakes.stream_records import NOW, consent, erasure, interaction

MASTER, NEXT = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
USERS = 12


@pytest.fixture
def world(engine, monkeypatch):
    monkeypatch.setattr(rotation, "AT_ONCE", 5)
    world = IngestWorld(engine, master_key=MASTER)
    world.take(world.consents, *(consent(f"u{number}", offset=number) for number in range(USERS + 2)))
    world.take(world.interactions, *(interaction(f"u{number}", f"first-{number}") for number in range(USERS)))
    world.take(world.erasures, erasure("u0", request_id="r0"))
    return world


def another(world, master_key=MASTER):
    """Another process over the same database."""
    other = IngestWorld.__new__(IngestWorld)
    other.begin(world.engine, master_key)
    return other


def turn(world, what, **changes):
    arguments = {"actor": "ann", "now": NOW}
    rotate = {"tenant": rotate_tenant, "pseudonyms": rotate_pseudonyms}[what]
    return rotate(world.engine, keyring_of(world.engine, MASTER), "acme", **{**arguments, **changes})


class Load:
    """Two processes that ingest as long as it is entered: more of known users, and duplicates; then counts."""

    def __init__(self, world):
        self._world = world
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(another(world), n)) for n in range(2)]
        self.sent, self.failed = [set(), set()], []

    def _run(self, process, lane):
        number = 0
        while not self._stop.is_set():
            names = [
                (f"u{1 + (number + step) % (USERS - 1)}", f"lane{lane}-{number}-{step}") for step in range(3)
            ]
            try:
                outcome = process.take(process.interactions, *(interaction(user, one) for user, one in names))
                if outcome.effects != 3:
                    self.failed.append(outcome)
                # Of their own: the same new event in two processes at once makes one of them try again.
                process.take(process.consents, consent(names[0][0], offset=20 * (1 + lane) + number % 7))
            except StorageError as error:
                if "Deadlock" not in str(error):
                    self.failed.append(error)
                continue  # a worker tries again
            self.sent[lane].update(one for _, one in names)
            number += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.failed == []
        assert all(len(lane) >= 3 for lane in self.sent), "there was no load"


def everything_is_readable(world, *, renaming=False):
    """Every signal of every user opens, in a process that knows nothing yet; erased users stay erased."""
    fresh = another(world)
    assert len(fresh.users()) == USERS - 1
    with transaction(world.engine) as session:
        names = set(session.exec(select(SignalRow.pseudonym)))
        assert len(names) == USERS - 1
        hashes = fresh.keyring.tenant_keys(session, "acme", now=NOW).hashes
    for number in range(1, USERS):  # one name each, the newest once the tenant is renamed
        known = hashes.names(hashes.first(f"u{number}"))
        assert len(names & set(known if renaming else known[-1:])) == 1
    refused = fresh.take(fresh.interactions, interaction("u0", f"again-{os.urandom(3).hex()}"))
    assert (refused.effects, refused.dead_letters) == (0, 1)
    duplicate = fresh.take(fresh.interactions, interaction("u1", "first-1"))
    assert (duplicate.effects, duplicate.duplicates) == (0, 1), "what is the same event does not change"


@pytest.mark.parametrize("what", ["tenant", "pseudonyms"])
def test_a_rotation_under_load_loses_nothing(world, what):
    with Load(world):
        done = turn(world, what)
    assert (done.key, done.resumed) == ("2", False)
    assert done.moved > 0
    everything_is_readable(world)
    again = turn(world, what)
    assert (again.key, again.resumed) == ("3", False)
    everything_is_readable(world)
    with transaction(world.engine) as session:
        actions = [record.action for record in audit_trail.read(session, "acme")]
    assert actions.count("keys.rotated") == 2


def test_after_a_tenants_rotation_its_old_key_is_gone_and_wraps_nothing(world):
    before = world.keyring.store.tenant_keys()
    turn(world, "tenant")
    after = world.keyring.store.tenant_keys()
    numbers = {key.number for key in after if key.purpose == "wrapping"}
    assert numbers == {2}
    assert not {key.wrapped for key in before if key.purpose == "wrapping"} & {key.wrapped for key in after}
    with transaction(world.engine) as session:
        (only,) = keyring_of(world.engine, MASTER).tenant_keys(session, "acme", now=NOW).ciphers
    assert {by for _, by, _ in world.keyring.store.count_users()} == {only, None}
    # A process that had the old keys in its cache makes a new user a key under the new one.
    assert world.take(world.interactions, interaction(f"u{USERS}", "new")).effects == 1
    assert {by for _, by, _ in world.keyring.store.count_users()} == {only, None}


def test_an_erasure_during_a_tenants_rotation_is_not_undone_by_it(world, monkeypatch):
    real = KeyStore.rewrap_user_keys

    def erase_first(store, keys):
        monkeypatch.setattr(KeyStore, "rewrap_user_keys", real)
        other = another(world)
        for number in range(1, USERS):  # whoever was read to be wrapped anew is erased before it is
            other.take(other.erasures, erasure(f"u{number}", request_id=f"r{number}"))
        return real(store, keys)

    monkeypatch.setattr(KeyStore, "rewrap_user_keys", erase_first)
    turn(world, "tenant")
    assert {by for _, by, _ in world.keyring.store.count_users()} == {None}


def old_names(world, number):
    first, last = names_of(number)
    with transaction(world.engine) as session:
        found = {
            row
            for table in (SignalRow, ConsentRow, ErasureRow, SubjectKeyRow)
            for row in session.exec(select(table.pseudonym))
        }
    return {name for name in found if first <= name < last} | {
        key.subject.pseudonym for key in world.keyring.store.users_named("acme", first, last, 1000)
    }


def test_after_a_rotation_of_pseudonyms_who_has_the_old_key_links_nobody(world):
    assert len(old_names(world, 1)) == USERS + 2
    turn(world, "pseudonyms")
    assert old_names(world, 1) == set()
    assert len(old_names(world, 2)) == USERS + 2
    with transaction(world.engine) as session:
        row = session.get(TenantKeyRow, "acme")
        assert (row.pseudonyms, row.renaming) == (2, False)
    everything_is_readable(world)
    # An erasure reaches the user under the new name.
    world.take(world.erasures, erasure("u1", request_id="r1"))
    assert len(another(world).users()) == USERS - 2


def test_until_it_is_renamed_a_user_is_found_under_the_old_name_and_renamed_at_the_first_touch(
    world, monkeypatch
):
    monkeypatch.setattr(rotation, "_rename_some", broken)
    with pytest.raises(StorageError):
        turn(world, "pseudonyms")
    assert len(old_names(world, 2)) == 0
    world.take(world.interactions, interaction("u1", "second"))
    assert len(old_names(world, 2)) == 1
    assert world.take(world.interactions, interaction("u1", "second")).duplicates == 1
    with transaction(world.engine) as session:
        (name,) = [row for row in session.exec(select(ConsentRow.pseudonym)) if row.startswith("g")]
        assert len(session.exec(select(SignalRow).where(SignalRow.pseudonym == name)).all()) == 2
    world.take(world.erasures, erasure("u2", request_id="r2"))
    assert len(another(world).users()) == USERS - 2
    assert {key.wrapped for key in world.keyring.store.users_named("acme", "g", "h", 10)} != {None}
    # The key of the erased user is gone under both names.
    with transaction(world.engine) as session:
        hashes = world.keyring.tenant_keys(session, "acme", now=NOW).hashes
    names = [Subject("acme", name) for name in hashes.names(hashes.first("u2"))]
    assert len(names) == 2
    assert set(world.keyring.store.user_keys(names).values()) == {None}


def broken(*_):
    raise StorageError("the rotation is interrupted here")


@pytest.mark.parametrize("what", ["tenant", "pseudonyms"])
def test_a_rotation_that_is_interrupted_anywhere_is_taken_up(world, what, monkeypatch):
    """Each commit of either store is followed by a crash, one run after the other, until a run comes through."""
    runs, done = 0, None
    while done is None:
        runs += 1
        with dying_after(runs), suppress(StorageError):
            done = turn(world, what)
        everything_is_readable(another(world), renaming=True)
    assert runs > 4
    assert int(done.key) >= 2
    everything_is_readable(world)
    assert old_names(world, int(done.key) - 1) == set() or what == "tenant"


@contextmanager
def dying_after(commits):
    """Every so-manieth commit of this process, in whichever store, is followed by its end."""
    left = [commits]

    def after_commit(_session):
        left[0] -= 1
        if left[0] == 0:
            raise StorageError("the process died after a commit")

    event.listen(Session, "after_commit", after_commit)
    try:
        yield
    finally:
        event.remove(Session, "after_commit", after_commit)


def test_the_master_key_is_rotated_with_old_processes_still_running(world):
    wrapped_seed = world.keyring.wrap(b"a seed", "round 1", now=NOW)
    both = MasterKeys(NEXT, [MASTER])
    moved = rotate_master(keyring_of(world.engine, both))
    assert (moved.resumed, moved.moved) == (True, 3)
    assert {both.wrapped_by(key.wrapped) for key in world.keyring.store.tenant_keys()} == {both.newest()}
    new_only = IngestWorld.__new__(IngestWorld)
    new_only.begin(world.engine, NEXT)
    assert len(new_only.users()) == USERS - 1
    assert new_only.keyring.unwrap(wrapped_seed, "round 1") == b"a seed"
    # A process that was started before has the tenant's keys and goes on; who starts with the old key alone does not.
    assert world.take(world.interactions, interaction("u1", "later")).effects == 1
    with pytest.raises(KeyUnavailableError, match="DISCREET_KEYS__OLDER_MASTER_KEYS"):
        another(world).users()
    with pytest.raises(KeyRotationError, match="DISCREET_MASTER_KEY"):
        rotate_master(keyring_of(world.engine, both))
    assert rotate_master(keyring_of(world.engine, both), new_version=False).moved == 0


def test_keys_and_texts_of_an_old_installation_are_brought_up_to_date(engine, monkeypatch):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)
        old = OldInstallation(session, bytes([1]) * 32, "acme", NOW)
        plain = Signal("p", "c", OutcomeKind.ACCEPTED).to_bytes()
        for number in range(3):
            name, digest = f"{number}" * 64, bytes([number]) * 32
            key = old.user(name)
            session.add(
                SignalRow(
                    event_digest=digest, tenant_id="acme", pseudonym=name, domain="default", period_index=0,
                    rank=digest, occurred_at=NOW, ciphertext=old.text(key, name, plain),
                )
            )  # fmt: skip
            session.add(
                ConsentRow(
                    tenant_id="acme", pseudonym=name, purpose="training", granted=True, notice_version="1",
                    occurred_at=NOW, recorded_at=NOW,
                )
            )  # fmt: skip
    move_keys(engine, store_of(engine), now=NOW)
    world = IngestWorld.__new__(IngestWorld)
    world.begin(engine, MASTER)
    with transaction(engine) as session:
        policies.set_policy(session, "acme", {"declared_users": 500}, actor="a", reason="b", now=NOW)
    assert len(world.users()) == 3
    monkeypatch.setattr("personalization.signals.resealing.AT_ONCE", 2)
    assert reseal(engine, world.keyring, "acme", now=NOW) == 3
    assert reseal(engine, world.keyring, "acme", now=NOW) == 0
    with transaction(engine) as session:
        assert all(sealed_under(bytes(row.ciphertext)) for row in session.exec(select(SignalRow)))
    assert turn(world, "tenant").moved == 3
    assert turn(world, "pseudonyms").moved == 3
    assert rotate_master(keyring_of(engine, MasterKeys(NEXT, [MASTER]))).moved == 3
    new = IngestWorld.__new__(IngestWorld)
    new.begin(engine, NEXT)
    assert len(new.users()) == 3


def test_a_tenant_without_keys_has_nothing_to_rotate(engine):
    with pytest.raises(KeyRotationError, match="nothing to rotate"):
        rotate_tenant(engine, keyring_of(engine, MASTER), "nobody", actor="ann", now=NOW)


def test_every_table_that_names_users_is_renamed():
    assert {table.name for table in renaming.tables_of_users()} >= {
        "signals",
        "consents",
        "erasures",
        "subject_keys",
    }


def test_a_value_sealed_under_an_earlier_tenant_key_opens_until_it_is_wrapped_anew(world):
    with transaction(world.engine) as session:
        name = world.keyring.tenant_keys(session, "acme", now=NOW).hashes.pseudonym("u1")
        (value,) = world.keyring.encrypt_many(session, [Plaintext("acme", name, b"row", b"text")], now=NOW)
    turn(world, "tenant")
    with transaction(world.engine) as session:
        assert (
            keyring_of(world.engine, MASTER).decrypt(session, "acme", Sealed(name, b"row", value)) == b"text"
        )
        assert session.execute(text("SELECT generation FROM tenant_keys")).scalar_one() == 2
