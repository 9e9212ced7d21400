"""The file of a key that several processes make at once holds the key of whoever was first."""

from __future__ import annotations

import os

from streams.processes import keys
from streams.settings import Settings


def test_processes_of_one_number_that_share_a_folder_make_one_key_between_them(tmp_path, monkeypatch):
    settings, made, token_bytes = Settings(state=tmp_path / "state"), [], keys.secrets.token_bytes
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in containers

    def another_is_faster(size):
        if not made:
            made.append(None)
            made[0] = keys.adapter_signer(settings).public_key
        return token_bytes(size)

    monkeypatch.setattr(keys.secrets, "token_bytes", another_is_faster)
    assert keys.adapter_signer(settings).public_key == made[0]
    assert [path.name for path in settings.state.iterdir()] == [settings.adapter_key_file.name]
