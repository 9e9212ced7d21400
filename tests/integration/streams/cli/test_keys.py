"""``discreet keys`` and what ``discreet db upgrade`` does with keys, as an operator sees them."""

from __future__ import annotations

import base64
import json

import pytest
from sqlmodel import select

from privacy.keys.service import new_master_key
from privacy.keys.tables import SubjectKeyRow
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject
from streams.cli.main import main
from streams.settings import Settings
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.keys import keyring_of, store_of, store_url
from tests.fakes.old_keys import OldInstallation
from tests.fakes.stream_records import NOW, consent, erasure, interaction

FIRST, SECOND = new_master_key(), new_master_key()


@pytest.fixture
def settings(database_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_KEYS__URL", store_url(database_url))
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_MASTER_KEY", FIRST)


@pytest.fixture
def world(engine, settings):
    world = IngestWorld(engine, master_key=FIRST)
    world.take(world.consents, consent("u1"), consent("u2"))
    world.take(world.interactions, interaction("u1", "i1"), interaction("u2", "i2"))
    return world


def asked(capsys, *words):
    status = main([*words, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])


def again(world, master_key):
    other = IngestWorld.__new__(IngestWorld)
    other.begin(world.engine, master_key)
    return other


def test_the_keys_of_an_installation_are_shown_and_rotated(world, capsys, monkeypatch):
    before = asked(capsys, "keys", "status")
    # Two of the tenant, and the one that certificates are signed with.
    assert (before["master"]["under_newest"], before["master"]["older"]) == (2, 0)
    monkeypatch.setenv("DISCREET_MASTER_KEY", SECOND)
    monkeypatch.setenv("DISCREET_KEYS__OLDER_MASTER_KEYS", FIRST)
    assert asked(capsys, "keys", "status")["master"]["older"] == 3
    (rotated,) = asked(capsys, "keys", "rotate", "master")
    assert rotated["of"] == "master"
    monkeypatch.delenv("DISCREET_KEYS__OLDER_MASTER_KEYS")
    assert [one["key"] for one in asked(capsys, "keys", "rotate", "tenant", "--tenant", "acme")] == ["2"]
    assert [one["key"] for one in asked(capsys, "keys", "rotate", "pseudonyms")] == ["2"]
    facts = asked(capsys, "keys", "status")
    assert facts["tenants"] == [
        {
            "tenant": "acme", "key": 2, "pseudonym_key": 2, "pseudonym_keys_kept": 2, "renaming": False,
            "under_older_key": False,
        }
    ]  # fmt: skip
    assert facts["master"]["newest"] != before["master"]["newest"]
    assert facts["certificates"] == before["certificates"], "certificates of before stay verifiable"
    assert facts["backups"] == {"keys_days": 7.0, "database_days": 30.0}
    assert main(["keys", "status"]) == 0
    assert "nothing is left to rotate" in capsys.readouterr().out
    assert len(again(world, SECOND).users()) == 2


def test_a_master_key_of_the_settings_is_not_made_here(world, capsys):
    assert main(["keys", "rotate", "master"]) == 2
    assert "[privacy.key.rotation]" in capsys.readouterr().err


@pytest.mark.parametrize("restored", ["database", "key store"])
def test_after_a_restore_erasures_are_carried_out_again(world, engine, capsys, restored):
    with transaction(engine) as session:
        name = world.keyring.tenant_keys(session, "acme", now=NOW).hashes.pseudonym("u1")
    (kept,) = world.keyring.store.user_keys([Subject("acme", name)]).values()
    world.take(world.erasures, erasure("u1", request_id="r1"))
    if restored == "key store":
        with transaction(store_of(engine).engine) as session:
            session.connection().exec_driver_sql("DELETE FROM user_keys WHERE wrapped_key IS NULL")
        from privacy.keys.store_tables import UserKey

        with transaction(engine) as session:
            (wrapper,) = world.keyring.tenant_keys(session, "acme", now=NOW).ciphers
        store_of(engine).add_user_keys([UserKey(Subject("acme", name), kept, wrapper)], NOW)
        expected = {"keys": 1, "users": 0}
    else:
        with transaction(engine) as session:
            for mark in session.exec(select(SubjectKeyRow)):
                session.delete(mark)
        world.take(world.consents, consent("u1", offset=9))
        expected = {"keys": 0, "users": 1}
    assert asked(capsys, "keys", "reconcile") == expected
    assert asked(capsys, "keys", "reconcile") == {"keys": 0, "users": 0}
    assert list(world.keyring.store.user_keys([Subject("acme", name)]).values()) == [None]
    other = again(world, FIRST)
    assert len(other.users()) == 1
    assert other.take(other.interactions, interaction("u1", "i9")).dead_letters == 1


def test_an_upgrade_moves_keys_out_of_the_database(engine, settings, capsys):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)
        old = OldInstallation(session, base64.b64decode(FIRST), "acme", NOW)
        old.user("p1")
    store_of(engine)  # on PostgreSQL its schema must be there; `db upgrade` makes the tables in it
    assert asked(capsys, "db", "upgrade")["keys_moved"] == 1
    assert asked(capsys, "db", "upgrade")["keys_moved"] == 0
    with transaction(engine) as session:
        keys = keyring_of(engine, FIRST).tenant_keys(session, "acme", now=NOW)
    assert keys.pseudonym_key == old.pseudonym_key


def test_postgresql_needs_a_key_store_of_its_own_and_sqlite_has_one_beside(tmp_path, capsys, monkeypatch):
    beside = Settings(database={"url": f"sqlite:///{tmp_path / 'main.sqlite3'}"}).key_store_url
    assert beside == f"sqlite:///{tmp_path / 'main-keys.sqlite3'}"
    monkeypatch.setenv("DISCREET_DATABASE__URL", "postgresql+psycopg://discreet@127.0.0.1:1/discreet")
    assert main(["db", "upgrade"]) == 2
    assert "DISCREET_KEYS__URL" in capsys.readouterr().err
    monkeypatch.setenv("DISCREET_KEYS__URL", "postgresql+psycopg://discreet@127.0.0.1:1/discreet")
    assert main(["db", "upgrade"]) == 2
    assert "another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"DISCREET_KEYS__TRANSIT_URL": "http://vault.example.com"}, "DISCREET_KEYS"),
        (
            {"DISCREET_KEYS__TRANSIT_URL": "http://vault.example.com", "DISCREET_KEYS__TRANSIT_TOKEN": "t"},
            "https",
        ),
        ({"DISCREET_KEYS__OLDER_MASTER_KEYS": "c2hvcnQ="}, "32"),
        ({"DISCREET_SIGNING__ADAPTER_KEY": "no base64!"}, "base64"),
        ({"DISCREET_BACKUPS__KEYS_DAYS": "-1"}, "DISCREET_BACKUPS__KEYS_DAYS"),
    ],
)
def test_settings_of_keys_that_are_not_allowed_are_named(settings, variables, says, capsys, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["keys", "status"]) == 2
    assert says in capsys.readouterr().err
