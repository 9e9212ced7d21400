"""Choices in a trainer's process as it is built from the environment."""

from __future__ import annotations

import base64

import pytest

from personalization.choices.tick import ChoiceTick
from personalization.releases.observer import TrainerObserver
from streams.processes.trainer import trainer_of
from streams.settings import load_settings
from tests.fakes.keys import prepared_store_url
from tests.fakes.tiny_models import write_tiny_base


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_one_that_fails_of_what_nobody_foresaw_is_told_as_a_choice(database_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_KEYS__URL", prepared_store_url(database_url))
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(32)).decode())
    monkeypatch.setenv("DISCREET_TRAINER__BASE_MODEL", str(write_tiny_base(tmp_path / "base", layers=1)))
    monkeypatch.setenv("DISCREET_TRAINER__DEVICE", "cpu")
    failed, observer = [], TrainerObserver()

    def trip(*_args, **_options):
        raise ValueError("what a user wrote")

    monkeypatch.setattr(ChoiceTick, "run", trip)
    with trainer_of(load_settings(), observer) as trainer:
        monkeypatch.setattr(
            observer, "chore_failed", lambda chore: (failed.append(chore), trainer.request_stop())
        )
        trainer.run()
    assert failed == ["prompt_choices"]
