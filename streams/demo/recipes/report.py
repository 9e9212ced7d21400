"""A recipe's report for people: a table, bars, answers side by side, and one table of many recipes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from streams.demo.recipes.values import ONE_DRAW, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from personalization.quality.intervals import Interval
    from streams.demo.recipes.values import Measure, RecipeReport, SideBySide

BAR = 24  # characters
_COLORS = {Verdict.BETTER: "bold green", Verdict.KEPT: "green", Verdict.WORSE: "bold red"}


def title_of(report: RecipeReport) -> str:
    """Return a recipe's title with what it cost."""
    deltas = ", ".join(sorted({f"{one.delta:g}" for one in report.spent}))
    cost = f"ε = {rounded_up(report.epsilon)} at δ = {deltas}" if report.spent else "nothing private was read"
    return f"{report.title} ({cost}{'; quick' if report.quick else ''})"


def show(report: RecipeReport, console: Console) -> None:
    """Print everything that a run found."""
    console.print()
    console.print(_measures_table(report))
    console.print(bars(report.measures))
    for table in report.tables:
        own = Table(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for number, heading in enumerate(table.headings):
            own.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
        for row in table.rows:
            own.add_row(*(Text(cell) for cell in row))
        console.print(own)
    for example in report.examples:
        console.print(_example_table(example))
    for finding in report.findings:
        console.print(Text(f"• {finding}"))
    for one in report.spent:
        console.print(
            Text(
                f"{one.tenant}: ε = {rounded_up(one.epsilon)} of {one.allowed:g} spent, for one user over all "
                f"releases (δ = {one.delta:g}).",
                style="dim",
            )
        )
    parts = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in report.seconds.items())
    console.print(Text(f"{report.whole_seconds:.0f} s in all: {parts}.", style="dim"))


def show_all(reports: Sequence[RecipeReport], failed: Mapping[str, str], console: Console) -> None:
    """Print one table of several recipes: the first measure of each line, and what failed."""
    table = Table(title="Recipes", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("recipe", "line", "what is measured"):
        table.add_column(heading, overflow="fold")
    for heading in ("base", "after", "gain", "ε", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for report in reports:
        seen: set[str] = set()
        for measure in report.measures:
            if measure.line in seen:
                continue
            told = not seen
            seen.add(measure.line)
            values = list(measure.arms.values())
            table.add_row(
                Text(report.name if told else ""),
                Text(measure.line),
                Text(measure.name),
                _number(values[0].value, share=measure.share),
                _number(values[-1].value, share=measure.share),
                _interval(measure.gain, share=measure.share),
                rounded_up(report.epsilon) if told else "",
                f"{report.whole_seconds:.0f}" if told else "",
                Text(measure.verdict.value, style=_COLORS.get(measure.verdict, "")),
            )
    for name, why in failed.items():
        table.add_row(Text(name), "", Text(why), "", "", "", "", "", Text("did not run", style="bold red"))
    console.print()
    console.print(table)


def bars(measures: Sequence[Measure]) -> Table:
    """Return a picture of shares: one bar per arm."""
    picture = Table(show_header=False, box=None, pad_edge=False)
    picture.add_column(overflow="fold", max_width=44)
    picture.add_column(no_wrap=True)
    picture.add_column(no_wrap=True)
    for measure in measures:
        if not measure.share:
            continue
        for number, (arm, value) in enumerate(measure.arms.items()):
            label = f"{measure.line}: {measure.name}" if number == 0 else ""
            filled = round(value.value * BAR)
            style = "dim" if number == 0 else _COLORS.get(measure.verdict, "yellow")
            bar = Text("█" * filled, style=style) + Text("·" * (BAR - filled), style="dim")
            picture.add_row(Text(label), bar, f"{_number(value.value, share=True)} {arm}")
    return picture


def rounded_up(epsilon: float) -> str:
    """Return ε with two decimals, never less than what was proved."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}"


def _measures_table(report: RecipeReport) -> Table:
    table = Table(
        title=title_of(report),
        title_justify="left",
        caption="Held-out users only, with 95 % bootstrap intervals over users; the gain is the last arm's. "
        f"{ONE_DRAW}",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("line", overflow="fold")
    table.add_column("what is measured", overflow="fold")
    table.add_column("users", justify="right")
    table.add_column("by arm", overflow="fold")
    table.add_column("gain", justify="right")
    table.add_column("verdict")
    for one in report.measures:
        table.add_row(
            Text(one.line),
            Text(one.name),
            str(one.users),
            Text("\n".join(f"{arm} {_interval(value, share=one.share)}" for arm, value in one.arms.items())),
            _interval(one.gain, share=one.share),
            Text(one.verdict.value, style=_COLORS.get(one.verdict, "")),
        )
    return table


def _example_table(example: SideBySide) -> Table:
    table = Table(show_header=False, title=f"{example.line}, a user never trained on", title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold", max_width=88)
    table.add_row("prompt", Text(example.prompt))
    for arm, answer in example.answers.items():
        table.add_row(arm, Text(answer))
    table.add_row("the user wrote", Text(example.written))
    return table


def _number(value: float, *, share: bool) -> str:
    return f"{100 * value:.0f} %" if share else f"{value:.2f}"


def _interval(value: Interval, *, share: bool) -> str:
    if share:
        return f"{100 * value.value:.0f} % [{100 * value.low:.0f}, {100 * value.high:.0f}]"
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
