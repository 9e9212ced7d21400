"""Measures say what their intervals say; the report, the picture and the table of all are made of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from rich.console import Console

from streams.demo.recipes.catalogue import RECIPES, recipe
from streams.demo.recipes.measuring import AT_ONCE, answers_of, arms, measure, measures_of, side_by_side
from streams.demo.recipes.people import Question
from streams.demo.recipes.picture import draw
from streams.demo.recipes.report import rounded_up, show, show_all, title_of
from streams.demo.recipes.run import run_recipe
from streams.demo.recipes.values import (
    BASE,
    ONE_DRAW,
    RecipeOptions,
    RecipeReport,
    Rule,
    Spent,
    Table,
    Verdict,
)
from streams.errors import ScenarioError

PAGES = Path(__file__).resolve().parents[5] / "streams" / "docs" / "recipes"
QUESTIONS = tuple(
    Question(user_id=f"u{number // 2}", kind="k", prompt=f"p{number}", written="w", facts={})
    for number in range(40)
)


class _Server:
    def __init__(self):
        self.sizes = []

    def answers(self, prompts, model, *, max_new_tokens):
        assert max_new_tokens == 36
        self.sizes.append(len(prompts))
        return [f" {prompt} by {model} " for prompt in prompts]


def test_everybody_is_asked_a_few_prompts_at_a_time():
    server, seen = _Server(), []
    prompts = [f"p{number}" for number in range(2 * AT_ONCE + 8)]
    found = answers_of(server, prompts, "a-v1", on_progress=seen.append)
    assert found[0] == "p0 by a-v1"
    assert server.sizes == [AT_ONCE, AT_ONCE, 8]
    assert seen == [AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 8]


@pytest.mark.parametrize(
    ("base", "last", "kept", "share", "verdict"),
    [
        (0.0, 1.0, False, True, Verdict.BETTER),
        (1.0, 0.0, False, True, Verdict.WORSE),
        (0.5, 0.5, False, True, Verdict.NO_EFFECT),
        (1.0, 1.0, True, True, Verdict.KEPT),
        (1.0, 0.5, True, True, Verdict.WORSE),
        (5.0, 2.0, False, False, Verdict.BETTER),
        (2.0, 5.0, False, False, Verdict.WORSE),
    ],
)
def test_a_verdict_is_what_the_interval_says(base, last, kept, share, verdict):
    values = {BASE: [base] * 40, "adapter": [last] * 40}
    found = measure("line", "name", QUESTIONS, values, kept=kept, share=share)
    assert found.verdict is verdict
    assert (found.users, found.prompts) == (20, 40)


def test_chance_alone_is_no_effect():
    base = [float(number % 2) for number in range(40)]
    last = [float((number + number // 2) % 2) for number in range(40)]
    assert measure("line", "n", QUESTIONS, {BASE: base, "adapter": last}).verdict is Verdict.NO_EFFECT


def _report():
    rule = Rule(name="is by the adapter", holds=lambda answer, _: "a-v1" in answer)
    answers = {arm: [f"by {model}"] * 40 for arm, model in arms(adapter="a-v1").items()}
    return RecipeReport(
        name="code",
        title="A job",
        quick=True,
        spent=(Spent(tenant="t", epsilon=7.991, allowed=8.0, delta=1e-5),),
        measures=measures_of("line", (rule,), QUESTIONS, answers),
        examples=side_by_side("line", QUESTIONS, answers),
        findings=("nothing else was seen",),
        tables=(Table(title="Own", headings=("a", "b"), rows=(("1", "2"),)),),
        seconds={"train": 2.0},
    )


def test_the_report_shows_cost_numbers_answers_and_findings(tmp_path):
    report, text = _report(), io.StringIO()
    show(report, Console(file=text, width=160))
    show_all([report], {"edge": "no llama.cpp"}, Console(file=text, width=160))
    said = text.getvalue()
    for part in (
        "ε = 8.00 at δ = 1e-05", "100 % [100, 100]", "is by the adapter", "nothing else was seen", "p1", "by None",
        "no llama.cpp", "did not run", "Own",
    ):  # fmt: skip
        assert part in said, part
    document = json.loads(json.dumps(report.to_document()))
    assert document["measures"][0]["verdict"] == "better"
    assert document["measures"][0]["gain"]["low"] == 1.0
    assert document["whole_seconds"] == 2.0
    assert draw(report, tmp_path / "picture.png").stat().st_size > 5_000
    assert rounded_up(7.991) == "8.00"
    assert "quick" in title_of(report)


def test_every_recipe_can_be_played_and_has_its_page():
    for name, one in RECIPES.items():
        assert callable(one.play())
        page = (PAGES / f"{name}.md").read_text("utf-8")
        assert one.title.split(":")[0].lower() in page.lower()
        assert f"discreet recipes run {name}" in page


def test_what_cannot_be_run_says_what_can(tmp_path):
    with pytest.raises(ScenarioError, match="there are code"):
        recipe("nonsense")
    with pytest.raises(ScenarioError, match="--data is for"):
        run_recipe("edge", RecipeOptions(data=tmp_path), Console(file=io.StringIO()))


def test_the_report_its_document_and_the_picture_say_that_a_run_is_one_draw_of_the_noise(
    tmp_path, monkeypatch
):
    report, text, written = _report(), io.StringIO(), []
    show(report, Console(file=text, width=60))
    assert ONE_DRAW in " ".join(text.getvalue().split())
    assert report.to_document()["intervals"] == ONE_DRAW
    honest = Axes.annotate

    def note(axes, said, *places, **style):
        written.append(said)
        return honest(axes, said, *places, **style)

    monkeypatch.setattr(Axes, "annotate", note)
    draw(report, tmp_path / "picture.png")
    assert written == [ONE_DRAW]
