"""The trainer's own upkeep over the artifact store: what was withdrawn or left behind goes, everything else stays."""

from __future__ import annotations

import base64
import os
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from personalization.artifacts.directory import DirectoryArtifactStore
from personalization.errors import ArtifactNotFoundError
from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.registry.sweeping import GRACE
from personalization.registry.withdrawal import withdraw_version
from personalization.starts.generations import MetaStarts
from personalization.starts.meta_versions import META_TENANT
from privacy.policy import versions as policies
from streams.processes.trainer import StartTools, trainer_of, upkeep_of
from streams.settings import load_settings
from tests.fakes.keys import prepared_store_url
from tests.fakes.tiny_models import write_tiny_base
from tests.fakes.training import SharedSubspaceTrainer, Workshop

LONG_AGO = GRACE.total_seconds() + 3600


@pytest.fixture
def shop(engine, clock, tmp_path):
    return Workshop(engine, clock, tmp_path)


@pytest.fixture
def upkeep(database_url, tmp_path, monkeypatch):
    """Run the upkeep twice, of a trainer process as it is built from the environment, some hours apart."""
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_KEYS__URL", prepared_store_url(database_url))
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(32)).decode())
    monkeypatch.setenv("DISCREET_TRAINER__BASE_MODEL", str(write_tiny_base(tmp_path / "base", layers=2)))
    monkeypatch.setenv("DISCREET_TRAINER__DEVICE", "cpu")
    monkeypatch.setenv("DISCREET_ANCHOR__WHERE", "file")
    monkeypatch.setenv("DISCREET_ANCHOR__FILE", str(tmp_path / "anchor"))

    counter = [0.0]
    monkeypatch.setattr("personalization.registry.sweeping.monotonic", lambda: counter[0])

    def run(between=lambda: None, hours=2):
        with trainer_of(load_settings()) as trainer:
            trainer._keep_up()
            between()
            counter[0] += 3600 * hours
            trainer._next_upkeep = 0.0
            trainer._keep_up()

    return run


def published(shop, count):
    shop.add_tenant()
    for _ in range(count):
        shop.open_round()
        shop.process().run_once()
    with shop.session() as session:
        return [row.version_id for row in registry.list_versions(session, tenant_id="acme")]


def folder_of(shop, version_id):
    return shop.artifacts.root / "sha256" / version_id.removeprefix("sha256:")


def age(path, seconds=LONG_AGO):
    written = time.time() - seconds
    os.utime(path, (written, written))


def test_a_withdrawn_versions_files_go_and_what_may_be_served_stays(shop, upkeep):
    first, second, third = published(shop, 3)
    for version_id in (first, second, third):
        age(folder_of(shop, version_id))
    with shop.session() as session:
        act = Act(actor="officer", reason="asked", now=shop.clock.now())
        withdraw_version(session, shop.events, second, act)
    upkeep()
    with pytest.raises(ArtifactNotFoundError, match="only its manifest is kept"):
        shop.artifacts.open(second)
    assert shop.artifacts.manifest(second).version_id() == second
    for kept in (first, third):
        assert shop.artifacts.open(kept)
    upkeep()
    assert {path.name for path in folder_of(shop, second).iterdir()} == {"manifest.json", "signature.json"}


def left_behind(shop, version_id, number):
    """Store what a publication stores before its transaction ends; return its id."""
    manifest = replace(shop.artifacts.manifest(version_id), version=number)
    shop.artifacts.put(manifest, shop.signer.sign(manifest), shop.artifacts.open(version_id))
    return manifest


def test_only_an_old_orphan_goes_so_a_publication_in_progress_keeps_its_files(shop, upkeep):
    (version_id,) = published(shop, 1)
    old, again, fresh = (left_behind(shop, version_id, number) for number in (7, 8, 9))
    for manifest in (old, again):
        age(folder_of(shop, manifest.version_id()))
    # The second is published anew, by someone whose row is still to come.
    shop.artifacts.put(again, shop.signer.sign(again), shop.artifacts.open(version_id))
    scratch = [shop.artifacts.scratch(name) for name in ("average-old", "average-new")]
    for path in scratch:
        path.mkdir()
    age(scratch[0])

    def nothing_is_gone_yet():  # by the clock alone, which may have jumped
        assert folder_of(shop, old.version_id()).exists()
        assert scratch[0].exists()

    upkeep(between=nothing_is_gone_yet)
    assert not folder_of(shop, old.version_id()).exists()
    assert [path.exists() for path in scratch] == [False, True]
    for kept in (version_id, again.version_id(), fresh.version_id()):
        assert shop.artifacts.open(kept)


def test_a_row_that_is_committed_while_the_store_is_looked_through_keeps_its_files(shop):
    (version_id,) = published(shop, 1)
    manifest = left_behind(shop, version_id, 7)
    age(folder_of(shop, manifest.version_id()))
    asked = []

    def registered(version_ids):
        asked.extend(version_ids)
        return {manifest.version_id(), version_id}  # committed only now

    assert shop.artifacts.sweep(registered, older_than=time.time()) == ()
    assert manifest.version_id() in asked


def test_a_generation_and_its_copy_go_with_the_tenant_that_leaves(shop):
    shop.trainer = SharedSubspaceTrainer()
    tools = StartTools(shop.tools(), MetaStarts(shop.tools()), public=None, keyring=None, anchor=None)
    trainer = shop.process(upkeep=upkeep_of(tools))
    for tenant in ("one", "two", "three"):
        shop.add_tenant(tenant, sharing_opt_in=True)
        shop.open_round(tenant)
    while trainer.run_once():
        pass
    shop.add_tenant("newcomer")
    trainer._keep_up()

    def rows():
        with shop.session() as session:
            found = registry.list_versions(session)
        return [row for row in found if row.tenant_id == "newcomer" or row.tenant_id.startswith(META_TENANT)]

    assert [row.state for row in rows()] == ["published", "published"]
    with shop.session() as session:
        changes = {"sharing_opt_in": False}
        policies.set_policy(session, "one", changes, actor="t", reason="t", now=shop.clock.now())
    trainer._next_upkeep = 0.0
    trainer._keep_up()
    assert [row.state for row in rows()] == ["withdrawn", "withdrawn"]
    for row in rows():
        with pytest.raises(ArtifactNotFoundError, match="only its manifest is kept"):
            shop.artifacts.open(row.version_id)


def test_a_chore_that_fails_keeps_the_others_from_nothing(shop):
    def fail():
        raise OSError(28, "No space left on device")

    done = []
    shop.process(upkeep=(fail, lambda: done.append(datetime.now(UTC))))._keep_up()
    assert len(done) == 1


def test_two_sweeps_at_once_are_no_error(shop):
    (version_id,) = published(shop, 1)
    manifest = left_behind(shop, version_id, 7)
    age(folder_of(shop, manifest.version_id()))
    other = DirectoryArtifactStore(shop.artifacts.root)

    def registered(version_ids):
        assert other.sweep(lambda _ids: {version_id}, older_than=time.time()) == (manifest.version_id(),)
        return {version_id}

    assert shop.artifacts.sweep(registered, older_than=time.time()) == ()
