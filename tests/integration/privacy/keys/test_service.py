"""One contract for whatever holds the master key: the settings, a fake transit engine, and a real OpenBao server.

The real one runs where ``DISCREET_TEST_BAO`` holds its address (``.ci/services.sh`` starts one).
"""

from __future__ import annotations

import contextlib

import httpx
import pytest

from privacy.errors import KeyRotationError, KeyServiceError, KeyUnavailableError
from privacy.keys.envelope import new_key
from privacy.keys.keyring import Plaintext, Sealed
from privacy.keys.rotation import rotate_master
from privacy.keys.service import MasterKeys
from privacy.keys.transit import TransitKeys
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from tests.fakes.keys import keyring_of
from tests.fakes.stream_records import NOW
from tests.fakes.transit_server import OPENBAO, OPENBAO_TOKEN, FakeTransit, new_openbao_mount


class InSettings:
    """A master key of the settings; its rotation is a new key there, with the old one beside it."""

    rotates = False

    def __init__(self):
        self._keys = [new_key()]

    def service(self, earlier=None):
        del earlier
        return MasterKeys(self._keys[0], self._keys[1:])

    def rotate(self):
        self._keys.insert(0, new_key())


class InFake:
    rotates = True

    def __init__(self):
        self.server = FakeTransit()

    def service(self, earlier=None, token="for-tests"):
        return TransitKeys(
            url="", token=lambda: token, key="discreet", earlier=earlier, client=self.server.client()
        )

    def rotate(self):
        self.service().rotate()


class InOpenBao(InFake):
    def __init__(self):
        self._mount = new_openbao_mount()
        self._open = contextlib.ExitStack()

    def service(self, earlier=None, token=OPENBAO_TOKEN):
        service = TransitKeys(
            url=OPENBAO, token=lambda: token, key="discreet", mount=self._mount, earlier=earlier
        )
        self._open.callback(service.close)
        return service

    def close(self):
        self._open.close()


KINDS = [InSettings, InFake, *([InOpenBao] if OPENBAO else [])]


@pytest.fixture(params=KINDS)
def place(request):
    place = request.param()
    yield place
    getattr(place, "close", lambda: None)()


@pytest.fixture(params=KINDS[1:])
def server(request):
    server = request.param()
    yield server
    getattr(server, "close", lambda: None)()


def test_what_is_wrapped_opens_for_the_same_context_and_in_another_process(place):
    wrapped = place.service().wrap(b"a secret of 32 bytes, or of others", b"context")
    assert b"secret" not in wrapped
    assert place.service().unwrap(wrapped, b"context") == b"a secret of 32 bytes, or of others"
    assert place.service().wrap(b"a secret of 32 bytes, or of others", b"context") != wrapped


def test_another_context_a_changed_byte_and_another_key_are_refused(place):
    service = place.service()
    wrapped = service.wrap(b"secret", b"context")
    with pytest.raises(KeyUnavailableError):
        service.unwrap(wrapped, b"another context")
    middle = len(wrapped) // 2
    changed = wrapped[:middle] + bytes([wrapped[middle] ^ 1]) + wrapped[middle + 1 :]
    for broken in (changed, wrapped[:1], b"", b"\x03vault:v9:AAAA", b"\x03\xff", b"\x03vault:v1:%%"):
        with pytest.raises(KeyUnavailableError):
            service.unwrap(broken, b"context")
    other = type(place)().service()
    with contextlib.closing(other), pytest.raises(KeyUnavailableError):
        other.unwrap(wrapped, b"context")


def test_after_a_rotation_old_values_open_and_new_ones_name_the_new_version(place):
    old = place.service()
    before = old.wrap(b"secret", b"context")
    assert old.wrapped_by(before) == old.newest()
    place.rotate()
    service = place.service()
    after = service.wrap(b"secret", b"context")
    assert (
        service.newest() == service.wrapped_by(after) != service.wrapped_by(before) == old.wrapped_by(before)
    )
    assert service.unwrap(before, b"context") == service.unwrap(after, b"context") == b"secret"


def test_rotate_makes_a_version_or_says_who_does(place):
    service = place.service()
    before = service.newest()
    if place.rotates:
        assert service.rotate() == service.newest() != before
    else:
        with pytest.raises(KeyRotationError, match="DISCREET_MASTER_KEY"):
            service.rotate()


def test_a_keyring_works_over_it_and_its_rotation_wraps_everything_anew(place, engine):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)
        (sealed,) = keyring_of(engine, place.service()).encrypt_many(
            session, [Plaintext("acme", "p1", b"row", b"text")], now=NOW
        )
    place.rotate()
    keyring = keyring_of(engine, place.service())
    assert rotate_master(keyring).moved == 2
    newest = keyring.service.newest()
    assert {keyring.service.wrapped_by(key.wrapped) for key in keyring.store.tenant_keys()} == {newest}
    with transaction(engine) as session:
        assert (
            keyring_of(engine, place.service()).decrypt(session, "acme", Sealed("p1", b"row", sealed))
            == b"text"
        )


def test_an_installation_moves_from_the_settings_to_a_server_by_a_rotation(server, engine):
    master = new_key()
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)
        (sealed,) = keyring_of(engine, master).encrypt_many(
            session, [Plaintext("acme", "p1", b"row", b"text")], now=NOW
        )
    moving = keyring_of(engine, server.service(earlier=MasterKeys(master)))
    assert (moved := rotate_master(moving)).moved == 2
    assert moved.resumed, "it wraps with the version that is there"
    with transaction(engine) as session:
        alone = keyring_of(engine, server.service())
        assert alone.decrypt(session, "acme", Sealed("p1", b"row", sealed)) == b"text"
    with pytest.raises(KeyUnavailableError, match="DISCREET_MASTER_KEY"):
        server.service().unwrap(MasterKeys(master).wrap(b"x", b"c"), b"c")


def test_a_wrong_token_is_refused_and_may_be_tried_again(server):
    with pytest.raises(KeyServiceError, match="status 403"):
        server.service(token="another").wrap(b"secret", b"context")
    assert KeyServiceError.retryable


def test_a_server_that_is_sealed_or_away_may_be_tried_again():
    place = InFake()
    wrapped = place.service().wrap(b"secret", b"context")
    place.server.sealed = True
    with pytest.raises(KeyServiceError, match="status 503"):
        place.service().unwrap(wrapped, b"context")
    away = TransitKeys(url="http://127.0.0.1:1", token=lambda: "t", key="k")
    with contextlib.closing(away), pytest.raises(KeyServiceError, match="did not answer"):
        away.newest()


@pytest.mark.parametrize("answer", [{"data": {}}, {"data": None}, [1]])
def test_answers_of_another_form_are_refused(answer):
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json=answer))
    client = httpx.Client(base_url="http://127.0.0.1:1", transport=transport)
    service = TransitKeys(url="", token=lambda: "t", key="k", client=client)
    for ask in (
        lambda: service.wrap(b"s", b"c"),
        service.newest,
        lambda: service.unwrap(b"\x03vault:v1:AA==", b"c"),
    ):
        with pytest.raises(KeyServiceError):
            ask()


def test_nothing_of_the_key_or_the_answer_is_in_an_error(server):
    wrapped = server.service().wrap(b"secret", b"context")
    with pytest.raises(KeyUnavailableError) as caught:
        server.service().unwrap(wrapped, b"other")
    assert wrapped[1:].decode() not in str(caught.value)
