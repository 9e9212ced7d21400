"""The privacy statement of a tenant or of one release, generated from the ledger and never written by hand.

It says what is promised (the caps that the filters enforce, valid however parameters reacted to earlier
releases), what was spent so far (at the best order, labelled), by which mechanisms and parameters, under
which assumptions, and what is not covered. ``privacy.reports.registry_record`` turns it into a record for the
public registry of deployments.

Longer than 400 lines, because the facts, the words for them and what they leave out are read together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, best_epsilon
from privacy.accounting.curve import DELTA_UNITS, GRID_NAME, RdpCurve
from privacy.boundary.register import BOUNDARY
from privacy.errors import ReservationStateError, UnknownTenantError
from privacy.guarantee import NeighboringRelation, PrivacyGuarantee, PrivacyUnit, unit_of_chain
from privacy.ledger import history
from privacy.ledger.accounts import filter_of
from privacy.ledger.chain import EntryKind
from privacy.ledger.values import AccountScope, ReservationState
from privacy.mechanisms.private_read import BESIDE_RELEASES, ReadPurpose

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlmodel import Session

    from privacy.policy.values import TenantPrivacyPolicy

STATEMENT_FORMAT: Final = "discreet-privacy-statement"
STATEMENT_VERSION: Final = 1

_SPENT_STATES: Final = (ReservationState.RUNNING, ReservationState.COMMITTED, ReservationState.FORFEITED)

ASSUMPTIONS: Final = (
    (
        "The operator runs this code unchanged, keeps the noise seeds secret, and releases "
        "nothing computed from the "
        "tenant's data except through charged mechanisms."
    ),
    (
        "Each user of the product has one user id in the tenant; a person with two ids is "
        "protected as two users."
    ),
    (
        "Every user id is taken in a step by an independent coin with the stated rate "
        "(Poisson sampling), or always."
    ),
    (
        "The declared number of users, the rate, the clipping norm, the steps and the "
        "schedule are public and were not "
        "chosen by looking at the tenant's data."
    ),
    (
        "Sums of gradients are exact: each user's clipped gradient is a vector of whole numbers on a public lattice, "
        "no longer than the clipping norm as whole numbers, and noise is whole numbers of the same lattice, drawn "
        "from a cryptographic keystream without any data. So the order of users and the last bits of a sum tell "
        "nothing."
    ),
    (
        "A user's gradient is the same whoever shares its batch (batch invariance). It nearly is: rounding inside "
        "matrix products lets the presence of one user move the gradient of each other user in the batch, in float32 "
        "on a processor by about a millionth of the clipping norm. On a GPU the base runs in bfloat16 and its kernels "
        "choose their order by the batch's shape, so there it moves by more, which was not measured. None of it is "
        "charged."
    ),
    (
        "Whether a machine fails (a crash, full memory) does not depend on any one user: texts and the number of "
        "signals of a user have public bounds. That a round failed is told, why is not."
    ),
)
PADDED: Final = (
    "A round is told at the end of the window of the public clock that follows the one it began in, and forfeits at "
    "that instant if it is not done. In which window it begins depends on how busy the trainers are, and so on how "
    "long other rounds took; so does when a meta start, made between jobs from released adapters, appears. While "
    "a release is held, the rollout of the candidate before it stands still and its comparison takes no look. What a "
    "person does to a line while a release of it is held sends that release at once."
)
NOT_PADDED: Final = (
    "How long training took. Times in manifests and events are those of the slot, but the policy's "
    "release_padding_seconds is 0, so an adapter appears as soon as it is trained."
)
BY_REACTIONS: Final = (
    "Users' reactions to new versions decide whether a version reaches everybody, through a charged comparison: each "
    "user who consents to evaluation has a part in one arm and in one look of it, by the draw of the user's own name, "
    "and its looks are taken at public times. Its whole cost is charged before anything is read. Exact counts of "
    "serving quality, which the tenant's own back end may read at its gateway, decide nothing, and epsilon does not "
    "cover them."
)
BY_CHECKS: Final = (
    "Users' reactions to a new version do not decide whether it reaches everybody: public checks, guards (errors, "
    "times and costs of answers over all requests, which epsilon does not cover) and people do. Exact counts of "
    "serving quality, which the tenant's own back end may read at its gateway, decide nothing either."
)
DRIFT_READ: Final = (
    "Readings of drift (purpose drift) are histograms of what users of a line ask and how much of answers they change: "
    "each user adds one vector of length at most 1 over public bins, whatever the user sent. What follows from them "
    "(alarms, a round that comes sooner, a line that falls back) is made of the released numbers alone; so a schedule "
    "may react to earlier releases, which the filter allows for."
)
CHOSEN: Final = (
    "Choices of a prompt template (purpose selection) are draws of one of several templates that people wrote or that "
    "were made of a released style card: each user who consents to evaluation and to training adds one vote at most, "
    "for the template under which the base model finds the user's own accepted answers likeliest. The drawn template "
    "is all that is told."
)
DISJOINT_TENANTS: Final = (
    "No person is a user of two tenants, or what the tenants release is not combined: budgets of tenants are "
    "separate, and no cap spans them."
)
NOT_COVERED: Final[tuple[str, ...]] = (
    "What follows about a user from the other users' data, such as a habit that the whole tenant shares.",
    "The base model's own training data, and anything that users or the product disclose elsewhere.",
    (
        "Timing, memory and other side channels of the machines, and what the operator can read, who is trusted: logs, "
        "metrics, traces, the database, the times of files and of ledger entries (see what leaves, marked operator)."
    ),
    (
        "Events that could not be accepted: the dead-letter topic holds them as they came, texts and user ids in "
        "plain, of users who never consented too, until its retention ends; an erasure does not reach it."
    ),
    (
        "Users of the data that this software's own defaults were chosen with: in its benchmarks some held-out users "
        "decided between hyperparameters, so a benchmark's epsilon is no claim about them. No tenant's data had a part."
    ),
    (
        "A rebuilt ledger: its hash chain shows a change to whoever kept an earlier head, or a signed manifest, which "
        "holds the digest of its commit entry. If nobody kept either, a writer of the database could rebuild it."
    ),
    (
        "A user's data before it is used here: transport, storage and access are protected "
        "by encryption and roles, "
        "not by differential privacy."
    ),
    "An example-level or device-level claim: the unit is the user.",
    (
        "That a withdrawal or an erasure reaches a round that has already drawn: the round goes on with the texts it "
        "sealed with its draw, so that its answer says nothing of who left. The sealed copy is destroyed when the "
        "round closes, at the latest at the end of its slot."
    ),
)
FLEET_ASSUMPTIONS: Final[tuple[str, ...]] = (
    ASSUMPTIONS[0].replace("tenant's data", "tenants' adapters"),
    "Each customer is one tenant of the fleet; a customer with two tenants is protected as two.",
    (
        "The declared number of tenants, the bound on one adapter, the shape and the schedule of meta starts are "
        "public and were not chosen by looking at which tenants take part."
    ),
    (
        "Sums of adapters are exact: each clipped adapter is a vector of whole numbers on a public lattice, and noise "
        "is whole numbers of the same lattice, drawn from a cryptographic keystream without any data."
    ),
)
FLEET_NOT_COVERED: Final[tuple[str, ...]] = (
    "What a tenant's own line serves to that tenant.",
    "Tenants that trained from a meta start made before this protection was switched on.",
    "What follows about a tenant from the others, such as a habit that the whole industry shares.",
    NOT_COVERED[2],
    NOT_COVERED[5],
)


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """A statement as JSON-ready facts, with its text."""

    facts: dict[str, Any]

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self.facts

    def to_text(self) -> str:
        """Return the statement for people."""
        facts = self.facts
        promised, spent, held = facts["guarantee"], facts["spent"], facts["filter"]
        orders = ", ".join(f"{order:g}" for order in held["orders"])
        fleet = facts["unit"] == PrivacyUnit.TENANT
        owner = "fleet's meta starts" if fleet else "tenant"
        name = "the fleet's meta starts" if fleet else f"tenant {facts['tenant']}"
        lines = [
            f"Privacy statement of {name}, {facts['generated_at'][:19]} UTC",
            "",
            (
                f"Promise. {promised['sentence']} It covers all releases of the {owner} "
                "together, for life, and holds "
                "whatever earlier releases led to."
            ),
            (
                f"Spent or held so far. Epsilon {spent['epsilon']:.4g} of {promised['epsilon']:g} at "
                f"delta {promised['delta']:g} "
                f"({spent['used']:.1%} of the filter's budget) in "
                f"{facts['releases_committed']} releases. This figure "
                "takes the best order and is proved for parameters fixed in advance; the "
                "promise does not rely on it."
            ),
            (
                f"Accounting. {facts['accountant']['name']} {facts['accountant']['version']}, "
                "Rényi divergences on "
                f"{facts['accountant']['grid']}, filter {held['rule']} at order {orders}.{_selections(facts)}"
            ),
        ]
        if facts["release"] is not None:
            lines += ["", "This release.", *_release_lines(facts["release"])]
        else:
            lines += ["", f"Charged reservations ({len(facts['releases'])})."]
            for release in facts["releases"]:
                lines += _release_lines(release)
        lines += ["", "Assumptions.", *(f"- {one}" for one in facts["assumptions"])]
        lines += ["", "Not covered.", *(f"- {one}" for one in facts["not_covered"])]
        lines += ["", "What leaves, and why it may.", *_boundary_lines(facts["boundary"])]
        ledger = facts["ledger"]
        lines += [
            "",
            f"Ledger. {ledger['entries']} entries, head {ledger['head']}. Check: discreet budget verify.",
        ]
        return "\n".join(lines)


def privacy_statement(
    session: Session,
    tenant_id: str,
    *,
    now: datetime,
    policy: TenantPrivacyPolicy | None = None,
    reservation_id: str | None = None,
    audits: Mapping[str, Mapping[str, Any]] | None = None,
) -> PrivacyStatement:
    """Return the statement of a tenant, or with ``reservation_id`` of one committed release in its context.

    Args:
        session: a transaction.
        tenant_id: whose.
        now: the public clock.
        policy: the newest one.
        reservation_id: of the one release to state.
        audits: what canaries showed of each release's mechanism, by reservation, from the signed manifests.

    Raises:
        UnknownTenantError: nothing was ever reserved for the tenant.
        ReservationStateError: the reservation is not a committed one of this tenant.
    """
    account = history.lifetime_account(session, tenant_id)
    head = history.chain_head(session, tenant_id)
    if account is None or head is None:
        raise UnknownTenantError(f"tenant {tenant_id} has no ledger; nothing was ever reserved for it")
    opened = filter_of(account)
    releases = _charged(session, tenant_id, account.delta)
    for one in releases:
        one["audit"] = (audits or {}).get(one["reservation_id"])
    release = None
    if reservation_id is not None:
        matching = [one for one in releases if one["reservation_id"] == reservation_id]
        if not matching or matching[0]["state"] != ReservationState.COMMITTED:
            raise ReservationStateError("the reservation asked for is not a committed release of the tenant")
        release = matching[0]
    curve = RdpCurve.from_document(json.loads(account.curve))
    spent, order = best_epsilon(curve, account.delta)
    unit = unit_of_chain(tenant_id)
    guarantee = PrivacyGuarantee(epsilon=account.epsilon, delta=account.delta, unit=unit)
    assumptions: tuple[str, ...]
    if unit is PrivacyUnit.TENANT:
        assumptions, not_covered = FLEET_ASSUMPTIONS, FLEET_NOT_COVERED
    else:
        linked = _has_population(session, tenant_id)
        padded = policy is not None and policy.release_padding_seconds > 0
        compared = (policy is not None and policy.rollout.by_reactions) or any(
            mechanism["type"] == "noisy_comparison" for one in releases for mechanism in one["mechanisms"]
        )
        assumptions = (
            *ASSUMPTIONS,
            *((PADDED,) if padded else ()),
            BY_REACTIONS if compared else BY_CHECKS,
            *((DRIFT_READ,) if any(one["purpose"] == ReadPurpose.DRIFT.value for one in releases) else ()),
            *((CHOSEN,) if any(one["purpose"] == ReadPurpose.SELECTION.value for one in releases) else ()),
            *(() if linked else (DISJOINT_TENANTS,)),
        )
        not_covered = NOT_COVERED if padded else (*NOT_COVERED, NOT_PADDED)
    return PrivacyStatement(
        facts={
            "statement": STATEMENT_FORMAT,
            "version": STATEMENT_VERSION,
            "tenant": tenant_id,
            "generated_at": now.isoformat(timespec="microseconds"),
            "unit": unit.value,
            "relation": NeighboringRelation.ADD_OR_REMOVE_ONE.value,
            "guarantee": {
                "epsilon": account.epsilon,
                "delta": account.delta,
                "sentence": guarantee.sentence(),
                "adaptive": True,
            },
            "spent": {
                "epsilon": spent,
                "order": order,
                "used": opened.used_fraction(curve),
                "selection_delta": curve.delta / DELTA_UNITS,
                "adaptive": False,
            },
            "filter": {
                "rule": opened.rule.value,
                "orders": list(opened.orders),
                "selection_share": opened.selection_share,
            },
            "accountant": {"name": ACCOUNTANT, "version": ACCOUNTANT_VERSION, "grid": GRID_NAME},
            "releases_committed": sum(
                one["state"] == ReservationState.COMMITTED and one["purpose"] not in BESIDE_RELEASES
                for one in releases
            ),
            "releases": releases,
            "release": release,
            "policy": None if policy is None else policy.to_document(),
            "assumptions": list(assumptions),
            "not_covered": list(not_covered),
            "boundary": BOUNDARY.to_document(),
            "ledger": {"entries": head.sequence, "head": head.digest},
        }
    )


def _has_population(session: Session, tenant_id: str) -> bool:
    """Say whether every charged reservation of the tenant also counted against a cap over linked tenants."""
    accounts = [
        row.accounts
        for row in history.reservations(session, tenant_id)
        if row.state != ReservationState.RELEASED.value
    ]
    return bool(accounts) and all(f'"{AccountScope.POPULATION.value}:' in one for one in accounts)


def _charged(session: Session, tenant_id: str, delta: float) -> list[dict[str, Any]]:
    """Return the reservations that are spent for good, oldest first, each with the ε including it."""
    entries = history.entries(session, tenant_id, EntryKind.RESERVED, EntryKind.COMMITTED)
    rows = {row.reservation_id: row for row in history.reservations(session, tenant_id)}
    committed = {one.reservation_id: one for one in entries if one.kind == EntryKind.COMMITTED}
    total, charged = RdpCurve.zero(), []
    for entry in entries:
        row = rows.get(entry.reservation_id or "")
        if entry.kind != EntryKind.RESERVED or row is None or row.state not in _SPENT_STATES:
            continue
        document = json.loads(entry.document)
        curve = RdpCurve.from_document(document["curve"])
        total += curve
        proof = committed.get(entry.reservation_id)
        charged.append(
            {
                "reservation_id": row.reservation_id,
                "reserved_at": entry.recorded_at,
                "period_index": row.period_index,
                "policy_version": row.policy_version,
                "purpose": row.purpose,
                "state": row.state,
                "epsilon": best_epsilon(curve, delta)[0],
                "cumulative_epsilon": best_epsilon(total, delta)[0],
                "delta": delta,
                "mechanisms": document["mechanisms"],
                "accountant": document["accountant"],
                "artifact_digest": row.artifact_digest,
                "ledger_entry_digest": None if proof is None else proof.digest,
            }
        )
    return charged


def _selections(facts: dict[str, Any]) -> str:
    """Say what of delta is kept for votes on what nobody knows in advance; nothing where none is."""
    share, delta = facts["filter"]["selection_share"], facts["guarantee"]["delta"]
    if not share:
        return ""
    return (
        f" Of delta, {share:.0%} is kept for selections since the account was opened, of which they took "
        f"{facts['spent']['selection_delta']:.3g} of {share * delta:.3g}; the divergences convert at the rest."
    )


def _release_lines(release: dict[str, Any]) -> list[str]:
    lines = [
        (
            f"- {release['reserved_at'][:19]}, period {release['period_index']}, "
            f"{release['purpose']}, {release['state']}: "
            f"epsilon {release['epsilon']:.4g}, all so far {release['cumulative_epsilon']:.4g} at delta "
            f"{release['delta']:g}"
        )
    ]
    lines += [f"    {mechanism_sentence(document)}" for document in release["mechanisms"]]
    audit = release.get("audit")
    if audit is not None:
        lines.append(
            f"    audit: epsilon of training at least {audit['empirical_epsilon']:.4g} at confidence "
            f"{audit['confidence']:g} ({audit['canaries']:,} canaries in a shadow, {audit['depth']}); claimed "
            f"{audit['claimed_epsilon']:.4g}"
        )
    if release["ledger_entry_digest"] is not None:
        lines.append(f"    ledger entry {release['ledger_entry_digest']}")
    return lines


def _boundary_lines(groups: list[dict[str, Any]]) -> list[str]:
    """Return the marks as a table; what an event repeats of the manifest stands there once."""
    lines = []
    for group in groups:
        fields = [
            name for name in group["fields"] if not name.startswith(("adapter.manifest.", "candidate."))
        ]
        if fields:
            kind, mark = (str(group[name]).replace("_", " ") for name in ("kind", "mark"))
            lines += [f"{kind:<18}{mark:<12}{group['why']}", f"{'':<30}{', '.join(fields)}"]
    return lines


def mechanism_sentence(document: dict[str, Any]) -> str:  # noqa: PLR0911  # one for each kind
    """Say in one line what a mechanism event did."""
    purpose = document["purpose"].replace("_", " ")
    if document["type"] == "poisson_sampled_gaussian":
        text = (
            f"{purpose}: sum of clipped user gradients with Gaussian noise, noise multiplier "
            f"{document['noise_multiplier']:g}, sample rate {document['sample_rate']:g}, "
            f"{document['steps']} steps"
        )
        for name in ("clipping_norm", "contribution_bound"):
            if name in document:
                text += f", {name.replace('_', ' ')} {document[name]:g}"
        return text
    if document["type"] == "gaussian":
        return (
            f"{purpose}: {document['count']} statistic(s) of sensitivity "
            f"{document['sensitivity']:g} with Gaussian "
            f"noise of standard deviation {document['standard_deviation']:g}"
        )
    if document["type"] == "partition_selection":
        return (
            f"{purpose}: one vote of each user, of length at most 1, on what answers look like, with Gaussian noise of "
            f"standard deviation {document['noise_multiplier']:g}; only what stands above a threshold is told, which a "
            f"user's own keys, at most {document['unknown_keys']}, pass with probability {document['delta']:g} at most"
        )
    if document["type"] == "noisy_comparison":
        return (
            f"{purpose}: users' reactions to two versions, each user in one arm and in one of at most "
            f"{document['looks']} looks with a vector of length at most 1, with Gaussian noise of standard deviation "
            f"{document['noise_multiplier']:g}"
        )
    if document["type"] == "exponential_choice":
        return (
            f"{purpose}: one of {document['candidates']} public candidates, each user with one vote at most, drawn "
            f"with probability in proportion to exp({document['epsilon']:g} · votes)"
        )
    if document["type"] == "pure_selection":
        return f"{purpose}: a choice of pure epsilon {document['epsilon']:g}"
    if document["type"] == "tenant_gaussian":
        return (
            f"{purpose}: sum over tenants of their adapters, each clipped to {document['clipping_norm']:g}, with "
            f"Gaussian noise, noise multiplier {document['noise_multiplier']:g}"
        )
    inner = "; ".join(mechanism_sentence(one) for one in document["base"])
    trials = f"{document['mean_trials']:g} trials on average ({document['distribution']})"
    return f"{purpose}: the best of {trials} of {inner}"
