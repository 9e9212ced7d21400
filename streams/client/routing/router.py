"""Which of a tenant's lines answers a request: hierarchy first, then confidence, else the base.

The order is fixed: the tenant's own lines alone are ever looked at; of those, lines that are loaded or may be; then the
scores of domain lines, an absolute floor, and a margin to the second. What is below goes down the hierarchy (domain
line, tenant's line, meta line, base). Every decision says why in numbers and versions, never in the prompt's words.

Words decide where they are sure, in microseconds. Where they are not, and somebody read the prompt's meaning (a vector
from an encoder), that decides. Words and meanings have scores and floors of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .features import BUCKETS, FEATURES_VERSION, features_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .prototypes import Prototype


class Level(StrEnum):
    """How near a line is to what is asked."""

    DOMAIN = "domain"
    PAIR = "pair"  # composed of two domain lines
    TENANT = "tenant"
    META = "meta"
    BASE = "base"


class RouteReason(StrEnum):
    """Why a line was chosen, or was not."""

    FITS = "fits"  # the best domain line is above floor and margin
    BELOW_FLOOR = "below_floor"  # no domain line is about this
    TOO_CLOSE = "too_close"  # two domain lines are about this alike
    BOTH_FIT = "both_fit"  # they are, and there is a line that is composed of both
    NO_DOMAIN_LINE = "no_domain_line"  # the tenant has none that may serve
    NOT_LOADED = "not_loaded"  # the line that fits must be loaded first; what is below answers meanwhile


@dataclass(frozen=True, kw_only=True)
class RouteLine:
    """A line that may answer a tenant's requests.

    Attributes:
        tenant_id: whose requests.
        line_ref: opaque name of the line.
        served_name: of the version that it serves.
        level: domain lines are chosen by their prototype, the others are what is fallen back to.
        prototype: of a domain line.
        of: names of the two domain lines that a pair is composed of.
    """

    tenant_id: str
    line_ref: str
    served_name: str
    level: Level
    prototype: Prototype | None = None
    of: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if (self.level is Level.DOMAIN) != (self.prototype is not None) or self.level is Level.BASE:
            raise ValueError(
                "a domain line has a prototype; a tenant's or meta line has none; the base is no line"
            )
        if len(self.of) != (2 if self.level is Level.PAIR else 0):
            raise ValueError("a pair is composed of two lines, any other line of none")


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """Public limits of the router.

    Attributes:
        floor: smallest score, mean log-odds of a feature in nats, at which a domain line is taken.
        margin: smallest lead over the second.
        sure: score from which on words decide though the prompt's meaning could be read.
        meaning_floor: smallest score by meaning; see ``Meaning.score``.
        meaning_margin: smallest lead by meaning.
    """

    floor: float = 0.2
    margin: float = 0.05
    sure: float = 0.5
    meaning_floor: float = 0.005
    meaning_margin: float = 0.0


class Candidate(NamedTuple):
    """A domain line that was scored; a tuple, because there are several for each request."""

    line_ref: str
    prototype_version: str
    score: float


class Route(NamedTuple):
    """A decision that explains itself; it holds nothing of the prompt.

    Attributes:
        level: of what answers.
        line_ref: None for the base.
        served_name: None for the base.
        reason: why.
        score: of the best domain line; None where none was scored.
        margin: its lead over the second; None where there is no second.
        candidates: all domain lines that were scored, the best first.
        features_version: how prompts were read.
        wanted: served name of the line that fits and is not loaded; whoever loads adapters is to hear of it.
    """

    level: Level
    line_ref: str | None
    served_name: str | None
    reason: RouteReason
    score: float | None = None
    margin: float | None = None
    candidates: tuple[Candidate, ...] = ()
    features_version: str = FEATURES_VERSION
    wanted: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Tenant:
    """A tenant's lines as they are decided by; never changed, so who decides needs no lock.

    Attributes:
        domain: its domain lines.
        versions: of their prototypes.
        weights: ``(BUCKETS, domain lines)``: a prompt reads whole rows.
        below: what is fallen back to.
        pairs: composed lines, by the two that each is composed of.
    """

    domain: tuple[RouteLine, ...] = ()
    versions: tuple[str, ...] = ()
    weights: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((BUCKETS, 0), np.float32))
    below: RouteLine | None = None
    pairs: Mapping[frozenset[str], RouteLine] = field(default_factory=dict)

    @property
    def meant(self) -> bool:
        """Whether every domain line is known by meaning: scores by words and by meanings do not compare."""
        return bool(self.domain) and all(
            line.prototype is not None and line.prototype.meaning is not None for line in self.domain
        )


_NOBODY: Final = _Tenant()


class Router:
    """Holds the lines of all tenants and decides; lines may be put and dropped while others decide.

    Args:
        settings: public limits.
    """

    def __init__(self, settings: RouterSettings | None = None) -> None:
        self._settings = settings or RouterSettings()
        self._lock = threading.Lock()
        self._lines: dict[str, dict[str, RouteLine]] = {}
        self._tenants: dict[str, _Tenant] = {}

    def put(self, line: RouteLine) -> None:
        """Add a line, or replace what is known of it: another version, another prototype."""
        with self._lock:
            self._lines.setdefault(line.tenant_id, {})[line.line_ref] = line
            self._settle(line.tenant_id)

    def replace(self, tenant_id: str, lines: Iterable[RouteLine]) -> None:
        """Take these for all lines that a tenant has."""
        with self._lock:
            self._lines[tenant_id] = {line.line_ref: line for line in lines}
            self._settle(tenant_id)

    def drop(self, tenant_id: str, line_ref: str) -> None:
        """Forget a line: it is withdrawn, or may not serve; one that is not known is no error."""
        with self._lock:
            self._lines.get(tenant_id, {}).pop(line_ref, None)
            self._settle(tenant_id)

    def knows(self, tenant_id: str) -> bool:
        """Return whether a tenant has a domain line."""
        return bool(self._tenants.get(tenant_id, _NOBODY).domain)

    def unsure(self, tenant_id: str, prompt: str) -> bool:
        """Say whether the prompt's meaning should be read before it is decided."""
        tenant = self._tenants.get(tenant_id, _NOBODY)
        if not tenant.meant:
            return False
        found = features_of([prompt])
        if not len(found.buckets):
            return False
        scores = np.add.reduce(tenant.weights.take(found.buckets, axis=0, mode="clip"), axis=0) / len(
            found.buckets
        )
        return not self._sure(scores.tolist(), range(len(tenant.domain)))

    def decide(
        self,
        tenant_id: str,
        prompt: str,
        *,
        usable: Mapping[str, bool] | None = None,
        loaded: Mapping[str, bool] | None = None,
        meaning: npt.NDArray[np.float32] | None = None,
    ) -> Route:
        """Return which line answers a prompt; see ``decide_many``."""
        (route,) = self.decide_many([(tenant_id, prompt)], usable=usable, loaded=loaded, meanings=[meaning])
        return route

    def decide_many(
        self,
        asked: Sequence[tuple[str, str]],
        *,
        usable: Mapping[str, bool] | None = None,
        loaded: Mapping[str, bool] | None = None,
        meanings: Sequence[npt.NDArray[np.float32] | None] | None = None,
    ) -> list[Route]:
        """Return which line answers each request.

        Args:
            asked: pairs of tenant and prompt.
            usable: by served name, whether a version may serve now (a flag, a frozen rollout); what is not named may.
            loaded: by served name, whether it can answer at once; what is not named can. One that fits and is not
                loaded is ``wanted``, and what is below it answers.
            meanings: vector of each prompt, where somebody read it; by the encoder of the tenants' prototypes.
        """
        found = features_of([prompt for _, prompt in asked])
        routes, at = [], 0
        read = [None] * len(asked) if meanings is None else meanings
        for (tenant_id, _), count, meaning in zip(asked, found.counts.tolist(), read, strict=True):
            tenant = self._tenants.get(tenant_id, _NOBODY)
            scores = None
            if count and tenant.domain:
                told = tenant.weights.take(found.buckets[at : at + count], axis=0, mode="clip")
                scores = (np.add.reduce(told, axis=0) / count).tolist()
            routes.append(self._route(tenant, scores, meaning, usable, loaded))
            at += count
        return routes

    def _sure(self, scores: Sequence[float], kept: Sequence[int]) -> bool:
        best, *others = sorted((scores[n] for n in kept), reverse=True)
        return best >= self._settings.sure and (not others or best - others[0] >= self._settings.margin)

    def _route(
        self,
        tenant: _Tenant,
        scores: list[float] | None,
        meaning: npt.NDArray[np.float32] | None,
        usable: Mapping[str, bool] | None,
        loaded: Mapping[str, bool] | None,
    ) -> Route:
        kept = list(range(len(tenant.domain)))
        if usable is not None:
            kept = [n for n in kept if usable.get(tenant.domain[n].served_name, True)]
        if scores is None or not kept:
            reason = RouteReason.BELOW_FLOOR if kept else RouteReason.NO_DOMAIN_LINE
            return _fallen(tenant.below, usable, reason, None, None, ())
        floor, margin, version = self._settings.floor, self._settings.margin, FEATURES_VERSION
        if meaning is not None and tenant.meant and not self._sure(scores, kept):
            told = [line.prototype.meaning for line in tenant.domain if line.prototype is not None]
            scores = [0.0 if one is None else one.score(meaning) for one in told]
            floor, margin = self._settings.meaning_floor, self._settings.meaning_margin
            version = next(one.encoder for one in told if one is not None)
        kept.sort(key=scores.__getitem__, reverse=True)
        best = kept[0]
        lead = scores[best] - scores[kept[1]] if len(kept) > 1 else None
        candidates = tuple(Candidate(tenant.domain[n].line_ref, tenant.versions[n], scores[n]) for n in kept)
        line, reason = tenant.domain[best], RouteReason.FITS
        if scores[best] < floor:
            reason = RouteReason.BELOW_FLOOR
        elif lead is not None and lead < margin:
            reason = RouteReason.TOO_CLOSE
            pair = tenant.pairs.get(frozenset((line.line_ref, tenant.domain[kept[1]].line_ref)))
            if pair is not None and scores[kept[1]] >= floor:
                line, reason = pair, RouteReason.BOTH_FIT
        if reason in {RouteReason.FITS, RouteReason.BOTH_FIT} and loaded is not None:
            reason = reason if loaded.get(line.served_name, True) else RouteReason.NOT_LOADED
        if reason not in {RouteReason.FITS, RouteReason.BOTH_FIT}:
            wanted = line.served_name if reason is RouteReason.NOT_LOADED else None
            fallen = _fallen(tenant.below, usable, reason, scores[best], lead, candidates)
            return fallen._replace(features_version=version, wanted=wanted)
        return Route(
            level=line.level, line_ref=line.line_ref, served_name=line.served_name, reason=reason,
            score=scores[best], margin=lead, candidates=candidates, features_version=version,
        )  # fmt: skip

    def _settle(self, tenant_id: str) -> None:
        mine = self._lines.get(tenant_id, {}).values()
        known = [(line, line.prototype) for line in mine if line.prototype is not None]
        self._tenants[tenant_id] = _Tenant(
            domain=tuple(line for line, _ in known),
            versions=tuple(prototype.version for _, prototype in known),
            weights=np.stack([np.zeros(BUCKETS, np.float32), *(each.weights for _, each in known)], axis=1)[
                :, 1:
            ].copy(),
            below=next(
                (line for level in (Level.TENANT, Level.META) for line in mine if line.level is level), None
            ),
            pairs={line.of: line for line in mine if line.level is Level.PAIR},
        )


def _fallen(
    below: RouteLine | None,
    usable: Mapping[str, bool] | None,
    reason: RouteReason,
    score: float | None,
    margin: float | None,
    candidates: tuple[Candidate, ...],
) -> Route:
    """Return the next one of the hierarchy, or the base."""
    if below is not None and usable is not None and not usable.get(below.served_name, True):
        below = None
    return Route(
        level=Level.BASE if below is None else below.level,
        line_ref=None if below is None else below.line_ref,
        served_name=None if below is None else below.served_name,
        reason=reason, score=score, margin=margin, candidates=candidates,
    )  # fmt: skip
