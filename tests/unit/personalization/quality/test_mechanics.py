"""A row for each switch of each mechanic, on a tiny base and a few made tenants."""

from __future__ import annotations

import gzip
import json

import pytest

from personalization.quality.mechanics import run_mechanics
from personalization.quality.mechanics_rows import rows_of, told
from personalization.quality.options import MECHANICS, MechanicsOptions
from personalization.training.errors import JobInvalidError
from tests.fakes.tiny_models import write_tiny_base

STYLES = {"ants": "({}) done", "bees": "[{}] ok", "cats": "{}!", "dogs": "- {}"}


FEW = ("swap", "warm_start")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meta")
    for tenant, style in STYLES.items():
        with gzip.open(folder / f"{tenant}.jsonl.gz", "wt", encoding="utf-8") as lines:
            for number in range(40):
                row = {
                    "tenant": tenant, "user": f"u{number}", "id": str(number), "at": number,
                    "prompt": f"file {number % 7}", "completion": style.format("abcdefg"[number % 7]),
                }  # fmt: skip
                lines.write(json.dumps(row) + "\n")
    write_tiny_base(folder / "base")
    return folder


@pytest.fixture(scope="module")
def results(recorded):
    return _run(recorded, FEW)


def _run(folder, only, keep=lambda _: None, **more):
    said: list[str] = []
    options = MechanicsOptions(
        data=folder,
        base_model=folder / "base",
        only=only,
        few_users=6,
        users=8,
        heldout_users=4,
        windows=2,
        outer_steps=1,
        tasks_per_step=1,
        seeds=1,
        max_tokens=24,
        **more,
    )
    return run_mechanics(options, said.append, keep), said


@pytest.mark.slow
def test_every_mechanic_has_a_row_for_each_switch(recorded):
    found, said = _run(recorded, MECHANICS, epsilon=64.0)  # a vote on style of eight users
    by_mechanic: dict[str, list[str]] = {}
    for row in found["measured"]:
        by_mechanic.setdefault(row["mechanic"], []).append(row["switch"])
        assert told(row) in said
    assert tuple(by_mechanic) == MECHANICS
    assert {switch.split(",")[0] for switch in by_mechanic["few_shot"]} == {
        "start zero", "start maml", "start average",
    }  # fmt: skip
    assert {switch.split(",")[0] for switch in by_mechanic["sampling"]} == {
        "uniform", "loss", "diversity", "easy_first",
    }  # fmt: skip
    assert by_mechanic["continual"] == [
        "newest alone", "average, a half each", "remember, from what is served", "remember",
        "newest alone, with cards", "remember, with cards",
    ]  # fmt: skip
    assert by_mechanic["ability"] == ["without correction", "with correction"]
    json.dumps(found)
    row = next(one for one in found["measured"] if one["switch"] == "start zero, no user yet")
    assert row["gain"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_swap_back_gives_the_very_same_losses(results):
    rows = [row for row in results[0]["measured"] if "exact" in row]
    assert len(rows) == 2
    assert all(row["exact"] for row in rows)


def test_rows_say_what_was_measured(results):
    found, said = results
    assert {row["mechanic"] for row in found["measured"]} == set(FEW)
    assert all(told(row) in said for row in found["measured"])
    own, foreign = found["measured"][:2]
    assert own["after"] < foreign["after"]
    warm = next(row for row in found["measured"] if row["mechanic"] == "warm_start")
    assert warm["gain"]["low"] > 0
    json.dumps(found)


def test_data_that_are_not_there_are_refused_before_anything_is_measured(recorded, tmp_path):
    with pytest.raises(JobInvalidError, match="name one that holds recordings"):
        run_mechanics(MechanicsOptions(data=tmp_path / "away", base_model=tmp_path))
    with pytest.raises(JobInvalidError, match="no tenant 'eels'; there are ants"):
        run_mechanics(MechanicsOptions(data=recorded, base_model=tmp_path, tenants=("ants", "eels")))


def test_an_unknown_mechanic_is_refused(tmp_path):
    with pytest.raises(JobInvalidError, match="no mechanic 'nonsense'"):
        run_mechanics(MechanicsOptions(data=tmp_path, base_model=tmp_path, only=("nonsense",)))


def test_a_figure_has_a_row_and_what_is_asked_of_it(results):
    rows = results[0]["rows"]
    assert all(set(row) == {"name", "value", "unit", "must", "ok"} for row in rows)
    back = [row for row in rows if row["name"].endswith("the very same losses")]
    assert [(row["value"], row["must"], row["ok"]) for row in back] == [(1.0, "= 1", True)] * 2
    own, foreign = (
        next(row for row in rows if row["name"] == f"swap, ants, {what}: gain")
        for what in ("own adapter", "adapter of bees")
    )
    assert own["value"] > foreign["value"]


def test_only_what_is_asked_for_is_judged():
    def continual(switch, worst):
        return {
            "mechanic": "continual", "tenant": "ants", "switch": switch, "worst": worst, "ok": worst <= 0.01,
            "served": 3.0, "bwt": None,
        }  # fmt: skip

    def ability(switch, change):
        gain = {"value": 0.2, "low": 0.1, "high": 0.3}
        return {
            "mechanic": "ability", "tenant": "ants", "switch": switch, "gain": gain, "public_text_change": change,
        }  # fmt: skip

    rows = rows_of(
        [
            continual("newest alone", 0.2),
            continual("remember", 0.02),
            continual("newest alone, with cards", 0.2),
            continual("remember, with cards", 0.005),
            ability("without correction", 0.05),
            ability("with correction", 0.005),
        ]
    )
    judged = {row["name"]: row["ok"] for row in rows if row["must"] is not None}
    assert judged == {
        "continual, ants, remember: earlier windows after the last release, worst": False,
        "continual, ants, remember, with cards: earlier windows after the last release, worst": True,
        "ability, ants, with correction: public text": True,
    }


@pytest.mark.slow
def test_what_was_measured_before_an_end_is_kept(recorded):
    kept: list[int] = []
    _run(recorded, FEW, lambda document: kept.append(len(document["measured"])))
    assert len(kept) == 2
    assert 0 < kept[0] < kept[1]
