"""Meta starts that protect each tenant as a whole: one Gaussian mechanism per slot of a public schedule, charged.

The unit is a tenant with its released adapters. Its account is the ledger's chain of the fleet, with caps of its own;
no user's mechanism is ever charged there. Nothing but the noisy sum depends on which tenants take part: the shape, the
slots of the schedule, the normalizer and whether there is a result are public.

    reserve, start  →  read adapters, record the draw, publish, commit
    (txn)              (txn)

A crash between the two forfeits the slot's charge and the slot stays empty; the next slot is the next chance.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from personalization.adapters.manifest import PrivacyFacts, Scope
from personalization.errors import ArtifactError
from personalization.starts.averaging import TenantLevel, tenant_level_start
from personalization.starts.generations import grouped
from personalization.starts.meta_versions import ALL_DOMAINS, ensure_meta_line, meta_tenant
from personalization.starts.recipe import MetaRecipe
from personalization.starts.untrained import Untrained, UntrainedVersions
from privacy.accounting.calibration import calibrate_tenant_level
from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, best_epsilon, total_curve
from privacy.accounting.filters import BudgetCaps
from privacy.anchor.port import Unanchored
from privacy.canonical import digest_of, sha256_digest
from privacy.errors import BudgetExhaustedError
from privacy.guarantee import FLEET, NeighboringRelation, PrivacyUnit
from privacy.ledger import DrawRecord, ReservationRequest, ReservationState
from privacy.mechanisms.private_read import ReadPurpose
from privacy.noise.keystream import KeyUse, SecretStream, derive_key
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlmodel import Session

    from personalization.planning.plan import TrainingPlan
    from personalization.starts.averaging import Released
    from personalization.starts.generations import MetaStarts
    from personalization.starts.shop import Shop
    from privacy.anchor.port import Anchor
    from privacy.ledger import Ledger, Reservation
    from privacy.mechanisms.tenant_gaussian import TenantGaussian

_log = structlog.get_logger(__name__)
ACTOR = "meta"
MECHANISM = "tenant_gaussian"
SEED_BYTES = 32
PATIENCE_SECONDS = 600  # a slot that another process started is left alone for so long


@dataclass(frozen=True, kw_only=True)
class TenantLevelPolicy:
    """The fleet's public numbers.

    Attributes:
        declared_tenants: public lower bound on the tenants that take part; the normalizer.
        epsilon: most ε one tenant may lose over all meta starts.
        delta: its δ, below 1 ÷ declared tenants.
        planned_generations: meta starts over the lifetime, for which the noise is calibrated.
        every_seconds: length of a slot, counted from 1970-01-01T00:00:00Z; one meta start falls into each.
    """

    declared_tenants: int
    epsilon: float
    delta: float
    planned_generations: int
    every_seconds: int

    def __post_init__(self) -> None:
        checks = (
            ("declared_tenants", self.declared_tenants, self.declared_tenants >= 2, "at least 2"),
            (
                "delta",
                self.delta,
                0 < self.delta < 1 / self.declared_tenants,
                "above 0, below 1/declared_tenants",
            ),
            ("planned_generations", self.planned_generations, self.planned_generations >= 1, "at least 1"),
            ("every_seconds", self.every_seconds, self.every_seconds >= 1, "at least 1"),
        )
        for name, value, ok, allowed in checks:
            if not ok:
                raise ValueError(f"{name} is {value}; allowed is {allowed}")

    @property
    def caps(self) -> BudgetCaps:
        """The caps of the fleet's account; a slot may use all of it, the lifetime is what counts."""
        return BudgetCaps(
            period_epsilon=self.epsilon,
            period_delta=self.delta,
            lifetime_epsilon=self.epsilon,
            lifetime_delta=self.delta,
        )

    def slot(self, now: datetime) -> int:
        """Return the number of the slot that the public clock is in."""
        return int(now.timestamp()) // self.every_seconds


