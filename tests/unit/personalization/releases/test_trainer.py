"""A trainer whose turns fail waits and goes on, however often they have failed."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import MagicMock

import pytest

from personalization.releases.observer import TrainerObserver
from personalization.releases.trainer import LONGEST_PAUSE_SECONDS, Trainer, TrainerOptions
from privacy.errors import StorageError

A_NIGHT = 1_100  # turns of half a minute; two to this power is larger than every number of floating point


@pytest.mark.parametrize("error", [StorageError, ValueError])
def test_a_trainer_outlasts_a_night_of_failing_turns(monkeypatch, error):
    options, observer, pauses = TrainerOptions(owner="o"), MagicMock(spec=TrainerObserver), []
    trainer = Trainer(
        MagicMock(), rounds=MagicMock(), trainer=MagicMock(), options=options, observer=observer
    )

    def wait(seconds):
        pauses.append(seconds)
        if len(pauses) == A_NIGHT:
            trainer.request_stop()

    def run_once():
        raise error(
            "what a user wrote"
        )  # a new one each time, else its traceback would grow from turn to turn

    monkeypatch.setattr(trainer, "run_once", run_once)
    monkeypatch.setattr(trainer._stop, "wait", wait)
    monkeypatch.setattr("personalization.releases.trainer.threading.Timer", MagicMock())
    trainer.run()
    assert pauses[:2] == [2 * options.poll / timedelta(seconds=1), 4 * options.poll / timedelta(seconds=1)]
    assert set(pauses[5:]) == {LONGEST_PAUSE_SECONDS}
    assert len(pauses) == A_NIGHT
