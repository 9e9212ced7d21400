"""Plots of a quality run: held-out loss over the number of users, one line per budget."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

_NAMES = {"plain": "plain LoRA, no privacy", "small_family": "small family, no privacy"}


def draw(results: dict[str, Any], folder: Path) -> Path:
    """Write ``learning-curve.png`` to a folder and return its path.

    Args:
        results: what ``run_quality`` returned.
        folder: made if it does not exist.
    """
    import matplotlib as mpl  # noqa: PLC0415  seconds to import, and only plots need it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  as above

    lines: dict[tuple[str, float], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    flat: dict[str, float] = {}
    for run in results["runs"]:
        if run["arm"] == "private":
            lines[run["start"], run["epsilon"]][run["users"]].append(run["nll"]["value"])
        elif run["arm"] in {"plain", "small_family"}:
            lines[run["arm"], 0.0][run["users"]].append(run["nll"]["value"])
        elif run["arm"] in {"base", "meta"}:
            flat[run["arm"]] = run["nll"]["value"]
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, value in flat.items():
        axes.axhline(value, linestyle=":", label=name, color="grey" if name == "base" else "tab:green")
    for (start, epsilon), points in sorted(lines.items()):
        label = _NAMES.get(start) or f"ε = {epsilon:g} from {start}"
        users = sorted(points)
        axes.plot(users, [fmean(points[number]) for number in users], marker="o", label=label)
    axes.set_xscale("log")
    sizes = sorted({number for points in lines.values() for number in points})
    axes.set_xticks(sizes, [f"{number:,}" for number in sizes])
    axes.minorticks_off()
    axes.set_xlabel("users trained on")
    axes.set_ylabel("held-out loss, nats per token")
    axes.set_title(str(results["settings"]["tenant"]))
    axes.legend(fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "learning-curve.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
