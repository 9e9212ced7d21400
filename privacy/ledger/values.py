"""What goes into the ledger's verbs and what comes out, as frozen values."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from privacy.accounting.filters import BudgetCaps, checked_target
from privacy.guarantee import unit_of_chain
from privacy.mechanisms.documents import Mechanism
from privacy.mechanisms.private_read import ReadPurpose

_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_KEY: Final = re.compile(r"[0-9a-f]{64}")


class ReservationState(StrEnum):
    """The life of a reservation; everything but ``RESERVED`` and ``RELEASED`` is spent for good."""

    RESERVED = "reserved"
    RUNNING = "running"
    COMMITTED = "committed"
    FORFEITED = "forfeited"
    RELEASED = "released"


class AccountScope(StrEnum):
    """What an account limits."""

    LIFETIME = "lifetime"
    PERIOD = "period"
    POPULATION = "population"


@dataclass(frozen=True, kw_only=True)
class PopulationCap:
    """A cap over several tenants whose users may be the same, linkable persons.

    Each tenant of the population charges the shared account in full, because nobody knows (or may know) who
    is in several of them.
    """

    population_id: str
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.population_id):
            raise ValueError(
                "population_id is not a slug of lower-case letters, digits and dashes, at most 63"
            )
        checked_target(self.epsilon, self.delta, "population")


@dataclass(frozen=True, kw_only=True)
class RunBinding:
    """Which run a reservation pays for; it stands in the chain, so nothing else can be run on the same charge.

    Attributes:
        plan_digest: digest of the plan that is run.
        terms_digest: digest of everything the round was frozen to, the plan included.
        receipt_key: public Ed25519 key (raw, 64 hex digits) that signs what the run measured of itself; the
            secret half is derived from the round's seed, which exists before anything is read.
    """

    plan_digest: str
    terms_digest: str
    receipt_key: str

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.plan_digest) or not _DIGEST.fullmatch(self.terms_digest):
            raise ValueError("plan_digest and terms_digest are sha256: and 64 hex digits")
        if not _KEY.fullmatch(self.receipt_key):
            raise ValueError("receipt_key is a raw Ed25519 public key as 64 hex digits")

    def to_document(self) -> dict[str, str]:
        """Return the JSON form; ``from_document`` reads it back to an equal value."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read ``to_document``'s form.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is not allowed.
        """
        return cls(**document)


@dataclass(frozen=True, kw_only=True)
class ReservationRequest:
    """Everything one round will read, asked for at once and before any of it is read.

    Attributes:
        tenant_id: whose users are charged.
        policy_version: the policy that the numbers come from.
        period_index: the period of the public clock; never derived from arrivals.
        purpose: of the round as a whole.
        mechanisms: worst case of every private read of the round.
        idempotency_key: same key, same request → the same reservation, charged once.
        epoch: lease epoch (fencing token) of the caller.
        caps: the policy's caps; open accounts keep the stricter of these and their own.
        population: cap over tenants with linkable users that the policy names; whatever else the tenant joined
            before is charged as well.
        binding: which run is paid for, where it is known in advance (training, comparisons).
        opened_for: public mechanisms that an account is suited to if this request opens it; without them, its own. It
            is no part of what is asked for.
    """

    tenant_id: str
    policy_version: int
    period_index: int
    purpose: ReadPurpose
    mechanisms: tuple[Mechanism, ...]
    idempotency_key: str
    epoch: int
    caps: BudgetCaps
    population: PopulationCap | None = None
    binding: RunBinding | None = None
    opened_for: tuple[Mechanism, ...] = ()

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.tenant_id):
            raise ValueError("tenant_id is not a slug of lower-case letters, digits and dashes, at most 63")
        if not self.mechanisms:
            raise ValueError("mechanisms is empty; a reservation names every private read of the round")
        if any(one.unit is not unit_of_chain(self.tenant_id) for one in self.mechanisms):
            raise ValueError(
                "mechanisms protect another unit than the account; users and tenants are never composed"
            )
        if not 1 <= len(self.idempotency_key) <= 128:
            raise ValueError("idempotency_key is empty or longer than 128 characters")
        if self.epoch < 0 or self.period_index < 0 or self.policy_version < 0:
            raise ValueError("epoch, period_index and policy_version are at least 0")


@dataclass(frozen=True, kw_only=True)
class DrawRecord:
    """What fixes a run's output: with all three equal, running again is the same sample and costs nothing.

    Attributes:
        seed_commitment: digest of the secret noise key.
        data_digest: digest of the training snapshot.
        code_digest: digest of everything else that shapes the output (plan, code, base model, kind of
            device).
    """

    seed_commitment: str
    data_digest: str
    code_digest: str

    def __post_init__(self) -> None:
        for name in ("seed_commitment", "data_digest", "code_digest"):
            if not 1 <= len(getattr(self, name)) <= 128:
                raise ValueError(f"{name} is empty or longer than 128 characters")


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A reservation as the ledger holds it."""

    reservation_id: str
    tenant_id: str
    period_index: int
    policy_version: int
    purpose: ReadPurpose
    state: ReservationState
    epoch: int
    idempotency_key: str
    mechanisms: tuple[Mechanism, ...]
    binding: RunBinding | None = None
    draw: DrawRecord | None = None
    artifact_digest: str | None = None
    reason: str | None = None


class RecoveryDecision(StrEnum):
    """What a new lease holder may do, decided from the ledger alone."""

    START = "start"  # nothing was read: start it under the new epoch, or release it
    RETRY = "retry"  # a draw is recorded: repeat it with the same seed, data and code (free), or forfeit
    FORFEITED = "forfeited"  # it ran without a recorded draw: spent, now closed
    DONE = "done"  # committed: publish the recorded artifact again if need be (free)
    CLOSED = "closed"  # forfeited or released earlier: a new reservation is needed


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """A recovery decision and the reservation after it."""

    decision: RecoveryDecision
    reservation: Reservation


@dataclass(frozen=True, kw_only=True)
class SpendView:
    """What one tenant spent, for a period and for its lifetime.

    ``*_epsilon`` are ε of everything charged at the account's δ, at the best order of the grid: proved for
    parameters fixed in advance, and never above the cap, which holds under adaptive parameters too.
    ``*_used`` is the share of the filter's budget at its frozen order: admission stops at 1. A cap is None
    while no account is open and no policy's caps were given. ``population_*`` are the largest of the populations that
    the tenant joined, ε at the same δ; without one they are 0 and None. ``selection_delta`` is what selections took of
    the lifetime's δ, which is in every ε here, and ``selection_cap`` the most that they may.
    """

    tenant_id: str
    period_index: int
    period_epsilon: float
    period_cap: float | None
    period_used: float
    lifetime_epsilon: float
    lifetime_cap: float | None
    lifetime_used: float
    delta: float | None
    releases: int
    reservations: dict[ReservationState, int] = field(default_factory=dict)
    population_epsilon: float = 0.0
    population_cap: float | None = None
    selection_delta: float = 0.0
    selection_cap: float | None = None
