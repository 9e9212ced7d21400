"""Rollouts move beside the trainer, whatever it does, and go on after a failure."""

from __future__ import annotations

import base64
import threading

import pytest

from personalization.errors import RolloutError
from personalization.registry.comparisons import Comparisons
from personalization.registry.rollout_tick import RolloutTick, Ticked
from personalization.releases.observer import TrainerObserver
from personalization.rollouts.values import Stage
from privacy.errors import StorageError
from streams.processes.rollouts import ReactionReader, RolloutMover
from streams.processes.trainer import trainer_of
from streams.settings import load_settings
from tests.fakes.compared import LOOK_SECONDS, ComparedShop
from tests.fakes.gateways import wait_until
from tests.fakes.keys import prepared_store_url
from tests.fakes.rollouts import RolloutShop
from tests.fakes.tiny_models import write_tiny_base

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_the_thread_moves_what_is_due_and_goes_on_after_a_failure(engine, clock, tmp_path, monkeypatch):
    shop = RolloutShop(engine, clock, tmp_path)
    shop.publish()
    candidate = shop.publish()
    shop.verify(candidate)
    moved, failures = threading.Event(), []
    observer = TrainerObserver()
    observer.chore_failed = failures.append
    mover = RolloutMover(shop.tools(), seconds=0.01, observer=observer)
    whole = mover.move

    def sometimes():
        if not failures:
            raise StorageError("the database is away in this test")
        if whole():
            moved.set()

    monkeypatch.setattr(mover, "move", sometimes)
    with mover:
        assert moved.wait(20)
    assert failures == ["rollouts"]
    assert shop.stands().stage is Stage.CANARY
    shop.clock.advance(seconds=600)
    assert shop.stands().stage is Stage.CANARY, "nothing moves after the mover was left"


def test_a_comparison_that_failed_is_counted_and_the_others_go_on(engine, clock, tmp_path, monkeypatch):
    shops = [ComparedShop(engine, clock, tmp_path / tenant, tenant) for tenant in ("acme", "globex")]
    for shop in shops:
        shop.to_comparison()
    clock.advance(seconds=LOOK_SECONDS)
    comparisons, failures, asked = shops[0].comparisons, [], []

    def step(line_ref, tenant_id, _):
        asked.append(tenant_id)
        if len(asked) == 1:
            raise RolloutError("one that cannot be, in this test")
        return False

    monkeypatch.setattr(comparisons, "_step", step)
    observer = TrainerObserver()
    observer.chore_failed = failures.append
    ReactionReader(comparisons, clock.now, seconds=1.0, observer=observer).turn()
    assert sorted(asked) == ["acme", "globex"]
    assert failures == ["comparisons"]


def test_guards_do_not_wait_for_looks_that_take_long(database_url, tmp_path, monkeypatch):
    """In a trainer's process as it is built from the environment: rollouts are looked at while a look does not end."""
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_KEYS__URL", prepared_store_url(database_url))
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(32)).decode())
    monkeypatch.setenv("DISCREET_TRAINER__BASE_MODEL", str(write_tiny_base(tmp_path / "base", layers=1)))
    monkeypatch.setenv("DISCREET_TRAINER__DEVICE", "cpu")
    monkeypatch.setenv("DISCREET_SCHEDULER__TICK_SECONDS", "0.01")
    looking, may_end, ticks = threading.Event(), threading.Event(), []

    def look(*_args, **_options):
        looking.set()
        may_end.wait(60)
        return 0

    monkeypatch.setattr(Comparisons, "run", look)
    monkeypatch.setattr(RolloutTick, "run", lambda *_args, **_options: ticks.append(1) or Ticked())
    with trainer_of(load_settings()):
        assert looking.wait(30)
        before = len(ticks)
        wait_until(lambda: len(ticks) > before + 2)
        may_end.set()


def test_a_trainer_that_leaves_waits_for_one_step_of_comparisons_at_most(
    engine, clock, tmp_path, monkeypatch
):
    shops = [ComparedShop(engine, clock, tmp_path / tenant, tenant) for tenant in ("acme", "globex")]
    for shop in shops:
        shop.to_comparison()
    clock.advance(seconds=LOOK_SECONDS)
    comparisons, asked = shops[0].comparisons, []
    monkeypatch.setattr(comparisons, "_step", lambda *one: asked.append(one) or True)
    assert comparisons.run(now=clock.now(), leaving=lambda: bool(asked)) == 1
