"""Text is readable with the user's key only; a key is never used before it is stored nor after it is gone."""

from __future__ import annotations

import base64

import pytest
from sqlmodel import select

from privacy.erasure import erase as erasures
from privacy.errors import KeyUnavailableError, UnknownTenantError
from privacy.keys.envelope import Cipher, associated, new_key
from privacy.keys.keyring import Plaintext, Sealed
from privacy.keys.service import MasterKeys, new_master_key
from privacy.keys.tables import SubjectKeyRow, TenantKeyRow
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from tests.fakes.keys import BACKUPS, keyring_of, store_of

MASTER = new_master_key()
ROW = b"a row"
ITEMS = [("acme", "p1", b"one"), ("acme", "p2", b"two"), ("beta", "p1", b"three"), ("acme", "p1", b"four")]


@pytest.fixture
def keyring(engine, clock):
    with transaction(engine) as session:
        for tenant in ("acme", "beta"):
            policies.register_tenant(session, tenant, actor="ann", now=clock())
    return keyring_of(engine, MASTER)


def seal(engine, clock, keyring, items=ITEMS):
    with transaction(engine) as session:
        return keyring.encrypt_many(
            session, [Plaintext(tenant, user, ROW, text) for tenant, user, text in items], now=clock()
        )


def opened(engine, keyring, tenant, items):
    with transaction(engine) as session:
        return keyring.decrypt_many(session, tenant, [Sealed(user, ROW, value) for user, value in items])


def erase(engine, clock, tenant="acme", pseudonym="p1"):
    with transaction(engine) as session:
        erasures.erase(
            session,
            (tenant, pseudonym),
            erasure_id="r1",
            requested_at=clock(),
            actor="worker",
            now=clock(),
            store=store_of(engine),
            backups=BACKUPS,
            delete_signals=lambda _session, _tenant, _pseudonym: 0,
        )


def test_another_process_with_the_same_master_key_reads_what_was_sealed(engine, clock, keyring):
    one, two, three, four = seal(engine, clock, keyring)
    for reader in (keyring, keyring_of(engine, base64.b64decode(MASTER))):
        assert opened(engine, reader, "acme", [("p1", one), ("p2", two), ("p1", four)]) == [
            b"one",
            b"two",
            b"four",
        ]
        assert opened(engine, reader, "beta", [("p1", three)]) == [b"three"]


def test_each_user_has_one_key_however_many_batches_come(engine, clock, keyring):
    first = seal(engine, clock, keyring)
    second = seal(engine, clock, keyring_of(engine, MASTER))
    assert opened(engine, keyring, "acme", [("p1", first[0]), ("p1", second[0])]) == [b"one", b"one"]
    with transaction(engine) as session:
        assert session.exec(select(SubjectKeyRow)).all() == []
        assert len(session.exec(select(TenantKeyRow)).all()) == 2
    assert sum(count for *_, count in keyring.store.count_users()) == 3


def test_nothing_stored_shows_a_key_or_the_text(engine, clock, keyring):
    sealed = seal(engine, clock, keyring)
    assert len({bytes(value) for value in sealed}) == 4
    assert not any(item[2] in value for item, value in zip(ITEMS, sealed, strict=True))
    assert "cipher" not in repr(keyring._tenants["acme"].keys)


@pytest.mark.parametrize("owner", ["p2", "nobody"])
def test_a_value_of_one_user_does_not_open_as_anothers(engine, clock, keyring, owner):
    sealed = seal(engine, clock, keyring)
    if owner == "nobody":
        assert opened(engine, keyring, "acme", [(owner, sealed[0])]) == [None]
    else:
        with pytest.raises(KeyUnavailableError, match="does not open"):
            opened(engine, keyring, "acme", [(owner, sealed[0])])


