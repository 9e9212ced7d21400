"""What a reading of drift is frozen to, what it releases, and what is made of what was released."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from personalization.drift.features import FAMILIES, SIZE, UNIT, VERSION
from personalization.errors import DriftError
from privacy.canonical import digest_of
from privacy.errors import UnknownMechanismError
from privacy.mechanisms.documents import from_document, to_document
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose

TERMS_FORMAT: Final = "discreet.drift-terms.v1"
HISTOGRAM_FORMAT: Final = "discreet.drift-histogram.v1"


class ReadingState(StrEnum):
    """Where a reading stands.

    due ──lease──▶ leased ──▶ done      it was released
                   ▲  │  ├──▶ declined  nothing was read: the policy, the platform or the budget said no
                   │  │  └──▶ failed    a crash after the start, or its time was over: the charge stays
                   └──┘                 the lease ran out: the next trainer asks the ledger what it may do
    """

    DUE = "due"
    LEASED = "leased"
    DONE = "done"
    DECLINED = "declined"
    FAILED = "failed"

    @property
    def open(self) -> bool:
        """Whether a trainer may still work on it."""
        return self in {ReadingState.DUE, ReadingState.LEASED}


class ReadingOutcome(StrEnum):
    """How a reading ended."""

    RELEASED = "released"
    NOT_ASKED = "not_asked"  # the newest policy has none taken
    PLAN_USED_UP = "plan_used_up"  # as many were charged as the policy plans
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    ABOVE_CEILING = "above_ceiling"
    BUDGET_EXHAUSTED = "budget_exhausted"
    NOISE_TOO_LARGE = "noise_too_large"  # so many users are not declared that anything could be seen
    FORFEITED = "forfeited"


@dataclass(frozen=True, kw_only=True)
class DriftTerms:
    """What one reading goes by from its reservation on; all of it public.

    Attributes:
        mechanism: what is charged: the sum of parts of length at most 1, with Gaussian noise.
        since: first instant whose signals are read.
        until: the reading's slot; signals before it are read.
        contribution_bound: most examples of one user.
        level: probability of a false alarm.
        on_drift: what follows an alarm.
        minimum_cohort: fewest users, as estimated from what was released, that anything is said of.
        policy_version: the policy that the numbers come from.
        told_at: public instant that is stamped on what comes of it.
        ends_at: when it forfeits unless it is closed.
        bins: which meaning of the bins.
    """

    mechanism: Gaussian
    since: datetime
    until: datetime
    contribution_bound: int
    level: float
    on_drift: str
    minimum_cohort: int
    policy_version: int
    told_at: datetime
    ends_at: datetime
    bins: str = VERSION

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_json`` reads it back to equal terms."""
        document = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in vars(self).items()
        }
        return {**document, "format": TERMS_FORMAT, "mechanism": to_document(self.mechanism)}

    def to_json(self) -> str:
        """Return what the reading's row stores."""
        return json.dumps(self.to_document(), sort_keys=True)

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the canonical JSON of the terms."""
        return digest_of(self.to_document(), ascii_only=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what a reading's row stores.

        Raises:
            DriftError: it is damaged, or of bins that this version does not know.
        """
        try:
            document = json.loads(text)
            mechanism = from_document(document["mechanism"])
            if document.pop("format") != TERMS_FORMAT or document["bins"] != VERSION:
                raise DriftError("the reading was reserved by another version; it cannot be gone on with")
            if not isinstance(mechanism, Gaussian) or mechanism.purpose is not ReadPurpose.DRIFT:
                raise DriftError("the reading pays for something else; it cannot be gone on with")
            moments = {
                name: datetime.fromisoformat(document[name])
                for name in ("since", "until", "told_at", "ends_at")
            }
            return cls(**{**document, **moments, "mechanism": mechanism})
        except (ValueError, TypeError, KeyError, AttributeError, UnknownMechanismError) as error:
            raise DriftError("the terms of the reading are damaged; it cannot be gone on with") from error


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """What one reading released: noisy sums over users, in whole units of ``1 / UNIT``, family after family.

    Attributes:
        sums: of all bins.
        noise_multiplier: standard deviation of the noise of each, in units of one user's longest part.
        since: first instant whose signals were read.
        until: the reading's slot.
    """

    sums: tuple[int, ...]
    noise_multiplier: float
    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if len(self.sums) != SIZE:
            raise DriftError(f"the histogram has {len(self.sums)} bins; allowed are {SIZE}")

    def users_of(self, number: int) -> tuple[float, ...]:
        """Return the noisy numbers of users in each bin of a family (their shares of it added up)."""
        start = sum(len(family.bins) for family in FAMILIES[:number])
        family = FAMILIES[number]
        return tuple(one / UNIT / family.weight for one in self.sums[start : start + len(family.bins)])

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form, which the ledger's commit names by its digest."""
        return {
            "format": HISTOGRAM_FORMAT,
            "bins": VERSION,
            "sums": list(self.sums),
            "noise_multiplier": self.noise_multiplier,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
        }

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the JSON form."""
        return digest_of(self.to_document(), ascii_only=True)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read ``to_document``'s form.

        Raises:
            DriftError: it is damaged, or of other bins.
        """
        try:
            if (document["format"], document["bins"]) != (HISTOGRAM_FORMAT, VERSION):
                raise DriftError("the histogram has other bins than this version knows; begin anew")
            return cls(
                sums=tuple(int(one) for one in document["sums"]),
                noise_multiplier=float(document["noise_multiplier"]),
                since=datetime.fromisoformat(document["since"]),
                until=datetime.fromisoformat(document["until"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DriftError("a stored histogram is damaged; run `discreet budget verify`") from error


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the released histograms of a line say at one of them.

    Attributes:
        drifted: whether it is an alarm.
        enough: whether there were users and readings enough to say anything.
        family: that changed most, by its name.
        since: first slot of the time after the change, where it probably lies.
        statistic: of the clearest change; chi-square distributed where nothing changed.
        threshold: above which it is an alarm.
        degrees: of freedom.
        chance: that nothing but chance is behind it, at most, over everything that was compared.
        before: shares of the family's bins before the change.
        after: and since.
        users: estimated users of the newest reading.
        compared: how many readings were looked at.
    """

    drifted: bool = False
    enough: bool = False
    family: str | None = None
    since: datetime | None = None
    statistic: float = 0.0
    threshold: float = 0.0
    degrees: int = 0
    chance: float = 1.0
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()
    users: int = 0
    compared: int = 0

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "since": None if self.since is None else self.since.isoformat()}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read ``to_document``'s form.

        Raises:
            DriftError: it is damaged.
        """
        try:
            since = document["since"]
            return cls(
                **{
                    **document,
                    "since": None if since is None else datetime.fromisoformat(since),
                    "before": tuple(document["before"]),
                    "after": tuple(document["after"]),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DriftError("what was said of a reading cannot be read; run `discreet db check`") from error
