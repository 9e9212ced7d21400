"""Release after release of one line, window by window of time: what the last one still knows of each window.

*Private part alone*: served as the newest, as an exponential average, or as a mean of all. *With a card*: whole
releases, whose public part is that of the newest card or, of a line that remembers, the mean of all of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from personalization.quality.intervals import mean_interval
from personalization.quality.mechanics_rows import REMEMBERED
from personalization.training.run.measure import nll_per_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from personalization.planning.plan import TrainingPlan
    from personalization.quality.cards import CardRelease, CardReleases
    from personalization.training.jobs.job import UserExamples
    from personalization.training.run.bench import UserSet, Workbench
    from privacy.mechanisms.partition_selection import PartitionSelection

    Losses = list[list[float]]  # of a release: by window, by user


@dataclass(frozen=True, kw_only=True)
class Window:
    """Users of one window of time.

    Attributes:
        train: whom a release of the window reads.
        heldout: whom nothing is trained on.
    """

    train: tuple[UserExamples, ...]
    heldout: tuple[UserExamples, ...]


def private_alone(
    bench: Workbench,
    windows: Sequence[Window],
    plan: TrainingPlan,
    share_of: Callable[[int], float],
    key_of: Callable[[int], bytes],
    *,
    from_served: bool,
) -> Iterator[Losses]:
    """Yield what each release in turn says of every window.

    Args:
        bench: the base and the shape.
        windows: the oldest first.
        plan: of every release.
        share_of: share of what was served before in what is served next, by how many releases there were.
        key_of: key of a release's noise, by its number.
        from_served: whether a release is trained from what was served before, and not from zero.
    """
    judged: list[UserSet] = [bench.user_set(one.heldout) for one in windows]
    now = bench.zero()
    for number, window in enumerate(windows):
        start = now if from_served else bench.zero()
        made = bench.train(bench.user_set(window.train), plan, start=start, noise_key=key_of(number))
        share = share_of(number)
        now = share * now + (1.0 - share) * made
        yield [bench.losses(users, now) for users in judged]


def with_cards(
    releases: CardReleases,
    windows: Sequence[Window],
    plan: TrainingPlan,
    vote: PartitionSelection,
    key_of: Callable[[int], bytes],
    *,
    remember: bool,
) -> Iterator[Losses]:
    """Yield what each whole release in turn says of every window; its private part starts from zero, as by default.

    Args:
        releases: makes them.
        windows: the oldest first.
        plan: of every release's private part.
        vote: what the same policy charges beside it.
        key_of: key of a release's noise, by its number.
        remember: as the policy may ask.
    """
    before: CardRelease | None = None
    for number, window in enumerate(windows):
        name = f"{'remember' if remember else 'newest'}-{number}"
        before = releases.release(
            window.train, plan, vote, key=key_of(number), name=name, before=before if remember else None
        )
        yield [
            nll_per_user(
                releases.base_model,
                before.adapter,
                one.heldout,
                max_tokens=plan.max_tokens,
                flags=releases.flags,
            )
            for one in windows
        ]


def facts_of(losses: Sequence[Losses], base: Sequence[float]) -> dict[str, Any]:
    """Return what was lost on earlier windows after the last release, JSON-ready.

    Args:
        losses: by release, window and user, nats per token.
        base: the plain base's mean loss of each window.
    """
    last, earlier = losses[-1], range(len(losses) - 1)
    own = [losses[number][number] for number in range(len(losses))]
    changes = [fmean(last[number]) / fmean(own[number]) - 1.0 for number in earlier]
    lost = [late - first for number in earlier for late, first in zip(last[number], own[number], strict=True)]
    worst = max(changes, default=0.0)
    return {
        "bwt": mean_interval([-one for one in lost]).to_document() if lost else None,
        "earlier_windows_change": [round(one, 4) for one in changes],
        "worst": round(worst, 4),
        "limit": REMEMBERED,
        "ok": worst <= REMEMBERED,
        "base": round(fmean(base), 4),
        "served": round(fmean([fmean(of_window) for of_window in last]), 4),
    }
