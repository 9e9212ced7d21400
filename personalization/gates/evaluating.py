"""Repeat the gate's public suites for a version that was released, beside the base and the version before.

Weights are released and items are public, so it costs nothing and may be done by whoever holds the files, at any depth.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from personalization.errors import TrainingFailedError
from personalization.suites.verdict import AxisFinding, AxisVerdict, judge_suites, suites_of
from personalization.training.jobs.job import SuiteJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from personalization.adapters.manifest import AdapterManifest
    from personalization.planning.plan import PerformanceFlags
    from personalization.suites.values import SuiteScores
    from personalization.suites.verdict import SuiteTerms
    from personalization.training.jobs.job import TenantResult

VERSION, BEFORE = "version", "before"


class FilesOf(Protocol):
    """Where versions' files are."""

    def open(self, version_id: str) -> Path:
        """Return a local directory with a version's files, each checked against its digest."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the suites say of a version now.

    Attributes:
        version_id: which.
        before_id: the version that it replaced; None where there is none whose files are there.
        scores: every number.
        findings: each axis against the base and against the version before.
        public_text_change: relative change of the loss on public text.
        as_published: whether the same questions gave the same answers when it was made, within 0.02 each; None where
            other questions were asked.
    """

    version_id: str
    before_id: str | None
    scores: SuiteScores
    findings: tuple[AxisFinding, ...]
    public_text_change: float
    as_published: bool | None

    @property
    def accepted(self) -> bool:
        """Whether nothing failed."""
        return all(one.verdict is not AxisVerdict.FAIL for one in self.findings)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; what is not a number is null."""
        findings = [
            {
                key: (None if isinstance(value, float) and not math.isfinite(value) else value)
                for key, value in asdict(one).items()
            }
            for one in self.findings
        ]
        return {
            "version_id": self.version_id,
            "before_id": self.before_id,
            "accepted": self.accepted,
            "as_published": self.as_published,
            "public_text_change": self.public_text_change,
            "findings": findings,
            "scores": self.scores.to_document(),
        }


def evaluate(
    version_id: str,
    manifest: AdapterManifest,
    *,
    files: FilesOf,
    before_id: str | None,
    base_model: Path,
    terms: SuiteTerms,
    flags: PerformanceFlags,
    run: Callable[[SuiteJob], tuple[TenantResult, ...]],
) -> Evaluation:
    """Ask a version, its base and the version before the public suites.

    Args:
        version_id: of the version.
        manifest: of the version.
        files: where files are.
        before_id: the version that it replaced, where its files are still there.
        base_model: directory of the base.
        terms: depth and margins.
        flags: device and threads.
        run: runs the job in a child process.

    Raises:
        ArtifactError: the version's files are not there.
        TrainingError: the child failed.
    """
    adapters = {VERSION: files.open(version_id)}
    if before_id is not None:
        adapters[BEFORE] = files.open(before_id)
    results = {
        one.job_key: one
        for one in run(
            SuiteJob(base_model=str(base_model), adapters=adapters, depth=terms.depth, flags=flags)
        )
    }
    told = results[VERSION]
    if told.suites is None or told.public_losses is None:
        raise TrainingFailedError("the suites were asked at depth off; choose quick or full")
    before = results[BEFORE].suites if BEFORE in results else None
    losses = told.public_losses
    return Evaluation(
        version_id=version_id,
        before_id=before_id,
        scores=told.suites,
        findings=judge_suites(told.suites, terms.margins, before),
        public_text_change=sum(losses.adapted) / sum(losses.base) - 1.0,
        as_published=_alike(told.suites, suites_of(manifest)),
    )


def _alike(now: SuiteScores, then: SuiteScores | None) -> bool | None:
    if then is None or then.digest != now.digest:
        return None
    pairs = zip(now.axes, then.axes, strict=True)
    return all(
        abs(a - b) <= 0.02  # of a probability; another processor rounds otherwise
        for one, other in pairs
        if one.axis.value != "memorisation"  # ranks of near-equal digits may swap
        for a, b in zip(one.adapted, other.adapted, strict=True)
    )


def draw(evaluation: Evaluation, path: Path) -> None:
    """Write a picture: the loss of each axis in units of its margin, with its interval; 1 is the limit."""
    import matplotlib as mpl  # noqa: PLC0415  seconds to import, and only the picture needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  as above

    shown = [one for one in evaluation.findings if math.isfinite(one.low + one.high + one.loss)]
    colours = {
        AxisVerdict.PASS: "tab:green",
        AxisVerdict.FAIL: "tab:red",
        AxisVerdict.INCONCLUSIVE: "tab:orange",
        AxisVerdict.NOT_MEASURABLE: "tab:grey",
    }
    figure, axes = plt.subplots(figsize=(7.5, 0.45 * len(shown) + 1.4))
    for place, one in enumerate(shown):
        loss, low, high = (value / one.margin for value in (one.loss, one.low, one.high))
        if one.axis.value == "memorisation":  # a p-value: failing is below the level
            loss = low = high = min(2.0, one.margin / max(one.loss, 1e-300))
        axes.errorbar(
            loss,
            place,
            xerr=[[max(0.0, loss - low)], [max(0.0, high - loss)]],
            fmt="o",
            color=colours[one.verdict],
        )
    axes.axvline(1.0, linestyle=":", color="black")
    axes.set_yticks(range(len(shown)), [f"{one.axis.value} / {one.against}" for one in shown])
    axes.set_xlabel("loss in units of the margin (95 % interval); 1 is the limit")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
