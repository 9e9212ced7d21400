"""Serving quality of each version at this gateway: what its answers took and cost, and what users made of them.

**Not covered by epsilon, and never let out.** These are exact counts of the product's own traffic, kept in the memory
of this process for a day and told to the tenant's own back ends alone (the right ``users``), which sent every request
and all the feedback themselves. Nothing here is stored, published, put into a metric, used to train, or looked at by
whatever moves a rollout (``privacy.policy.rollout.GUARDS`` names what may). Feedback counts for users who consent, once
an answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from streams.client import Accepted, Correction, Edited, Rating
from streams.gateway.fair import FairStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.client import Outcome

HOURS: Final = 24
HOUR_SECONDS: Final = 3600.0
MOST: Final = 20_000  # versions in hours; the oldest of the tenant with most go first
MOST_ANSWERS: Final = 100_000  # whose feedback was counted; the same
WORDS: Final = 100  # of each text that are compared
BASE: Final = "base"
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, float("inf"))
FIELDS: Final = (
    "domain", "version", "answers", "completion", "latency_p50", "latency_p95", "tokens", "feedback", "acceptance",
    "edit_distance", "ratings", "rating",
)  # fmt: skip
BOUNDARY.require(Kind.HTTP_ANSWER, ["hours", "kpis", *(f"kpis.{name}" for name in FIELDS)])

_Key = tuple[int, str, str]
"""Hour, domain, version."""


@dataclass(kw_only=True)
class _Counts:
    """Sums over answers, and over feedback."""

    answers: int = 0
    whole: int = 0
    slots: list[int] = field(default_factory=lambda: [0] * len(_SECONDS))
    told: int = 0  # answers whose engine told their tokens
    tokens: int = 0
    judged: int = 0  # accepted, edited, corrected or rejected
    accepted: int = 0
    edited: int = 0
    distance: float = 0.0
    ratings: int = 0
    rating: int = 0

    def add(self, other: _Counts) -> None:
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            both = (
                [a + b for a, b in zip(mine, theirs, strict=True)] if one.name == "slots" else mine + theirs
            )
            setattr(self, one.name, both)


class Kpis:
    """Counts; for one event loop.

    Args:
        monotonic: seconds that only grow.
        most: versions in hours that are counted at once.
        most_answers: answers whose feedback is known to have been counted.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        most: int = MOST,
        most_answers: int = MOST_ANSWERS,
    ) -> None:
        self._monotonic = monotonic
        self._counts: FairStore[_Key, _Counts] = FairStore(most)  # of each tenant the oldest hour first
        self._judged: FairStore[str, bool] = FairStore(most_answers)
        self._looked = self._hour()

    def answered(
        self,
        tenant_id: str,
        domain: str,
        version: str | None,
        *,
        seconds: float,
        tokens: int | None,
        whole: bool,
    ) -> None:
        """Note an answer: how long it took, what it cost, and whether it was told to its end."""
        counts = self._of(tenant_id, domain, version)
        counts.answers += 1
        counts.whole += whole
        counts.slots[next(place for place, most in enumerate(_SECONDS) if seconds <= most)] += 1
        if tokens is not None:
            counts.told += 1
            counts.tokens += tokens

    def judged(
        self,
        tenant_id: str,
        domain: str,
        version: str | None,
        *,
        answer_id: str,
        shown: str,
        outcome: Outcome,
    ) -> None:
        """Note what the user made of an answer; of each answer only what is said first."""
        if self._judged.get(tenant_id, answer_id):
            return
        self._judged.put(tenant_id, answer_id, True)  # it was
        counts = self._of(tenant_id, domain, version)
        if isinstance(outcome, Rating):
            counts.ratings += 1
            counts.rating += outcome.rating
            return
        counts.judged += 1
        if isinstance(outcome, Accepted):
            counts.accepted += 1
        elif isinstance(outcome, Edited | Correction):
            counts.edited += 1
            counts.distance += edit_distance(shown, outcome.final_text)

    def document(self, tenant_id: str) -> dict[str, Any]:
        """Return the last day's serving quality of a tenant's versions, JSON-ready, by domain and version."""
        self._forget()
        found: dict[tuple[str, str], _Counts] = {}
        for (_, domain, version), counts in self._counts.items(tenant_id):
            found.setdefault((domain, version), _Counts()).add(counts)
        rows = [_row(domain, version, counts) for (domain, version), counts in sorted(found.items())]
        return {"hours": HOURS, "kpis": rows}

    def _of(self, tenant_id: str, domain: str, version: str | None) -> _Counts:
        self._forget()
        key = (self._hour(), domain, version or BASE)
        counts = self._counts.get(tenant_id, key)
        if counts is None:
            counts = _Counts()
            self._counts.put(tenant_id, key, counts)
        return counts

    def _forget(self) -> None:
        """Forget what is older than a day, once an hour."""
        hour = self._hour()
        if hour == self._looked:
            return
        self._looked = hour
        for tenant_id in self._counts.tenants():
            for key, _ in self._counts.items(tenant_id):
                if key[0] > hour - HOURS:
                    break
                self._counts.pop(tenant_id, key)

    def _hour(self) -> int:
        return int(self._monotonic() // HOUR_SECONDS)


def edit_distance(shown: str, final: str) -> float:
    """Return how many of the words were changed, put in or left out, over those of the longer text: 0 to 1.

    Only the first words of each are compared, since this runs between two requests.
    """
    before, after = shown.split()[:WORDS], final.split()[:WORDS]
    if not before or not after:
        return float(before != after)
    row = list(range(len(after) + 1))
    for place, word in enumerate(before, 1):
        corner, row[0] = row[0], place
        for other, against in enumerate(after, 1):
            corner, row[other] = (
                row[other],
                min(row[other] + 1, row[other - 1] + 1, corner + (word != against)),
            )
    return row[-1] / max(len(before), len(after))


def _row(domain: str, version: str, counts: _Counts) -> dict[str, Any]:
    values = (
        domain, version, counts.answers, _mean(counts.whole, counts.answers), _quantile(counts.slots, 0.5),
        _quantile(counts.slots, 0.95), _mean(counts.tokens, counts.told), counts.judged,
        _mean(counts.accepted, counts.judged), _mean(counts.distance, counts.edited), counts.ratings,
        _mean(counts.rating, counts.ratings),
    )  # fmt: skip
    return dict(zip(FIELDS, values, strict=True))


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _quantile(slots: list[int], share: float) -> float | None:
    """Return the bound of the slot in which a quantile lies, in seconds; ``None`` beyond the last, or of nothing."""
    wanted, seen = share * sum(slots), 0
    for count, most in zip(slots, _SECONDS, strict=True):
        seen += count
        if count and seen >= wanted:
            return most if most < float("inf") else None
    return None
