"""One recipe with real processes, the embedded broker and a tiny base model: from made people to a report."""

from __future__ import annotations

import json

import pytest

from streams.cli import main as command_line
from streams.demo.recipes.catalogue import RECIPES
from tests.fakes.tiny_models import write_tiny_base


@pytest.mark.timeout(600)
def test_a_recipe_runs_end_to_end_and_says_what_it_found(tmp_path, capsys):
    base = write_tiny_base(tmp_path / "tiny")
    found, kept = tmp_path / "code.json", tmp_path / "kept"
    words = ["recipes", "run", "code", "--quick", "--base-model", str(base), "--json", str(found)]
    assert command_line.main([*words, "--keep", str(kept)]) == 0
    said = capsys.readouterr().out
    assert "ε = " in said
    document = json.loads(found.read_text("utf-8"))
    (spent,) = document["spent"]
    assert 0 < spent["epsilon"] <= spent["allowed"]
    measures = document["measures"]
    assert {measure["line"] for measure in measures} == {"commits"}
    assert measures[0]["users"] == 16
    assert list(measures[0]["arms"]) == ["base", "adapter"]
    loss = measures[-1]
    assert not loss["share"]
    assert loss["arms"]["base"] != loss["arms"]["adapter"]
    assert {"start", "publish", "ingest", "train", "serve", "judge"} <= set(document["seconds"])
    assert (kept / "code.png").stat().st_size > 5_000


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"code", "edge"}))
def test_every_recipe_runs_end_to_end(name, tmp_path, capsys):
    """Edge needs a build of llama.cpp and a base that it can convert: ``tests/benchmarks/RESULTS.md``, recipes."""
    base = write_tiny_base(tmp_path / "tiny")
    found = tmp_path / "found.json"
    words = ["recipes", "run", name, "--quick", "--base-model", str(base), "--json", str(found)]
    assert command_line.main(words) == 0
    said = capsys.readouterr().out
    document = json.loads(found.read_text("utf-8"))
    assert document["quick"]
    assert document["measures"]
    assert document["spent"]
    for spent in document["spent"]:
        assert 0 < spent["epsilon"] <= spent["allowed"]
        assert spent["tenant"] in said
