"""Offline verification of an exported ledger: everything it claims is recomputed from its events.

Checked, with a finding for each mismatch: the export's own digest; every tenant's hash chain without gaps
and up to its head; that every event is known and its stored curve is the one this accountant computes;
dp_accounting's second opinion on every distinct mechanism, by its Rényi divergences and by its privacy loss
distribution; the life of every reservation (order, fencing
epochs, one draw); every account's curve after each entry; each filter at the moment of each admission; and
that the rows which admission trusts equal what the entries add up to; and, where manifests are given, that each
release is what its reservation paid for and what its signed receipt measured.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, best_epsilon, curve_of
from privacy.accounting.curve import DELTA_UNITS
from privacy.accounting.second_opinion import (
    WHOLE_ORDERS,
    compared_at,
    disagreement,
    pld_epsilon,
    pld_is_exact,
    undercharge,
)
from privacy.ledger.chain import canonical
from privacy.ledger.export import EXPORT_FORMAT, EXPORT_VERSION
from privacy.ledger.findings import Finding, FindingCode
from privacy.ledger.recompute import Replay, ReplayedAccount
from privacy.ledger.releases import ReleaseCheck
from privacy.mechanisms.rounding import PICO

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from privacy.mechanisms.documents import Mechanism


@dataclass
class VerificationReport:
    """What was checked and what was found; ``ok`` when nothing was."""

    tenants: int = 0
    entries: int = 0
    reservations: int = 0
    mechanisms: int = 0
    manifests: int = 0
    receipts: int = 0  # manifests whose receipt agrees with the charge
    unbound: int = 0  # manifests that need none: from before receipts, or made of released adapters alone
    findings: list[Finding] = field(default_factory=list)
    accounts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "ok": self.ok,
            "tenants": self.tenants,
            "entries": self.entries,
            "reservations": self.reservations,
            "mechanisms": self.mechanisms,
            "manifests": self.manifests,
            "receipts": self.receipts,
            "unbound": self.unbound,
            "accountant": {"name": ACCOUNTANT, "version": ACCOUNTANT_VERSION},
            "findings": [one.to_document() for one in self.findings],
            "accounts": self.accounts,
        }


def verify_export(
    lines: Iterable[str],
    *,
    expected_heads: dict[str, str] | None = None,
    with_pld: bool = False,
    manifests: Iterable[Mapping[str, Any]] = (),
    registered: Callable[[], Collection[str]] | None = None,
    readings: Callable[[], Mapping[str, str]] | None = None,
) -> VerificationReport:
    """Verify an export.

    Args:
        lines: of the export, as ``privacy.ledger.export`` yields them.
        expected_heads: digests known from elsewhere (tenant → an entry's digest, such as one in a statement):
            each must still be in its tenant's chain. Only this shows that a tail was cut off or rewritten
            whole.
        manifests: documents of released versions: each must be what its reservation paid for, its entry must still be
            in the chain, and its receipt must agree. They are an anchor outside the database, as heads are.
        registered: names every reservation that the registry has a version of, asked once the ledger was read: each
            charge with an artifact must be among them.
        readings: digests of the released readings of drift by their reservations, asked for once the ledger was read:
            each must be what was committed, and each charge for one must have it.
        with_pld: also compute dp_accounting's PLD ε of every account (seconds for each distinct mechanism).
    """
    report = VerificationReport()
    documents = _parsed(lines, report)
    replay = Replay(report.findings)
    for document in documents:
        kind = document.pop("line", None)
        if kind == "tenant":
            replay.begin_tenant(document)
            report.tenants += 1
        elif kind == "entry":
            replay.entry(document)
            report.entries += 1
        elif kind in ("account", "population"):
            replay.account_row(document)
        elif kind == "member":
            replay.member_row(document)
        elif kind == "reservation":
            replay.reservation_row(document)
            report.reservations += 1
    replay.finish(all_tenants=bool(documents and documents[0].get("all_tenants")))
    for tenant_id, digest in (expected_heads or {}).items():
        if digest not in replay.digests.get(tenant_id, set()):
            report.findings.append(
                Finding(
                    FindingCode.HEAD, tenant_id, None, "an entry that was published is no longer in the chain"
                )
            )
    releases = ReleaseCheck(
        reservations=replay.reservations,
        findings=report.findings,
        whole=bool(documents and documents[0].get("all_tenants")),
    )
    releases.check(manifests)
    if registered is not None:
        releases.require_published(registered())
    if readings is not None:
        releases.require_readings(readings())
    report.manifests, report.receipts = releases.manifests, releases.receipts
    report.unbound = releases.unbound
    _second_opinion(replay.mechanisms, report)
    report.mechanisms = sum(replay.mechanisms.values())
    report.accounts = [
        _account_figures(one, with_pld=with_pld, report=report) for one in replay.all_accounts()
    ]
    return report


def _parsed(lines: Iterable[str], report: VerificationReport) -> list[dict[str, Any]]:
    digest, documents = hashlib.sha256(), []
    footer: dict[str, Any] = {}
    for line in lines:
        text = line.rstrip("\n")
        if footer:
            report.findings.append(
                Finding(FindingCode.EXPORT, None, None, "there are lines after the footer")
            )
            break
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            report.findings.append(Finding(FindingCode.EXPORT, None, None, "a line is not a JSON object"))
            continue
        if document.get("line") == "footer":
            footer = document
            continue
        digest.update(text.encode() + b"\n")
        documents.append(document)
    found = {"line": "footer", "lines": len(documents), "digest": "sha256:" + digest.hexdigest()}
    if canonical(footer) != canonical(found):
        report.findings.append(
            Finding(
                FindingCode.EXPORT, None, None, "the export was cut off or changed: its footer does not match"
            )
        )
    header = documents[0] if documents else {}
    if (header.get("format"), header.get("version")) != (EXPORT_FORMAT, EXPORT_VERSION):
        report.findings.append(
            Finding(
                FindingCode.EXPORT,
                None,
                None,
                f"this is not a {EXPORT_FORMAT} export of version {EXPORT_VERSION}",
            )
        )
    return documents


def _second_opinion(mechanisms: Counter[Mechanism], report: VerificationReport) -> None:
    for mechanism in mechanisms:
        curve = curve_of(mechanism)
        text = disagreement(
            mechanism,
            {order: curve.at(float(order)) / PICO for order in WHOLE_ORDERS},
            curve.delta / DELTA_UNITS,
        )
        for said in (text, undercharge(mechanism, best_epsilon(curve, compared_at(mechanism))[0])):
            if said is not None:
                report.findings.append(
                    Finding(FindingCode.SECOND_OPINION, None, None, f"{mechanism.kind}: {said}")
                )


def _account_figures(
    account: ReplayedAccount, *, with_pld: bool, report: VerificationReport
) -> dict[str, Any]:
    epsilon, order = best_epsilon(account.curve, account.filter.delta)
    figures: dict[str, Any] = {
        "account_id": account.account_id,
        "epsilon": epsilon if math.isfinite(epsilon) else None,  # none: selections took all of its δ
        "order": order,
        "cap": account.filter.epsilon,
        "delta": account.filter.delta,
        "selection_delta": account.curve.delta / DELTA_UNITS,
        "used": account.filter.used_fraction(account.curve),
    }
    if with_pld and account.mechanisms:
        second = pld_epsilon(account.mechanisms, account.filter.delta)
        figures["pld_epsilon"] = second if math.isfinite(second) else None
        figures["pld_exact"] = exact = pld_is_exact(account.mechanisms)
        if not exact:  # what is known exactly costs no more than the whole, so it still shows an undercharge
            known = {one: n for one, n in account.mechanisms.items() if pld_is_exact(Counter([one]))}
            second = pld_epsilon(Counter(known), account.filter.delta)
        if second > epsilon * (1 + 1e-3) + 1e-3:  # PLD rounds up on a grid
            report.findings.append(
                Finding(
                    FindingCode.SECOND_OPINION,
                    None,
                    None,
                    f"account {account.account_id}: dp_accounting's PLD says "
                    f"{second:.6g}, more than {epsilon:.6g} here",
                )
            )
    return figures
