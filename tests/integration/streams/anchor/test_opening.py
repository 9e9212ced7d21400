"""The anchor of an installation: its key lies in the key store, so a rotation of the master key changes nothing."""

from __future__ import annotations

import base64
from contextlib import closing, contextmanager

import pytest

from privacy.errors import KeyUnavailableError
from privacy.keys.rotation import rotate_master
from streams.anchor.file import FileAnchor
from streams.anchor.guard import AnchorGuard
from streams.anchor.opening import open_anchor
from streams.anchor.seal import AnchorSeal, anchor_seed
from streams.processes.keys import open_keyring
from streams.settings import Settings
from tests.fakes.keys import prepared_store_url
from tests.fakes.training import Workshop

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whoever_is_first_makes_the_folder_of_the_anchor(engine, database_url, clock, tmp_path):
    """A worker beside PostgreSQL and the embedded broker uses the state directory for nothing else."""
    settings = Settings(
        state=tmp_path / "state" / "of-nobody",
        database={"url": "postgresql+psycopg://nobody@127.0.0.1/nothing"},
        keys={"url": prepared_store_url(database_url)},
        broker={"embedded": True},
        master_key=_text(FIRST),
    )
    Workshop(engine, clock, tmp_path).add_tenant()
    with (
        closing(open_keyring(settings)) as keyring,
        closing(open_anchor(settings, engine, keyring, clock.now)) as guard,
    ):
        guard.secure("acme")
        guard.require_newest()
    assert (settings.state / "anchor").is_file()


def test_the_anchor_outlives_the_master_key_that_it_was_signed_under(engine, database_url, clock, tmp_path):
    keys, file = prepared_store_url(database_url), tmp_path / "anchor"

    @contextmanager
    def opened(master_key, *older):
        settings = Settings(
            database={"url": database_url},
            keys={"url": keys, "older_master_keys": ",".join(map(_text, older)) or None},
            anchor={"where": "file", "file": file},
            master_key=_text(master_key),
        )
        with (
            closing(open_keyring(settings)) as keyring,
            closing(open_anchor(settings, engine, keyring, clock.now)) as guard,
        ):
            yield keyring, guard

    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    # As it was before the key store: signed with a key that was derived from the master key.
    seal = AnchorSeal(lambda: anchor_seed(FIRST))
    with closing(
        AnchorGuard(engine, FileAnchor(file), seal, group=Settings().broker.group, now=clock.now)
    ) as before:
        before.secure("acme")
    with opened(FIRST) as (_, guard):
        guard.require_newest()
        assert guard.renew() == 1
    with opened(SECOND) as (_, guard), pytest.raises(KeyUnavailableError):
        guard.require_newest()
    with opened(SECOND, FIRST) as (keyring, guard):
        guard.require_newest()
        assert guard.renew() == 0
        assert rotate_master(keyring).moved == 1
    with opened(SECOND) as (_, guard):
        guard.require_newest()
        assert list(guard.tenants) == ["acme"]


def _text(key):
    return base64.b64encode(key).decode()
