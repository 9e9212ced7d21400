"""A recipe's picture as a file: shares by arm with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.report import title_of
from streams.demo.recipes.values import ONE_DRAW

if TYPE_CHECKING:
    from pathlib import Path

    from streams.demo.recipes.values import RecipeReport

_COLORS = ("#9aa5b1", "#2f6f9f", "#d08b2c", "#3d8f5f", "#8a5fa8", "#b5485d")


def draw(report: RecipeReport, path: Path) -> Path:
    """Write a bar chart (PNG) of every share that was measured and return its path."""
    import matplotlib as mpl  # noqa: PLC0415  seconds to import, and only the picture needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  as above

    shares = [one for one in report.measures if one.share]
    names = list(dict.fromkeys(arm for one in shares for arm in one.arms))
    height = 0.8 / max(1, len(names))
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.32 * max(1, len(names)) * max(1, len(shares))))
    for place, arm in enumerate(names):
        rows = [(at, one.arms[arm]) for at, one in enumerate(shares) if arm in one.arms]
        axes.barh(
            [at + place * height for at, _ in rows],
            [100 * value.value for _, value in rows],
            height=height * 0.9,
            color=_COLORS[place % len(_COLORS)],
            label=arm,
            xerr=[
                [max(0.0, 100 * (value.value - value.low)) for _, value in rows],
                [max(0.0, 100 * (value.high - value.value)) for _, value in rows],
            ],
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    middle = height * (len(names) - 1) / 2
    axes.set_yticks(
        [at + middle for at in range(len(shares))], [f"{one.line}: {one.name}" for one in shares], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_xlabel("% of answers to users never trained on, with 95 % intervals over users")
    axes.set_title(title_of(report), fontsize=9)
    axes.annotate(
        ONE_DRAW, (0, 0), (0, -34), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=8
    )
    axes.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
