"""What is refused of the environment, and what is said of it."""

from __future__ import annotations

import pytest

from streams.errors import SettingsError
from streams.settings import RENAMED, Settings, load_settings


def test_a_setting_that_was_renamed_is_refused_by_its_new_name(monkeypatch):
    monkeypatch.setenv("DISCREET_TRAINER__HALF_HEAD", "false")
    with pytest.raises(SettingsError, match="is now DISCREET_TRAINER__HALF_PRODUCTS") as told:
        load_settings()
    assert "DISCREET_TRAINER__HALF_HEAD" in str(told.value)


def test_one_that_never_was_is_refused_without_another_name(monkeypatch):
    monkeypatch.setenv("DISCREET_TRAINER__HALF_MEASURES", "false")
    with pytest.raises(SettingsError, match="DISCREET_TRAINER__HALF_MEASURES is not allowed") as told:
        load_settings()
    assert "is now" not in str(told.value)


def test_every_new_name_is_that_of_a_setting_and_no_old_one_is():
    def known(name):
        section, field = name.removeprefix("DISCREET_").lower().split("__")
        return field in type(getattr(Settings(), section)).model_fields

    assert all(known(new) and not known(old) for old, new in RENAMED.items())
