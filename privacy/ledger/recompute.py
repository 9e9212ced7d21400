"""Replays the entries of exported chains into accounts and reservations, noting every mismatch on the way.

Longer than 400 lines, because what each kind of entry means is to be read in one place.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, total_curve
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import FilterRule, PrivacyFilter
from privacy.errors import LedgerIntegrityError, UnknownMechanismError
from privacy.guarantee import unit_of_chain
from privacy.ledger.chain import GENESIS_DIGEST, EntryKind, digest_of, entry_digest
from privacy.ledger.findings import Finding, FindingCode
from privacy.ledger.values import AccountScope, ReservationState
from privacy.mechanisms.documents import from_document

if TYPE_CHECKING:
    from privacy.mechanisms.documents import Mechanism

# Two machines' mathematical libraries may differ in the last digits; more than this is a wrong curve.
_RELATIVE_TOLERANCE: Final = 1e-8

# What accounts that were opened before there were selections do not name.
_FROM_BEFORE: Final = {"selection_share": 0.0}

_POPULATION: Final = f"{AccountScope.POPULATION.value}:"
_HASHED: Final = (
    "tenant_id",
    "sequence",
    "kind",
    "recorded_at",
    "reservation_id",
    "document",
    "previous_digest",
)
_STATE_AFTER: Final = {
    EntryKind.STARTED: ({ReservationState.RESERVED}, ReservationState.RUNNING),
    EntryKind.DRAWN: ({ReservationState.RUNNING}, ReservationState.RUNNING),
    EntryKind.LOOKED: ({ReservationState.RUNNING}, ReservationState.RUNNING),
    EntryKind.COMMITTED: ({ReservationState.RUNNING}, ReservationState.COMMITTED),
    EntryKind.FORFEITED: (
        {ReservationState.RESERVED, ReservationState.RUNNING},
        ReservationState.FORFEITED,
    ),
    EntryKind.RELEASED: ({ReservationState.RESERVED}, ReservationState.RELEASED),
}


@dataclass
class ReplayedAccount:
    """An account as the entries add it up."""

    account_id: str
    scope: AccountScope
    filter: PrivacyFilter
    opened: dict[str, Any]
    entry: dict[str, Any] = field(default_factory=dict)  # that last changed the curve
    curve: RdpCurve = field(default_factory=RdpCurve.zero)
    mechanisms: Counter[Mechanism] = field(default_factory=Counter)


@dataclass
class ReplayedReservation:
    """A reservation as the entries leave it."""

    state: ReservationState
    epoch: int
    curve: RdpCurve
    accounts: list[str]
    mechanisms: tuple[Mechanism, ...]
    mechanism_documents: list[dict[str, Any]]
    request: dict[str, Any]
    draw: dict[str, Any] | None = None
    looks: set[int] = field(default_factory=set)
    artifact_digest: str | None = None
    reason: str | None = None
    committed_as: str | None = None  # digest of the entry that committed it, to which manifests refer
    lifetime: tuple[RdpCurve, float] | None = None  # what its tenant had spent then, and at which δ


class Replay:
    """Takes an export's lines in order; ``findings`` grows with every mismatch."""

    def __init__(self, findings: list[Finding]) -> None:
        self._findings = findings
        self._accounts: dict[str, ReplayedAccount] = {}
        self._reservations: dict[str, ReplayedReservation] = {}
        self._member_rows: set[tuple[str, str]] = set()
        self._members: dict[str, set[str]] = {}  # populations' accounts that each tenant has joined
        self._carried: list[tuple[str, RdpCurve, Counter[Mechanism]]] = []
        self._account_rows: dict[str, dict[str, Any]] = {}
        self._reservation_rows: dict[str, dict[str, Any]] = {}
        self._tenant: str = ""
        self._head: dict[str, Any] = {}
        self._sequence, self._digest = 0, GENESIS_DIGEST
        self.mechanisms: Counter[Mechanism] = Counter()
        self.digests: dict[str, set[str]] = {}

    def all_accounts(self) -> list[ReplayedAccount]:
        """Return the accounts, by id."""
        return [self._accounts[key] for key in sorted(self._accounts)]

    @property
    def reservations(self) -> dict[str, ReplayedReservation]:
        """The reservations, by id."""
        return self._reservations

    def begin_tenant(self, document: dict[str, Any]) -> None:
        """Start a tenant's chain."""
        self._end_chain()
        self._tenant, self._head = str(document.get("tenant_id")), dict(document.get("head") or {})
        self._sequence, self._digest = 0, GENESIS_DIGEST
        self.digests.setdefault(self._tenant, set())

    def entry(self, row: dict[str, Any]) -> None:
        """Check an entry's place in the chain, then apply what it says."""
        sequence = row.get("sequence")
        if row.get("tenant_id") != self._tenant or sequence != self._sequence + 1:
            self._note(FindingCode.GAP, f"entry {sequence} follows entry {self._sequence}")
        self._sequence = sequence if isinstance(sequence, int) else self._sequence + 1
        if row.get("previous_digest") != self._digest:
            self._note(FindingCode.CHAIN, "it does not continue the entry before it")
        try:
            recomputed = entry_digest(**{name: row[name] for name in _HASHED})
        except KeyError as error:
            self._note(FindingCode.CHAIN, f"the field {error} is missing")
            return
        if recomputed != row.get("digest"):
            self._note(FindingCode.CHAIN, "its content does not match its digest")
        self._digest = str(row.get("digest"))
        self.digests[self._tenant].add(self._digest)
        try:
            self._apply(EntryKind(row["kind"]), row["reservation_id"], json.loads(row["document"]))
        except UnknownMechanismError as error:
            self._note(FindingCode.UNKNOWN_EVENT, str(error))
        except (LedgerIntegrityError, ValueError, KeyError, TypeError) as error:
            self._note(
                FindingCode.UNKNOWN_EVENT, f"the entry cannot be read ({type(error).__name__}: {error})"
            )

    def account_row(self, row: dict[str, Any]) -> None:
        """Remember an account's row for the comparison at the end."""
        self._account_rows[str(row.get("account_id"))] = row

    def member_row(self, row: dict[str, Any]) -> None:
        """Remember that a tenant's row says it is in a population, for the comparison at the end."""
        self._member_rows.add((str(row.get("tenant_id")), f"{_POPULATION}{row.get('population_id')}"))

    def reservation_row(self, row: dict[str, Any]) -> None:
        """Remember a reservation's row for the comparison at the end."""
        self._reservation_rows[str(row.get("reservation_id"))] = row

    def finish(self, *, all_tenants: bool) -> None:
        """Compare the rows that admission trusts with what the entries add up to."""
        self._end_chain()
        self._tenant, self._sequence = "", 0
        joined = {(tenant, account_id) for tenant, ids in self._members.items() for account_id in ids}
        for tenant, account_id in sorted(joined ^ self._member_rows):
            self._note(FindingCode.ROW, f"tenant {tenant} and account {account_id}: row and entries differ")
        self._sum_populations()
        for account_id in sorted(self._accounts.keys() | self._account_rows.keys()):
            account, row = self._accounts.get(account_id), self._account_rows.get(account_id)
            if account_id.startswith(_POPULATION) and not all_tenants:
                continue  # other tenants of the population are not in this export
            if account is None or row is None:
                self._note(
                    FindingCode.ROW, f"account {account_id} has no {'row' if account else 'opening entry'}"
                )
                continue
            if account.scope is AccountScope.POPULATION and not account.filter.admits(
                account.curve, RdpCurve.zero()
            ):
                self._note(FindingCode.OVERSPEND, f"account {account_id} is above its cap")
            expected = {**account.opened, **account.entry, "curve": account.curve.to_document()}
            row = {**_FROM_BEFORE, **row}
            if expected != {name: row.get(name) for name in expected}:
                self._note(FindingCode.ROW, f"the row of account {account_id} differs from its entries")
        for reservation_id in sorted(self._reservations.keys() | self._reservation_rows.keys()):
            self._compare_reservation(reservation_id)

    def _sum_populations(self) -> None:
        for account_id, curve, mechanisms in self._carried:
            if (account := self._accounts.get(account_id)) is not None:
                account.curve += curve
                account.mechanisms.update(mechanisms)
        for reservation in self._reservations.values():
            if reservation.state is ReservationState.RELEASED:
                continue
            for account_id in reservation.accounts:
                account = self._accounts.get(account_id)
                if account is not None and account.scope is AccountScope.POPULATION:
                    account.curve += reservation.curve
                    account.mechanisms.update(reservation.mechanisms)

    def _compare_reservation(self, reservation_id: str) -> None:
        replayed, row = self._reservations.get(reservation_id), self._reservation_rows.get(reservation_id)
        if replayed is None or row is None:
            self._note(
                FindingCode.ROW, f"reservation {reservation_id} has no {'row' if replayed else 'entries'}"
            )
            return
        expected = {
            **replayed.request,
            "state": replayed.state.value,
            "epoch": replayed.epoch,
            "curve": replayed.curve.to_document(),
            "accounts": replayed.accounts,
            "mechanisms": replayed.mechanism_documents,
            "artifact_digest": replayed.artifact_digest,
            "reason": replayed.reason,
            **(replayed.draw or {"seed_commitment": None, "data_digest": None, "code_digest": None}),
        }
        changed = sorted(name for name, value in expected.items() if row.get(name) != value)
        if changed:
            self._note(
                FindingCode.ROW,
                f"reservation {reservation_id} differs from its entries in {', '.join(changed)}",
            )

    def _end_chain(self) -> None:
        if self._tenant and self._head != {"sequence": self._sequence, "digest": self._digest}:
            self._note(FindingCode.HEAD, f"the chain ends at entry {self._sequence}, its head says otherwise")

    def _note(self, code: FindingCode, text: str) -> None:
        self._findings.append(Finding(code, self._tenant or None, self._sequence or None, text))

    def _apply(self, kind: EntryKind, reservation_id: str | None, document: dict[str, Any]) -> None:
        if kind is EntryKind.ACCOUNT_OPENED:
            self._open(document)
        elif kind is EntryKind.RESERVED:
            self._reserve(str(reservation_id), document)
        elif kind is EntryKind.POPULATION_JOINED:
            self._join(document)
        elif kind is EntryKind.RESTORED:
            self._restore(document)
        else:
            self._advance(kind, str(reservation_id), document)

    def _open(self, document: dict[str, Any]) -> None:
        opened = {**_FROM_BEFORE, **document["account"]}
        account_id = opened["account_id"]
        if account_id in self._accounts:
            self._note(FindingCode.LIFECYCLE, f"account {account_id} is opened twice")
            return
        scope = AccountScope(opened["scope"])
        owner = None if scope is AccountScope.POPULATION else self._tenant
        if opened["tenant_id"] != owner:
            self._note(FindingCode.LIFECYCLE, f"account {account_id} belongs to another tenant")
        self._accounts[account_id] = ReplayedAccount(
            account_id=account_id,
            scope=scope,
            filter=PrivacyFilter(
                epsilon=opened["epsilon"],
                delta=opened["delta"],
                rule=FilterRule(opened["rule"]),
                orders=tuple(opened["orders"]),
                selection_share=opened["selection_share"],
            ),
            opened=opened,
        )
        self._check_digests(document, [account_id])

    def _join(self, document: dict[str, Any]) -> None:
        account_id, carried = document["account"], RdpCurve.from_document(document["carried"])
        members = self._members.setdefault(self._tenant, set())
        if account_id in members or not account_id.startswith(_POPULATION):
            self._note(FindingCode.LIFECYCLE, f"account {account_id} is joined twice or is no population's")
        members.add(account_id)
        lifetime = self._accounts.get(f"lifetime:{self._tenant}")
        if carried != (RdpCurve.zero() if lifetime is None else lifetime.curve):
            self._note(FindingCode.CURVE, f"account {account_id} is joined without all that was spent before")
        self._carried.append(
            (account_id, carried, Counter() if lifetime is None else Counter(lifetime.mechanisms))
        )

    def _restore(self, document: dict[str, Any]) -> None:
        """Add what a chain that was set back forfeited; the entry that was anchored is lost and counts as known."""
        self.digests[self._tenant].add(str(document["anchored"]["digest"]))
        for account_id, charged in document["charged"].items():
            curve, account = RdpCurve.from_document(charged), self._accounts.get(account_id)
            if account_id.startswith(_POPULATION):
                self._carried.append((account_id, curve, Counter()))
            elif account is None:
                self._note(FindingCode.LIFECYCLE, f"account {account_id} is charged before it is opened")
            else:
                account.curve += curve
        self._check_digests(document, list(document["charged"]))

    def _reserve(self, reservation_id: str, document: dict[str, Any]) -> None:
        curve = RdpCurve.from_document(document["curve"])
        if reservation_id in self._reservations:
            self._note(FindingCode.LIFECYCLE, "a reservation is made twice")
            return
        mechanisms = tuple(from_document(one) for one in document["mechanisms"])
        if document["accountant"] != {"name": ACCOUNTANT, "version": ACCOUNTANT_VERSION}:
            self._note(
                FindingCode.CURVE, f"the curve was made by another accountant, {document['accountant']}"
            )
        elif not _close(curve, total_curve(mechanisms)):
            self._note(FindingCode.CURVE, "the stored curve is not the one of its mechanisms")
        if any(one.unit is not unit_of_chain(self._tenant) for one in mechanisms):
            self._note(FindingCode.LIFECYCLE, "a mechanism is charged to an account of another privacy unit")
        self.mechanisms.update(mechanisms)
        self._reservations[reservation_id] = ReplayedReservation(
            state=ReservationState.RESERVED,
            epoch=document["epoch"],
            curve=curve,
            accounts=document["accounts"],
            mechanisms=mechanisms,
            mechanism_documents=document["mechanisms"],
            request={
                "tenant_id": self._tenant,
                **{
                    name: document[name]
                    for name in (
                        "period_index",
                        "policy_version",
                        "purpose",
                        "idempotency_key",
                        "request_digest",
                    )
                },
                "binding": document.get("binding"),
            },
        )
        charged = [f"lifetime:{self._tenant}", f"period:{self._tenant}:{document['period_index']}"]
        if document["accounts"][-2:] != charged:
            self._note(FindingCode.LIFECYCLE, "the reservation is not charged to its lifetime and period")
        if set(document["accounts"][:-2]) != self._members.get(self._tenant, set()):
            self._note(
                FindingCode.LIFECYCLE, "the reservation is not charged to the populations of its tenant"
            )
        for account_id in document["accounts"]:
            if account_id.startswith(_POPULATION):
                continue  # charged from several chains: summed up in ``finish``
            account = self._accounts.get(account_id)
            if account is None:
                self._note(FindingCode.LIFECYCLE, f"account {account_id} is charged before it is opened")
                continue
            if not account.filter.admits(account.curve, curve):
                self._note(FindingCode.OVERSPEND, f"account {account_id} is charged above its cap")
            account.curve += curve
            account.mechanisms.update(mechanisms)
        self._check_digests(document, document["accounts"])

    def _advance(self, kind: EntryKind, reservation_id: str, document: dict[str, Any]) -> None:
        reservation = self._reservations.get(reservation_id)
        if reservation is None or reservation.request["tenant_id"] != self._tenant:
            self._note(FindingCode.LIFECYCLE, f"{kind.value} without a reservation of this tenant")
            return
        epoch = document["epoch"]
        if epoch < reservation.epoch:
            self._note(FindingCode.FENCING, f"epoch {epoch} wrote after epoch {reservation.epoch}")
        reservation.epoch = max(epoch, reservation.epoch)
        if kind is EntryKind.RECOVERED:
            return
        allowed, after = _STATE_AFTER[kind]
        if reservation.state not in allowed:
            self._note(FindingCode.LIFECYCLE, f"{kind.value} while {reservation.state.value}")
        reservation.state = after
        if kind is EntryKind.DRAWN:
            if reservation.draw is not None:
                self._note(FindingCode.LIFECYCLE, "a second draw is recorded for one charge")
            reservation.draw = {
                name: document[name] for name in ("seed_commitment", "data_digest", "code_digest")
            }
        elif kind is EntryKind.LOOKED:
            self._look(reservation, document["look"])
        elif kind is EntryKind.COMMITTED:
            if reservation.draw is None:
                self._note(FindingCode.LIFECYCLE, "committed without a recorded draw")
            reservation.artifact_digest = document["artifact_digest"]
            reservation.committed_as = self._digest
            lifetime = self._accounts.get(f"{AccountScope.LIFETIME.value}:{self._tenant}")
            if lifetime is not None:
                reservation.lifetime = (lifetime.curve, lifetime.filter.delta)
        elif kind is EntryKind.FORFEITED:
            reservation.reason = document["reason"]
        elif kind is EntryKind.RELEASED:
            self._release(reservation, document)

    def _look(self, reservation: ReplayedReservation, look: int) -> None:
        charged = max(getattr(one, "looks", 0) for one in reservation.mechanisms)
        if reservation.draw is None or look in reservation.looks or not 0 <= look < charged:
            self._note(FindingCode.LIFECYCLE, f"look {look} is bought twice, too early or not charged")
        reservation.looks.add(look)

    def _release(self, reservation: ReplayedReservation, document: dict[str, Any]) -> None:
        if document["curve"] != reservation.curve.to_document():
            self._note(FindingCode.CURVE, "more or less is given back than was charged")
        for account_id in reservation.accounts:
            account = self._accounts.get(account_id)
            if account is not None and account.scope is not AccountScope.POPULATION:
                account.curve -= reservation.curve
                account.mechanisms.subtract(reservation.mechanisms)
                account.mechanisms = +account.mechanisms
        self.mechanisms.subtract(reservation.mechanisms)
        self.mechanisms = +self.mechanisms
        self._check_digests(document, reservation.accounts)

    def _check_digests(self, document: dict[str, Any], account_ids: list[str]) -> None:
        recorded = document["curve_digests"]
        for account_id in account_ids:
            account = self._accounts.get(account_id)
            if account is None or account.scope is AccountScope.POPULATION:
                continue  # charged from several chains: only its total can be compared, at the end
            account.entry = {"entry_tenant_id": self._tenant, "entry_sequence": self._sequence}
            if recorded.get(account_id) != digest_of(account.curve.to_document()):
                self._note(
                    FindingCode.CURVE, f"the curve recorded for account {account_id} is not the sum so far"
                )


def _close(stored: RdpCurve, recomputed: RdpCurve) -> bool:
    return stored.delta == recomputed.delta and all(
        abs(a - b) <= 2 + b * _RELATIVE_TOLERANCE
        for a, b in zip(stored.values, recomputed.values, strict=True)
    )
