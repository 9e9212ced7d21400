"""Lines that learn at once share trainers, and trainers share the cores."""

from __future__ import annotations

import json
import os

import pytest

from streams.demo.environment import MOST_TRAINERS, DemoEnvironment, new_secrets, trainers_for
from streams.demo.observing import training_progress
from streams.telemetry.trainer_log import PROGRESS_EVENT

KEY = new_secrets()[1]


def environment(tmp_path, lines):
    return DemoEnvironment(
        state=tmp_path, broker="127.0.0.1:1", base_model=tmp_path, master_key="m", adapter_key=KEY, worker_port=1,
        serving_port=2, token="t", lines=lines,
    )  # fmt: skip


@pytest.mark.parametrize(("lines", "cores", "trainers", "threads", "rounds"), [
    (1, 2, 1, None, None), (2, 1, 1, None, None), (2, 2, 2, "1", "1"), (3, 2, 2, "1", "2"), (4, 8, 2, "4", "2"),
])  # fmt: skip
def test_trainers_share_lines_and_cores(monkeypatch, tmp_path, lines, cores, trainers, threads, rounds):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert trainers_for(lines) == trainers <= MOST_TRAINERS
    given = environment(tmp_path, lines).of_the_trainer()
    assert given["DISCREET_SIGNING__ADAPTER_KEY"] == KEY
    assert given.get("DISCREET_TRAINER__THREADS") == threads
    assert given.get("DISCREET_TRAINER__ROUNDS_PER_JOB") == rounds
    shared = environment(tmp_path, lines).variables()
    assert not {"DISCREET_TRAINER__THREADS", "DISCREET_SIGNING__ADAPTER_KEY"} & shared.keys()


def test_progress_is_of_the_trainer_that_is_behind(tmp_path):
    def told(name, *done):
        lines = [
            json.dumps({"event": PROGRESS_EVENT, "stage": "train", "done": one, "total": 10}) for one in done
        ]
        (tmp_path / name).write_text("\n".join(["starting", *lines, '{"event": "' + PROGRESS_EVENT]))
        return tmp_path / name

    ahead, behind, silent = told("a", 3, 9), told("b", 2, 4), told("c")
    assert training_progress([silent]) is None
    assert training_progress([ahead, silent, behind]) == ("train", 4, 10)