class TenantLevelStarts:
    """Makes the meta start of each slot.

    Args:
        shop: what versions are made with.
        ledger: the privacy ledger.
        meta: knows which adapters tenants share.
        plan: the one public shape.
        template: writes the adapter of the plan's shape that changes nothing under a directory.
        policy: the fleet's public numbers.
        recipe: its ``max_delta_norm`` bounds one tenant's adapter.
        anchor: holds the head of the fleet's ledger outside the database.
    """

    def __init__(
        self,
        shop: Shop,
        *,
        ledger: Ledger,
        meta: MetaStarts,
        plan: TrainingPlan,
        template: Callable[[TrainingPlan, Path], Path],
        policy: TenantLevelPolicy,
        recipe: MetaRecipe | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        self._engine = shop.engine
        self._artifacts = shop.artifacts
        self._anchor = anchor if anchor is not None else Unanchored()
        self._ledger = ledger
        self._versions = UntrainedVersions(shop)
        self._base_digest = shop.base.fingerprint().digest()
        self._meta = meta
        self._plan = plan
        self._template = template
        self._policy = policy
        self._recipe = recipe or MetaRecipe()
        self._done: int | None = None  # the slot that this process knows to be settled

    def refresh(self, *, now: datetime) -> str | None:
        """Make this slot's meta start if that is still to do; return its served name.

        Raises:
            CalibrationError: the planned meta starts do not fit into the fleet's budget.
            TrainingError: the template could not be made; nothing was reserved.
            ArtifactStoreAwayError: the artifact store takes no files; nothing was reserved.
        """
        slot = self._policy.slot(now)
        if slot == self._done:
            return None
        mechanism = calibrate_tenant_level(
            self._policy.caps,
            generations=self._policy.planned_generations,
            clipping_norm=self._recipe.max_delta_norm,
        )
        epoch = int(now.timestamp())
        self._anchor.check(FLEET)
        with transaction(self._engine) as session:
            if self._settled(session, slot, epoch):
                return None
        with tempfile.TemporaryDirectory(prefix="discreet-fleet-") as folder:
            template = self._template(self._plan, Path(folder))
            self._artifacts.ready()  # before budget is spent on what could not be stored
            try:
                with transaction(self._engine) as session:
                    reservation = self._reserve(session, mechanism, slot, epoch)
            except BudgetExhaustedError as error:
                _log.info("fleet_budget_exhausted", reason=str(error))
                self._done = slot
                return None
            if reservation is None:
                return None
            try:
                self._anchor.secure(FLEET)
                with transaction(self._engine) as session:
                    name = self._release(
                        session, reservation, mechanism, template, Path(folder), slot, epoch, now
                    )
            except Exception:
                with transaction(self._engine) as session:
                    self._ledger.forfeit(
                        session, reservation.reservation_id, epoch, "the meta start could not be made"
                    )
                raise
        self._done = slot
        _log.info("tenant_level_start_published", served_name=name)
        return name

    def _settled(self, session: Session, slot: int, epoch: int) -> bool:
        """Say whether nothing is to do for the slot; what was left behind in it by a crash is forfeited here."""
        known = self._ledger.find(session, FLEET, _key(slot))
        if known is None or known.state is ReservationState.RESERVED:
            return False
        if known.state is ReservationState.RUNNING:
            if epoch - known.epoch < PATIENCE_SECONDS:
                return True
            self._ledger.forfeit(session, known.reservation_id, epoch, "crashed before it was published")
        self._done = slot
        return True

    def _reserve(
        self, session: Session, mechanism: TenantGaussian, slot: int, epoch: int
    ) -> Reservation | None:
        """Reserve and start the slot's charge; None where the slot is settled or another process is at it."""
        if self._settled(session, slot, epoch):
            return None
        reservation = self._ledger.reserve(
            session,
            ReservationRequest(
                tenant_id=FLEET,
                policy_version=0,
                period_index=slot,
                purpose=ReadPurpose.META_START,
                mechanisms=(mechanism,),
                idempotency_key=_key(slot),
                epoch=epoch,
                caps=self._policy.caps,
            ),
        )
        return self._ledger.start(session, reservation.reservation_id, epoch)

    def _release(
        self,
        session: Session,
        reservation: Reservation,
        mechanism: TenantGaussian,
        template: Path,
        folder: Path,
        slot: int,
        epoch: int,
        now: datetime,
    ) -> str:
        owner = meta_tenant(self._base_digest, self._plan)
        released = self._released(session, owner)
        seed = secrets.token_bytes(SEED_BYTES)  # not kept: a lost slot is forfeited, never drawn again
        listed = "\n".join(sorted(one.version_id for one in released)).encode()
        inputs = hmac.new(derive_key(seed, KeyUse.DIGEST), listed, hashlib.sha256).hexdigest()
        recipe = digest_of([self._plan.digest(), mechanism.noise_multiplier, mechanism.clipping_norm])
        draw = DrawRecord(
            seed_commitment=sha256_digest(b"discreet fleet seed\0" + seed),
            data_digest=f"sha256:{inputs}",
            code_digest=recipe,
        )
        self._ledger.record_draw(session, reservation.reservation_id, epoch, draw)
        level = TenantLevel(
            noise_multiplier=mechanism.noise_multiplier,
            declared_tenants=self._policy.declared_tenants,
            stream=SecretStream(derive_key(seed, KeyUse.TENANTS)),
        )
        directory = folder / "start"
        tenant_level_start(released, self._recipe, level, template, directory)
        committed = self._ledger.commit(session, reservation.reservation_id, epoch, draw.data_digest)
        line = ensure_meta_line(session, owner, ALL_DOMAINS, now)
        row = self._versions.publish(
            session,
            line,
            Untrained(
                directory=directory,
                plan=self._plan,
                facts=self._facts(session, committed, mechanism),
                inputs=draw.data_digest,
                recipe=recipe,
                scope=Scope.META,
                actor=ACTOR,
                sentence="A meta start that protects each tenant as a whole was published.",
            ),
            period_index=slot,
            now=now,
        )
        return row.served_name

    def _released(self, session: Session, owner: str) -> list[Released]:
        group = grouped(self._meta.contributions(session)).get((owner, ALL_DOMAINS), [])
        found = []
        for one in group:
            try:
                found.append(self._meta.opened(one.released))
            except ArtifactError as error:  # it counts as zero: whether there is a result depends on nobody
                _log.warning("contribution_missing", code=error.code)
        return found

    def _facts(self, session: Session, reservation: Reservation, mechanism: TenantGaussian) -> PrivacyFacts:
        spend = self._ledger.spend(session, FLEET, reservation.period_index)
        return PrivacyFacts(
            unit=PrivacyUnit.TENANT.value,
            relation=NeighboringRelation.ADD_OR_REMOVE_ONE.value,
            mechanism=MECHANISM,
            accountant=f"{ACCOUNTANT} {ACCOUNTANT_VERSION}",
            release_epsilon=best_epsilon(total_curve((mechanism,)), self._policy.delta)[0],
            cumulative_epsilon=spend.lifetime_epsilon,
            target_epsilon=self._policy.epsilon if spend.lifetime_cap is None else spend.lifetime_cap,
            delta=self._policy.delta if spend.delta is None else spend.delta,
            noise_multiplier=mechanism.noise_multiplier,
            sample_rate=1.0,
            steps=1,
            clipping_norm=mechanism.clipping_norm,
            contribution_bound=1,
            minimum_cohort=0,
            reservation_id=reservation.reservation_id,
            ledger_entry_hash=self._ledger.entry_digest(session, reservation.reservation_id),
            plan_digest=self._plan.digest(),
        )


def _key(slot: int) -> str:
    return f"meta-start-{slot}"
