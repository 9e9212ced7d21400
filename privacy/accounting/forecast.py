"""The budget planner: what can be afforded, at what noise, and whether a release would still say anything.

All numbers are public: the policy, the clock, and the curves charged so far. Costs are those of the
ledger's own filters, so a forecast of n more releases is a promise about admission as long as nothing else
is charged.

Utility is judged by one number, the clarity of a release: the signal-to-noise of its summed gradients,

    S = N·ρ·μ/√d,   μ = sample_rate·√steps / noise_multiplier,

with N declared users, ρ the alignment of clipped user gradients and d trained parameters.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from privacy.accounting.calibration import (
    LARGEST_NOISE_MULTIPLIER,
    calibrate,
    least_noise,
    release_curve,
    schedule_of,
)
from privacy.accounting.composition import best_epsilon, curve_of, total_curve
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import AccountSettings, PrivacyFilter
from privacy.errors import CalibrationError, PolicyError
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.policy.values import TenantPrivacyPolicy, amended

if TYPE_CHECKING:
    from privacy.accounting.calibration import PlannedSchedule

# What a release trains by default: rank-16 cores of the last block's three feed-forward layers.
DEFAULT_PARAMETERS: Final = 16 * 16 * 3
ALIGNMENT: Final = 0.55  # of clipped user gradients in the public metric, late in a release
SMALLEST_CLARITY: Final = 0.3
MOST_RELEASES: Final = 1_000_000  # "no limit in sight"


@dataclass(frozen=True, kw_only=True)
class SpentBudget:
    """What is charged so far; a filter is None while its account is not open.

    ``readings`` and ``readings_in_period`` are how many readings of drift are in the curves.
    """

    lifetime: PrivacyFilter | None = None
    lifetime_curve: RdpCurve = dataclasses.field(default_factory=RdpCurve.zero)
    period: PrivacyFilter | None = None
    period_curve: RdpCurve = dataclasses.field(default_factory=RdpCurve.zero)
    readings: int = 0
    readings_in_period: int = 0

    def with_readings(self, schedule: PlannedSchedule) -> tuple[RdpCurve, RdpCurve, RdpCurve]:
        """Return what is charged once all planned readings of drift are: ever, in this period, in one to come.

        A period to come also has the comparisons that may slip into it from the one before.
        """
        slipped = total_curve(schedule.later) * schedule.slipped
        if schedule.reading is None:
            return self.lifetime_curve, self.period_curve, slipped
        one = curve_of(schedule.reading)
        left = max(0, schedule.readings - self.readings)
        left_now = min(left, max(0, schedule.readings_per_period - self.readings_in_period))
        return (
            self.lifetime_curve + one * left,
            self.period_curve + one * left_now,
            one * min(left, schedule.readings_per_period) + slipped,
        )


class Recipe(Protocol):
    """What a release does as often as its noise says: a policy or a plan."""

    @property
    def steps(self) -> int:
        """Return how many steps it takes."""

    @property
    def sample_rate(self) -> float:
        """Return with what probability a user takes part in one."""


@dataclass(frozen=True, kw_only=True)
class ClarityRule:
    """When a release is worth its budget (see the module's S).

    Attributes:
        parameters: trained parameters d.
        alignment: ρ.
        smallest: below this S nothing is trained, unless the release's vote on style leads it.
    """

    parameters: int = DEFAULT_PARAMETERS
    alignment: float = ALIGNMENT
    smallest: float = SMALLEST_CLARITY


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What one recipe can still do.

    ``releases_left`` counts from now until the lifetime cap at the scheduled cadence, never more per period
    than the period cap admits; ``exhausted_at`` is the first scheduled release that would be refused.
    """

    name: str
    noise_multiplier: float
    release_epsilon: float
    releases_left_in_period: int
    releases_per_period: int
    releases_left: int
    exhausted_at: datetime | None
    clarity: float
    declines: bool

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        exhausted = self.exhausted_at.isoformat() if self.exhausted_at else None
        document = {**dataclasses.asdict(self), "exhausted_at": exhausted}
        return {"signal" if name == "clarity" else name: value for name, value in document.items()}


def releases_that_fit(opened: PrivacyFilter, spent: RdpCurve, release: RdpCurve) -> int:
    """Return how many more releases of this cost, its votes' δ included, a filter admits."""
    selections = opened.selection_budget - spent.delta
    if selections < 0:
        return 0
    rooms = ((opened.budget(order) - spent.at(order)) // release.at(order) for order in opened.orders)
    room = max(0, *rooms)
    if release.delta:
        room = min(room, selections // release.delta)
    return min(MOST_RELEASES, room)


def outlook(
    name: str,
    policy: TenantPrivacyPolicy,
    noise_multiplier: float,
    *,
    spent: SpentBudget,
    rule: ClarityRule,
    now: datetime,
    settings: AccountSettings | None = None,
    schedule: PlannedSchedule | None = None,
) -> Outlook:
    """Return what a policy's recipe with this noise can still do after what was spent.

    Open accounts keep their caps and orders, narrowed to the policy's caps; accounts of later periods are
    opened with the policy's caps. ``schedule`` is what is planned if it is not what the policy says.
    """
    schedule = schedule or schedule_of(policy, settings)
    release = release_curve(schedule, noise_multiplier)
    lifetime, period, fresh = _filters(schedule, spent, release)
    ever, this_period, any_period = spent.with_readings(schedule)
    left_now = releases_that_fit(period, this_period, release)
    per_period = releases_that_fit(fresh, any_period, release)
    left_ever = releases_that_fit(lifetime, ever, release)
    left, exhausted_at = _along_the_schedule(policy, now, left_now, per_period, left_ever)
    expected = clarity(
        users=policy.declared_users,
        alignment=rule.alignment,
        mu=mu_of(policy, noise_multiplier),
        parameters=rule.parameters,
    )
    return Outlook(
        name=name,
        noise_multiplier=noise_multiplier,
        release_epsilon=best_epsilon(release, policy.lifetime_delta)[0],
        releases_left_in_period=min(left_now, left_ever),
        releases_per_period=per_period,
        releases_left=left,
        exhausted_at=exhausted_at,
        clarity=expected,
        declines=expected < rule.smallest
        and not any(isinstance(one, PartitionSelection) and one.leads for one in schedule.beside),
    )


def wish(
    policy: TenantPrivacyPolicy,
    *,
    releases: int,
    releases_per_period: int,
    spent: SpentBudget,
    settings: AccountSettings | None = None,
) -> PlannedSchedule:
    """Return a plan of so many *more* releases.

    Counts and votes are the policy's; for more than it plans they are noisier, so that together they take their shares
    of what is left.
    """
    used = 0.0
    if spent.lifetime is not None:
        opened = spent.lifetime.narrowed_to(policy.lifetime_epsilon, policy.lifetime_delta)
        used = min(0.999, opened.used_fraction(spent.lifetime_curve))
    whole = schedule_of(
        policy,
        settings,
        releases=max(policy.planned_releases, math.ceil(releases / (1 - used))),
        releases_per_period=releases_per_period,
    )
    return dataclasses.replace(whole, releases=releases)


def noise_for(
    policy: TenantPrivacyPolicy,
    *,
    releases: int,
    releases_per_period: int,
    spent: SpentBudget,
    settings: AccountSettings | None = None,
) -> float:
    """Return the smallest noise multiplier with which so many *more* releases fit into what is left.

    Raises:
        CalibrationError: the policy cannot be calibrated at all, or no multiplier in range is enough.
    """
    schedule = wish(
        policy, releases=releases, releases_per_period=releases_per_period, spent=spent, settings=settings
    )
    calibrate(schedule)  # refuses what no budget could make sound
    ever, this_period, any_period = spent.with_readings(schedule)

    def enough(noise_multiplier: float) -> bool:
        release = release_curve(schedule, noise_multiplier)
        lifetime, period, fresh = _filters(schedule, spent, release)
        return (
            releases_that_fit(lifetime, ever, release) >= releases
            and releases_that_fit(fresh, any_period, release) >= releases_per_period
            and releases_that_fit(period, this_period, release) >= 1
        )

    noise = least_noise(enough)
    if noise is None:
        raise CalibrationError(
            f"{releases} more releases ({releases_per_period} a period) do not fit into what is left of the budget "
            f"with a noise multiplier up to {LARGEST_NOISE_MULTIPLIER:g}; wish for fewer"
        )
    return noise


def what_if(
    policy: TenantPrivacyPolicy, *, spent: SpentBudget, rule: ClarityRule, now: datetime
) -> list[Outlook | tuple[str, str]]:
    """Return the outlooks of one change at a time, calibrated anew; (name, reason) where it is refused."""
    changes: list[tuple[str, dict[str, Any]]] = []
    for factor in (0.5, 2.0):
        changes += [
            (f"both ε caps × {factor:g}", _scaled(policy, factor, "period_epsilon", "lifetime_epsilon")),
            (f"sample rate × {factor:g}", {"sample_rate": min(1.0, policy.sample_rate * factor)}),
            (f"steps × {factor:g}", {"steps": max(1, round(policy.steps * factor))}),
            *(
                (
                    f"{name.replace('_', ' ')} × {factor:g}",
                    {name: max(1, round(getattr(policy, name) * factor))},
                )
                for name in ("planned_releases", "declared_users", "contribution_bound")
            ),
        ]
    results: list[Outlook | tuple[str, str]] = []
    for name, change in changes:
        try:
            changed = amended(policy, change)
            noise_multiplier = calibrate(schedule_of(changed))
        except (CalibrationError, PolicyError) as error:
            results.append((name, str(error)))
            continue
        results.append(outlook(name, changed, noise_multiplier, spent=spent, rule=rule, now=now))
    return results


def mu_of(recipe: Recipe, noise_multiplier: float) -> float:
    """Return μ of a release of so many steps at this rate, with this noise."""
    return math.sqrt(recipe.steps) * recipe.sample_rate / noise_multiplier


def clarity(*, users: int, alignment: float, mu: float, parameters: int) -> float:
    """Return S: the expected length of the summed signal over that of the summed noise (see the module)."""
    return users * alignment * mu / math.sqrt(parameters)


def _scaled(policy: TenantPrivacyPolicy, factor: float, *names: str) -> dict[str, Any]:
    return {name: getattr(policy, name) * factor for name in names}


def _filters(
    schedule: PlannedSchedule, spent: SpentBudget, release: RdpCurve
) -> tuple[PrivacyFilter, PrivacyFilter, PrivacyFilter]:
    """Return the filters of the lifetime, of the running period, and of a period still to come."""
    caps, settings = schedule.caps, schedule.settings

    def fresh(epsilon: float, delta: float) -> PrivacyFilter:
        return settings.opened(epsilon, delta, release)

    def current(opened: PrivacyFilter | None, epsilon: float, delta: float) -> PrivacyFilter:
        return fresh(epsilon, delta) if opened is None else opened.narrowed_to(epsilon, delta)

    return (
        current(spent.lifetime, caps.lifetime_epsilon, caps.lifetime_delta),
        current(spent.period, caps.period_epsilon, caps.period_delta),
        fresh(caps.period_epsilon, caps.period_delta),
    )


def _along_the_schedule(
    policy: TenantPrivacyPolicy, now: datetime, left_now: int, per_period: int, left_ever: int
) -> tuple[int, datetime | None]:
    """Walk the scheduled instants; return how many releases run and the first instant that is refused."""
    index = policy.schedule.due_index(now)
    instant = 0 if index is None else index + 1
    period = policy.period_index(now)
    room, left, lines = left_now, left_ever, len(policy.domains)
    for number in range(instant, instant + 100_000):
        at = policy.schedule.due_at(number)
        if policy.period_index(at) != period:
            period, room = policy.period_index(at), per_period
        if left <= 0 or (per_period == 0 and room <= 0):
            return left_ever - left, at
        ran = min(lines, room, left)
        room, left = room - ran, left - ran
        if at - now > timedelta(days=365 * 50):
            break
    return left_ever - left, None
