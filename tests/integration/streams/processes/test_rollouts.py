"""Rollouts move beside the trainer, whatever it does, and go on after a failure."""

from __future__ import annotations

import threading

import pytest

from personalization.errors import RolloutError
from personalization.releases.observer import TrainerObserver
from personalization.rollouts.values import Stage
from privacy.errors import StorageError
from streams.processes.rollouts import RolloutMover
from tests.fakes.compared import LOOK_SECONDS, ComparedShop
from tests.fakes.rollouts import RolloutShop

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
    RolloutMover(shops[0].tools(), seconds=1.0, comparisons=comparisons, observer=observer).move()
    assert sorted(asked) == ["acme", "globex"]
    assert failures == ["comparisons"]
