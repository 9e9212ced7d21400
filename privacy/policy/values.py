"""The privacy policy of one tenant: budgets, bounds, schedule and purposes, as validated data.

A policy is public to everyone who reads a release: it holds no number that was computed from private data.
Whatever fixes a guarantee (rate, normalizer, clipping norm, steps, schedule) is taken from here and from the
public clock. Every refusal names the field, the value that was given and the values that are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    AwareDatetime,
    Field,
    field_validator,
    model_validator,
)

from privacy.canonical import digest_of
from privacy.errors import PolicyError
from privacy.guarantee import FLEET
from privacy.policy.drift import DriftPolicy
from privacy.policy.rollout import LEAST_SHARE, RolloutPolicy
from privacy.policy.suites import PublicSuites
from privacy.policy.validated import Validated

DAY_SECONDS: Final = 86_400
TENANT_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
DOMAIN: Final = TENANT_ID
DEFAULT_DOMAIN: Final = "default"
# With an expected cohort of 5, a Poisson draw is empty with probability e^-5 (0.7 %): noise for nothing.
SMALLEST_EXPECTED_COHORT: Final = 5.0
_FIRST_INSTANT: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_INSTANT: Final = datetime(9999, 1, 1, tzinfo=UTC)


class DataPurpose(StrEnum):
    """What a user's interactions may be used for; each needs a consent of its own."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    SHARING = "sharing"  # let the tenant's released adapters enter the shared start of other tenants


class Start(StrEnum):
    """Where the training of a release starts."""

    META = "meta"
    PREVIOUS = "previous"
    AVERAGE = "average"


def checked_tenant_id(tenant_id: str) -> str:
    """Return ``tenant_id`` when it is a valid slug.

    Raises:
        PolicyError: it is not.
    """
    if not TENANT_ID.match(tenant_id):
        raise PolicyError(
            f"tenant_id is {tenant_id[:80]!r}; "
            "allowed are 1 to 63 characters a-z, 0-9 and -, not starting with -"
        )
    if tenant_id == FLEET:
        raise PolicyError(f"tenant_id is {tenant_id!r}; that name is the fleet's own account in the ledger")
    return tenant_id


class Schedule(Validated):
    """When releases are due on the public clock, whatever data there is."""

    first_at: AwareDatetime = Field(
        default=datetime(2025, 1, 6, tzinfo=UTC),
        description="a date and time with a time zone from 1970 to 9998, such as 2026-01-05T00:00:00Z",
    )
    every_seconds: int = Field(
        default=7 * DAY_SECONDS, ge=1, le=366 * DAY_SECONDS, description="1 to 31,622,400 seconds"
    )

    @classmethod
    def _prefix(cls) -> str:
        return "schedule"

    @field_validator("first_at")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        if (
            not _FIRST_INSTANT <= value < _LAST_INSTANT
        ):  # else reckoning with it would leave what a date can say
            raise ValueError("outside the years that are reckoned with")
        return value.astimezone(UTC)

    def due_index(self, now: datetime) -> int | None:
        """Return the index of the newest release that is due at ``now``; ``None`` before the first.

        The index counts instants of the schedule, so a worker that slept through several of them finds only
        the newest one due: missed releases are not made up for.
        """
        since = now - self.first_at
        if since < timedelta(0):
            return None
        return since // timedelta(seconds=self.every_seconds)

    def due_at(self, index: int) -> datetime:
        """Return the instant (UTC) at which release ``index`` of the schedule falls due."""
        return self.first_at + timedelta(seconds=self.every_seconds) * index


_Epsilon = Annotated[float, Field(ge=0.01, le=64)]
_Delta = Annotated[float, Field(ge=1e-15, le=1e-3)]


