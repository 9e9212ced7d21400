"""`discreet recipes`: the list, and all recipes one after the other although one fails."""

from __future__ import annotations

import json

import pytest

from personalization.quality.intervals import Interval
from streams.cli import main as command_line
from streams.demo.recipes import run as running
from streams.demo.recipes.catalogue import RECIPES
from streams.demo.recipes.values import BASE, Measure, RecipeReport, Spent, Verdict
from streams.errors import DemoError

SEVEN = ("code", "support", "research", "facts", "creative", "meetings", "edge")


def _report(name, options):
    measure = Measure(
        line="line",
        name="in form",
        arms={BASE: Interval(0.0, 0.0, 0.0), "adapter": Interval(0.5, 0.4, 0.6)},
        gain=Interval(0.5, 0.4, 0.6),
        users=10,
        prompts=10,
        verdict=Verdict.BETTER,
    )
    return RecipeReport(
        name=name,
        title=name,
        quick=options.quick,
        spent=(Spent(tenant="t", epsilon=7.9, allowed=8.0, delta=1e-5),),
        measures=(measure,),
        seconds={"train": 1.0},
    )


@pytest.fixture
def played(monkeypatch):
    asked = []

    def run_recipe(name, options, console, *, stop_asked):
        asked.append((name, options))
        if name == "edge":
            raise DemoError("the recipe edge needs llama.cpp and none is there")
        return _report(name, options)

    monkeypatch.setattr(running, "run_recipe", run_recipe)
    return asked


def test_seven_recipes_are_listed_with_their_pages(capsys):
    assert command_line.main(["recipes", "list"]) == 0
    said = capsys.readouterr().out
    assert tuple(RECIPES) == SEVEN
    assert all(f"streams/docs/recipes/{name}.md" in said for name in SEVEN)


def test_all_recipes_run_although_one_fails(played, tmp_path, capsys):
    found = tmp_path / "all.json"
    words = ["recipes", "run", "all", "--quick", "--json", str(found), "--keep", str(tmp_path / "kept")]
    assert command_line.main(words) == 1
    assert [name for name, _ in played] == list(SEVEN)
    assert {options.keep for _, options in played} == {tmp_path / "kept" / name for name in SEVEN}
    document = json.loads(found.read_text("utf-8"))
    assert [one["name"] for one in document["recipes"]] == [name for name in SEVEN if name != "edge"]
    assert "llama.cpp" in document["failed"]["edge"]
    said = capsys.readouterr().out
    assert "did not run" in said
    assert "better" in said


def test_one_recipe_that_fails_ends_with_its_error(played, capsys):
    assert command_line.main(["recipes", "run", "edge"]) != 0
    assert "streams.demo.failed" in capsys.readouterr().err
    assert len(played) == 1


def test_the_list_is_json_too(capsys):
    assert command_line.main(["recipes", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(RECIPES)
