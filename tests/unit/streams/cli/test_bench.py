"""``discreet bench quality`` refuses before the first hour what would be lost after it, and keeps what it has."""

from __future__ import annotations

import json

import pytest

from personalization.quality import suite
from personalization.training.base import directory
from streams.cli.main import main


@pytest.fixture
def measured(monkeypatch):
    """Return what the benchmark was asked; it keeps one partial result, then a whole one."""
    asked = []

    def run_quality(options, _say, keep):
        asked.append(options)
        keep({"rows": [], "runs": [1]})
        return {"rows": [], "runs": [1, 2]}

    monkeypatch.setattr(suite, "run_quality", run_quality)
    monkeypatch.setattr(directory, "resolve_base", lambda _name, cache: cache)
    return asked


def bench(tmp_path, *more):
    return main(["bench", "quality", "--data", str(tmp_path), "--tenant", "acme", *more])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--ways", "card,cards"), "allowed are card, meta, zero"),
        (("--cells", "300:4,100:4", "--compared", "100:2"), "pairs that are measured: 300:4,100:4"),
        (("--json", "no/such/folder/results.json"), "there is no folder"),
    ],
)
def test_what_would_be_lost_after_hours_is_refused_at_once(
    tmp_path, monkeypatch, capsys, measured, more, said
):
    monkeypatch.chdir(tmp_path)
    assert bench(tmp_path, *more) != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert measured == []


def test_numbers_are_kept_whole_after_each_pair(tmp_path, monkeypatch, measured):
    monkeypatch.chdir(tmp_path)
    assert bench(tmp_path, "--cells", "300:4", "--compared", "300:4", "--json", "results.json") == 0
    assert measured[0].compared == ((300, 4.0),)
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["runs"] == [1, 2]
    assert [one.name for one in tmp_path.iterdir()] == ["results.json"]
