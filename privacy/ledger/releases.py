"""Released manifests against the ledger: what was published must be what was charged, run and measured.

A manifest is signed, copied to every server and kept by whoever read its event. It names the entry that committed its
charge by its digest, so it anchors the chain outside the database: a chain that was rebuilt does not hold the entry any
more. The checks read plain JSON and share no code with the side that publishes.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.accounting.composition import best_epsilon, total_curve
from privacy.canonical import canonical_json
from privacy.ledger.findings import Finding, FindingCode
from privacy.ledger.values import ReservationState
from privacy.mechanisms.private_read import ReadPurpose

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from privacy.ledger.recompute import ReplayedReservation
    from privacy.mechanisms.documents import Mechanism

UNCHARGED: Final = (
    "public_data",
    "post_processing",
)  # what reads no user's data; its manifest names no charge
_NUMBERS: Final = ("noise_multiplier", "sample_rate", "steps", "clipping_norm", "contribution_bound")
_TOLERANCE: Final = 1e-8  # two machines' mathematical libraries may differ in the last digits


@dataclass
class ReleaseCheck:
    """Checks manifests one by one; ``findings`` grows with every mismatch.

    Attributes:
        reservations: of the replayed chains, by id.
        findings: what was found.
        whole: whether the chains are those of all tenants, so that every charge must be in them.
        manifests: how many were looked at.
        receipts: how many of them carry a receipt that agrees.
        unbound: how many were charged before reservations named their run, or are made of released adapters alone.
    """

    reservations: Mapping[str, ReplayedReservation]
    findings: list[Finding]
    whole: bool
    manifests: int = 0
    receipts: int = 0
    unbound: int = 0
    _published: Counter[str] = field(default_factory=Counter)
    _epsilons: dict[tuple[tuple[Mechanism, ...], float], float] = field(default_factory=dict)

    def check(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        """Check each manifest against the reservation that it names."""
        for manifest in manifests:
            self.manifests += 1
            try:
                self._check(manifest)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._note(None, f"a manifest cannot be read ({type(error).__name__}: {error})")

    def require_readings(self, stored: Mapping[str, str]) -> None:
        """Note every reading of drift or choice that is not what was committed, and every charge without its own.

        Args:
            stored: digests of the released histograms and choices, by their reservations.
        """
        for reservation_id, digest in sorted(stored.items()):
            reservation = self.reservations.get(reservation_id)
            if reservation is None:
                if self.whole:
                    self._note(
                        None, f"a reading or choice names reservation {reservation_id}, which is not there"
                    )
            elif reservation.artifact_digest != digest:
                tenant = str(reservation.request["tenant_id"])
                found = _reading(reservation) or "reading"
                self._note(tenant, f"the {found} of reservation {reservation_id} is not what was committed")
        for reservation_id, reservation in sorted(self.reservations.items()):
            what = _reading(reservation)
            if what and reservation.artifact_digest and reservation_id not in stored:
                tenant = str(reservation.request["tenant_id"])
                self._note(tenant, f"what reservation {reservation_id} paid for has no {what}")

    def require_published(self, registered: Collection[str]) -> None:
        """Note every charge whose artifact has no version among the reservations that the registry names."""
        for reservation_id, reservation in sorted(self.reservations.items()):
            if _reading(reservation):
                continue
            if reservation.artifact_digest is not None and reservation_id not in registered:
                self._note(
                    str(reservation.request["tenant_id"]),
                    f"what reservation {reservation_id} paid for has no version",
                )

    def _check(self, manifest: Mapping[str, Any]) -> None:
        privacy, name = manifest["privacy"], str(manifest["served_name"])
        reservation = self.reservations.get(privacy["reservation_id"])
        if reservation is None:
            if manifest["scope"] == "tenant" and privacy["mechanism"] not in UNCHARGED and self.whole:
                self._note(None, f"{name}: the ledger has no reservation for it")
            else:
                self.unbound += 1
            return
        tenant = str(reservation.request["tenant_id"])
        self._published[privacy["reservation_id"]] += 1
        if self._published[privacy["reservation_id"]] > 1:
            self._note(tenant, f"{name}: two versions were published on one charge")
        for text in self._departures(manifest, privacy, reservation):
            self._note(tenant, f"{name}: {text}")
        self._check_receipt(name, tenant, privacy, reservation)

    def _departures(
        self, manifest: Mapping[str, Any], privacy: Mapping[str, Any], reservation: ReplayedReservation
    ) -> list[str]:
        found = []
        if reservation.committed_as is None or reservation.committed_as != privacy["ledger_entry_hash"]:
            found.append(
                "its ledger entry is not in the chain, which was rebuilt, or the manifest is of another ledger"
            )
        if reservation.state is not ReservationState.COMMITTED:
            found.append(f"its reservation is {reservation.state.value}")
        if reservation.artifact_digest not in (None, manifest["lora"]["tensor_digest"]) and (
            manifest["scope"] == "tenant"
        ):
            found.append("its weights are not those that were committed")
        charged = _charged(reservation, privacy["mechanism"])
        if charged is None:
            found.append(f"its mechanism {privacy['mechanism']} was not charged")
        else:
            found += [
                f"{number} is {privacy[number]} in the manifest and {charged[number]} in the charge"
                for number in _NUMBERS
                if charged.get(number) is not None and charged[number] != privacy[number]
            ]
        epsilon = self._epsilon(reservation.mechanisms, privacy["delta"])
        if not _close(epsilon, privacy["release_epsilon"]) and manifest["scope"] == "tenant":
            found.append(
                f"its epsilon is {epsilon:.6g} by the charge and {privacy['release_epsilon']:.6g} by itself"
            )
        if reservation.lifetime is not None:
            curve, delta = reservation.lifetime
            spent = best_epsilon(curve, delta)[0]
            # More may be stated: a population's account spans the chains of several tenants.
            stated = privacy["cumulative_epsilon"]
            if delta > privacy["delta"] or (spent > stated and not _close(spent, stated)):
                found.append(
                    f"its cumulative epsilon is {spent:.6g} at delta {delta:g} by the ledger and only "
                    f"{stated:.6g} at {privacy['delta']:g} by itself"
                )
        return found

    def _check_receipt(
        self, name: str, tenant: str, privacy: Mapping[str, Any], reservation: ReplayedReservation
    ) -> None:
        binding = reservation.request["binding"]
        if binding is None:
            self.unbound += 1
            return
        if binding["plan_digest"] != privacy["plan_digest"]:
            self._note(tenant, f"{name}: its plan is not the one that was reserved for")
        text = _receipt_departure(
            privacy.get("receipt"), binding, _charged(reservation, privacy["mechanism"])
        )
        if text is None:
            self.receipts += 1
        else:
            self.findings.append(Finding(FindingCode.RECEIPT, tenant, None, f"{name}: {text}"))

    def _epsilon(self, mechanisms: tuple[Mechanism, ...], delta: float) -> float:
        key = (mechanisms, delta)
        if key not in self._epsilons:
            self._epsilons[key] = best_epsilon(total_curve(mechanisms), delta)[0]
        return self._epsilons[key]

    def _note(self, tenant: str | None, text: str) -> None:
        self.findings.append(Finding(FindingCode.MANIFEST, tenant, None, text))


_READINGS: Final = {
    ReadPurpose.DRIFT.value: "reading of drift",
    ReadPurpose.SELECTION.value: "choice of a template",
}


def _reading(reservation: ReplayedReservation) -> str | None:
    """Say what a reservation pays for of which no version comes; None where one does."""
    return _READINGS.get(str(reservation.request["purpose"]))


def _charged(reservation: ReplayedReservation, kind: str) -> dict[str, Any] | None:
    return next((one for one in reservation.mechanism_documents if one["type"] == kind), None)


def _receipt_departure(
    signed: Mapping[str, Any] | None, binding: Mapping[str, str], charged: Mapping[str, Any] | None
) -> str | None:
    """Say in what a receipt differs from what was charged, or why it proves nothing; None where it agrees."""
    if signed is None:
        return "the run gave no receipt, though its reservation asks for one"
    receipt = signed["receipt"]
    try:
        raw = base64.b64decode(signed["signature"], validate=True)
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(binding["receipt_key"]))
        key.verify(raw, canonical_json(receipt))
    except (InvalidSignature, binascii.Error, ValueError):
        return "its receipt is not signed with the key that was reserved"
    if receipt["plan_digest"] != binding["plan_digest"]:
        return "its receipt is of another plan than was reserved for"
    if receipt["mechanism"] != charged:
        return "the mechanism that was measured is not the one that was charged"
    if charged is not None and receipt["steps"] != charged["steps"]:
        return f"{receipt['steps']} steps were counted and {charged['steps']} charged"
    failed = sorted(
        check for check, passed in receipt.items() if check.endswith("_ok") and passed is not True
    )
    return f"its receipt says that {', '.join(failed)} failed" if failed else None


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _TOLERANCE * max(1.0, abs(one))