class TenantPrivacyPolicy(Validated):
    """All that a tenant has decided about privacy; see each field's description for what is allowed.

    Attributes:
        declared_users: a public lower bound on the number of the tenant's users, declared and never counted;
            the normalizer of every release is ``sample_rate × declared_users``.
        period_seconds: length of a budget period; periods are counted from 1970-01-01T00:00:00Z. A change
            starts new periods with their own cap; the lifetime cap goes on counting.
        period_epsilon: most ε one user may lose in one period, over all releases of the tenant.
        period_delta: δ of the period cap.
        lifetime_epsilon: most ε one user may lose ever, over all releases of the tenant.
        lifetime_delta: δ of the lifetime cap.
        contribution_bound: most signals of one user in one period.
        minimum_cohort: fewest users (as counted with noise) that a release may be trained on.
        sample_rate: Poisson probability per user and step.
        clipping_norm: L2 bound on one user's gradient.
        steps: mechanism applications of one release.
        planned_releases: releases over the lifetime, for which the noise is calibrated.
        schedule: when releases fall due.
        retention_days: how long a signal is kept.
        purposes: what interactions may be used for at all; a user's consent is needed on top.
        sharing_opt_in: whether released adapters may enter the meta start of other tenants.
        domains: the adapter lines.
        start: where training starts.
        release_padding_seconds: length of a window of the public clock, counted from a round's slot. What comes of
            a round that began in one window is told at the end of the next, and a longer run forfeits; so neither the
            times in it nor its appearing say how long training took. 0 tells at once, with the slot's time.
        population: name that the tenants share whose users are, or may be, the same people; they have one lifetime
            budget together. Whoever joined one stays in it, whatever a later version says.
        previous_share: share of the line's own served version that is averaged into each release (exponential
            averaging of successive private adapters, free); 0 publishes what was trained.
        remember: whether each release is served as the mean of the releases of its line since the policy asked, so that
            earlier windows of time are not forgotten. It takes the place of ``previous_share``, and is as free.
        styles: whether each release also learns what answers look like (openings, closings, lengths, terms), by one
            charged vote of its users. Habits that only a few users have are never told; what many share may be, and is
            the tenant's own to read and to strike out. Where users are few for the budget that vote leads: it takes
            most of the round's budget, asks how answers open, and next to nothing of what is trained is released.
        terms: whether that vote is about terms too: what users put in the place of what they were shown, at most three
            replacements of each. The vote costs the same; its weight is shared, so style needs a quarter more users. A
            vote that leads asks for none.
        rollout: how a new version reaches users: everybody at once, or in steps that guards can stop.
        suites: how much each release is asked of the project's public suites, and how much worse than the base and than
            the version before it may be.
        memory: whether each release also rehearses made-up questions with notes before them, in the form in which the
            gateway sends passages of the tenant's documents; it needs ``styles``. Lines that none of
            the tenant's collections is for do not, but for the default one. Nothing private and no document is in them.
        drift: how often a charged reading of what users ask is taken, and what follows when it changes.
    """

    declared_users: int = Field(ge=1, le=1_000_000_000, description="1 to 1,000,000,000 users")
    period_seconds: int = Field(
        default=30 * DAY_SECONDS, ge=1, le=3660 * DAY_SECONDS, description="1 to 316,224,000 seconds"
    )
    period_epsilon: _Epsilon = Field(default=2.0, description="0.01 to 64, at most lifetime_epsilon")
    period_delta: _Delta = Field(
        default=1e-6, description="1e-15 to 1e-3, below 1/declared_users, at most lifetime_delta"
    )
    lifetime_epsilon: _Epsilon = Field(default=8.0, description="0.01 to 64")
    lifetime_delta: _Delta = Field(default=1e-6, description="1e-15 to 1e-3, below 1/declared_users")
    contribution_bound: int = Field(default=8, ge=1, le=1000, description="1 to 1,000 signals")
    minimum_cohort: int = Field(
        default=20, ge=1, le=1_000_000_000, description="1 to 1,000,000,000 users, at most declared_users"
    )
    sample_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="above 0, at most 1, with sample_rate × declared_users at least 5",
    )
    clipping_norm: float = Field(default=1.0, ge=1e-6, le=1e6, description="0.000001 to 1,000,000")
    steps: int = Field(default=30, ge=1, le=100_000, description="1 to 100,000 steps")
    planned_releases: int = Field(default=8, ge=1, le=100_000, description="1 to 100,000 releases")
    schedule: Schedule = Field(
        default_factory=Schedule, description="an object with first_at and every_seconds"
    )
    retention_days: int = Field(default=90, ge=1, le=3660, description="1 to 3,660 days")
    purposes: tuple[DataPurpose, ...] = Field(
        default=(DataPurpose.TRAINING,),
        min_length=1,
        description="one or more of training, evaluation, sharing",
    )
    sharing_opt_in: bool = Field(default=False, description="true or false")
    domains: tuple[str, ...] = Field(
        default=(DEFAULT_DOMAIN,),
        min_length=1,
        max_length=100,
        description="1 to 100 different names of 1 to 63 characters a-z, 0-9 and -, not starting with -",
    )
    start: Start = Field(default=Start.META, description="one of meta, previous, average")
    release_padding_seconds: int = Field(
        default=3600, ge=0, le=30 * DAY_SECONDS, description="0 to 2,592,000 seconds"
    )
    population: str | None = Field(
        default=None,
        description="nothing, or a name of 1 to 63 characters a-z, 0-9 and -, not starting with -",
    )
    previous_share: float = Field(default=0.0, ge=0, le=0.95, description="0 to 0.95")
    remember: bool = Field(default=False, description="true or false")
    styles: bool = Field(default=True, description="true or false")
    terms: bool = Field(default=False, description="true or false")
    rollout: RolloutPolicy = Field(
        default=RolloutPolicy(), description="an object with steps, bake_seconds, guards and more"
    )
    suites: PublicSuites = Field(
        default=PublicSuites(), description="an object with depth, choice_margin and more"
    )
    memory: bool = Field(default=False, description="true or false")
    drift: DriftPolicy = Field(
        default=DriftPolicy(), description="an object with share, every_seconds and more"
    )

    @field_validator("population")
    @classmethod
    def _slug_or_nothing(cls, value: str | None) -> str | None:
        if value and not TENANT_ID.match(value):
            raise ValueError("not a name")
        return value or None

    @field_validator("purposes")
    @classmethod
    def _each_purpose_once(cls, value: tuple[DataPurpose, ...]) -> tuple[DataPurpose, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("domains")
    @classmethod
    def _distinct_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(DOMAIN.match(name) for name in value):
            raise ValueError("not distinct names")
        return value

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        limit = 1 / self.declared_users
        users = f"declared_users is {self.declared_users}"
        epsilon, delta = (
            f"lifetime_epsilon is {self.lifetime_epsilon:g}",
            f"lifetime_delta is {self.lifetime_delta:g}",
        )
        checks = (
            ("period_delta", self.period_delta < limit, users),
            ("lifetime_delta", self.lifetime_delta < limit, users),
            ("period_delta", self.period_delta <= self.lifetime_delta, delta),
            ("period_epsilon", self.period_epsilon <= self.lifetime_epsilon, epsilon),
            ("minimum_cohort", self.minimum_cohort <= self.declared_users, users),
            ("sample_rate", self.expected_cohort >= SMALLEST_EXPECTED_COHORT, users),
        )
        for name, fits, context in checks:
            if not fits:
                allowed = self.allowed_ranges()[name]
                raise PolicyError(f"{name} is {getattr(self, name):g}; allowed is {allowed} ({context})")
        self._require_comparison()
        return self

    def _require_comparison(self) -> None:
        """Refuse a rollout that is to be decided by reactions and cannot be."""
        asked = self.rollout
        if not asked.by_reactions:
            return
        last = asked.steps[-1]
        if not LEAST_SHARE <= last <= 100 - LEAST_SHARE:
            raise PolicyError(
                f"rollout.steps ends with {last:g}; where rollout.decide is reactions, allowed are "
                f"{LEAST_SHARE:g} to {100 - LEAST_SHARE:g} percent at the last step, of which 50 sees most"
            )
        if DataPurpose.EVALUATION not in self.purposes:
            raise PolicyError(
                "rollout.decide is reactions, which are counted of users who consent to evaluation; allowed is that "
                "with purposes=training,evaluation"
            )
        if asked.reaction_epsilon > self.period_epsilon:
            raise PolicyError(
                f"rollout.reaction_epsilon is {asked.reaction_epsilon:g}; allowed is 0.1 to 8, at most period_epsilon "
                f"(period_epsilon is {self.period_epsilon:g})"
            )
        if asked.looks * asked.look_seconds > self.retention_days * DAY_SECONDS:
            raise PolicyError(
                f"rollout.look_seconds is {asked.look_seconds}; allowed is that {asked.looks} looks take at most "
                f"retention_days (which is {self.retention_days})"
            )

    @property
    def expected_cohort(self) -> float:
        """The public normalizer of a release, ``sample_rate × declared_users`` (users per step)."""
        return self.sample_rate * self.declared_users

    @property
    def drift_schedule(self) -> Schedule:
        """When readings of drift fall due; reading 0, at ``schedule.first_at``, is none: nothing lies before it."""
        return Schedule(first_at=self.schedule.first_at, every_seconds=self.drift.every_seconds)

    @property
    def retention(self) -> timedelta:
        """How long a signal is kept after the interaction occurred."""
        return timedelta(days=self.retention_days)

    def period_index(self, at: datetime) -> int:
        """Return the budget period of ``at`` (aware), counted from the Unix epoch on the public clock.

        Raises:
            ValueError: ``at`` has no time zone.
        """
        return period_index(at, self.period_seconds)

    def period_start(self, index: int) -> datetime:
        """Return the first instant (UTC) of period ``index``."""
        return _EPOCH + timedelta(seconds=self.period_seconds) * index

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal policy."""
        return self.model_dump(mode="json")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a policy back from ``to_document``'s form.

        Raises:
            PolicyError: a field is unknown or outside its range.
        """
        return cls.model_validate(dict(document))

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the canonical JSON of the policy, as it is stored."""
        return digest_of(self.to_stored(), ascii_only=True)

    def to_stored(self) -> dict[str, Any]:
        """Return what is stored, which ``from_document`` reads back to an equal policy.

        A field that came later is left out where it has its default: policies from before keep their digest, and a
        process from before, which knows no such field, still reads a policy that does not use it.
        """
        document = self.to_document()
        for name in _LATER_FIELDS:
            if getattr(self, name) == type(self).model_fields[name].default:
                del document[name]
        if "rollout" in document:
            document["rollout"] = self.rollout.from_before(document["rollout"])
        return document


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PARTS: Final = ("schedule", "rollout", "suites", "drift")
_LATER_FIELDS: Final = (
    "release_padding_seconds", "population", "styles", "terms", "rollout", "suites", "remember", "memory", "drift",
)  # fmt: skip


def period_index(at: datetime, period_seconds: int) -> int:
    """Return which period of ``period_seconds`` since the Unix epoch the aware instant ``at`` lies in.

    Raises:
        ValueError: ``at`` has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError("at has no time zone; give an aware instant")
    return (at - _EPOCH) // timedelta(seconds=period_seconds)


def amended(policy: TenantPrivacyPolicy | None, changes: Mapping[str, Any]) -> TenantPrivacyPolicy:
    """Return ``policy`` (or the defaults) with ``changes`` applied and everything validated again.

    Fields of the schedule (and of the rollout, the suites and drift) may be given as ``{"schedule": {"first_at": …}}``
    or as ``{"schedule.first_at": …}``; those left out keep their value.

    Raises:
        PolicyError: a field is unknown, or a value is outside its range or does not fit the other values.
    """
    document: dict[str, Any] = policy.to_document() if policy is not None else {}
    parts: dict[str, dict[str, Any]] = {name: dict(document.pop(name, {})) for name in _PARTS}
    for name, value in changes.items():
        part, _, field = name.partition(".")
        if name in parts and isinstance(
            value, Mapping | Schedule | RolloutPolicy | PublicSuites | DriftPolicy
        ):
            parts[name] |= dict(value)
        elif part in parts and field:
            parts[part][field] = value
        else:
            document[name] = value
    return TenantPrivacyPolicy.from_document({**parts, **document})