def test_a_changed_byte_or_another_master_key_is_refused(engine, clock, keyring):
    sealed = seal(engine, clock, keyring)[0]
    for broken in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"\x03" + sealed[1:], sealed[:5], b""):
        with pytest.raises(KeyUnavailableError):
            opened(engine, keyring, "acme", [("p1", broken)])
    with pytest.raises(KeyUnavailableError, match="master key"):
        opened(engine, keyring_of(engine), "acme", [("p1", sealed)])


def test_keys_of_a_rolled_back_transaction_are_never_used_again(engine, clock, keyring):
    def sealed_then_failed():
        with transaction(engine) as session:
            keyring.encrypt_many(session, [Plaintext(*one[:2], ROW, one[2]) for one in ITEMS], now=clock())
            keyring.tenant_keys(session, "acme", now=clock())
            raise RuntimeError("the transaction fails")

    with pytest.raises(RuntimeError):
        sealed_then_failed()
    sealed = seal(engine, clock, keyring)
    assert opened(engine, keyring_of(engine, MASTER), "acme", [("p1", sealed[0])]) == [b"one"]


def test_an_erasure_by_one_process_reaches_the_cache_of_another(engine, clock, keyring):
    sealed = seal(engine, clock, keyring)
    erase(engine, clock)
    assert opened(engine, keyring, "acme", [("p1", sealed[0]), ("p2", sealed[1])]) == [None, b"two"]
    with pytest.raises(KeyUnavailableError, match="erased"):
        seal(engine, clock, keyring)
    with transaction(engine) as session, pytest.raises(KeyUnavailableError, match="destroyed"):
        keyring.decrypt(session, "acme", Sealed("p1", ROW, sealed[0]))
    # The same pseudonym in another tenant is another person's.
    assert opened(engine, keyring, "beta", [("p1", sealed[2])]) == [b"three"]


def test_a_destroyed_key_stays_destroyed(engine, clock, keyring):
    erase(engine, clock, pseudonym="never-seen")
    with pytest.raises(KeyUnavailableError, match="erased"):
        seal(engine, clock, keyring, [("acme", "never-seen", b"x")])


def test_the_cache_is_bounded(engine, clock, keyring):
    small = keyring_of(engine, MASTER, cached_keys=2)
    sealed = seal(engine, clock, small)
    assert len(small._users) == 2
    assert opened(engine, small, "acme", [("p1", sealed[0]), ("p2", sealed[1])]) == [b"one", b"two"]


def test_an_unknown_tenant_has_no_keys(engine, clock, keyring):
    with pytest.raises(UnknownTenantError):
        seal(engine, clock, keyring, [("nobody", "p1", b"x")])
    with pytest.raises(KeyUnavailableError, match="has no keys"):
        opened(engine, keyring, "beta", [("p1", b"x")])


def test_secrets_are_wrapped_for_a_purpose(engine, clock):
    keyring = keyring_of(engine, MASTER)
    wrapped = keyring.wrap(b"seed", "round 1", now=clock())
    assert keyring.unwrap(wrapped, "round 1") == b"seed"
    keyring.wrap(b"seed", "round 2", now=clock())
    with pytest.raises(KeyUnavailableError):
        keyring.unwrap(wrapped, "round 2")
    assert keyring.service.newest() not in wrapped.hex(), "the master key alone does not open it"
    keyring.forget(["round 1"])
    with pytest.raises(KeyUnavailableError, match="gone"):
        keyring.unwrap(wrapped, "round 1")


@pytest.mark.parametrize("master", ["not base64!", base64.b64encode(b"short").decode(), b"short"])
def test_a_malformed_master_key_is_refused(master):
    with pytest.raises(KeyUnavailableError, match=r"base64|exactly 32"):
        MasterKeys(master)


def test_associated_data_tell_parts_apart():
    assert associated("ab", "c") != associated("a", "bc")
    cipher = Cipher(new_key())
    with pytest.raises(KeyUnavailableError):
        cipher.open(cipher.seal(b"x", associated("ab", "c")), associated("a", "bc"))
