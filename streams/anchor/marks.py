"""What of the database is anchored, read from it as the contract's values, and how two of them compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.registry.anchoring import LineMark, line_marks
from privacy.accounting.curve import GRID_NAME, RdpCurve
from privacy.keys.destruction import erasure_counts
from privacy.ledger.anchoring import AccountMark, LedgerMark, ledger_marks
from privacy.policy.versions import newest_versions
from streams.contracts.anchor import (
    AccountAnchorV1,
    AnchorOffsetsV1,
    AnchorTenantV1,
    ConsumedV1,
    LedgerAnchorV1,
    LineAnchorV1,
)
from streams.storage.consumed_offsets import consumed

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlmodel import Session


def tenants_held(
    session: Session, group: str, owners: Collection[str], timeline: int
) -> dict[str, AnchorTenantV1]:
    """Return what the database holds of each of ``owners``; one of whom it holds nothing is left out."""
    names = sorted(owners)
    ledgers, erasures = ledger_marks(session, names), erasure_counts(session, names)
    lines, policies = line_marks(session, names), newest_versions(session, names)
    found = {}
    for owner in names:
        if not (owner in ledgers or owner in erasures or owner in lines or owner in policies):
            continue
        ledger = ledgers.get(owner)
        found[owner] = AnchorTenantV1(
            group=group,
            owner=owner,
            timeline=timeline,
            ledger=None if ledger is None else _ledger(ledger),
            erasures=erasures.get(owner, 0),
            policy_version=policies.get(owner, 0),
            lines=tuple(LineAnchorV1(**vars(line)) for line in lines.get(owner, ())),
        )
    return found


def offsets_held(session: Session, group: str, timeline: int) -> AnchorOffsetsV1:
    """Return up to where the database has consumed its topics."""
    return AnchorOffsetsV1(
        group=group,
        timeline=timeline,
        offsets=tuple(
            ConsumedV1(topic=topic, partition=partition, next_offset=offset)
            for (topic, partition), offset in sorted(consumed(session).items())
        ),
    )


def behind(anchored: AnchorTenantV1, held: AnchorTenantV1 | None) -> str | None:
    """Say in what a tenant of the database lies below what is anchored of it; ``None`` where in nothing.

    Both are of one timeline. Whether a longer chain holds the anchored entry is for the database to say
    (``privacy.ledger.anchoring.missing_entries``).
    """
    if held is None:
        return "the tenant is not there"
    if anchored.ledger is not None:
        ledger = held.ledger
        if ledger is None or ledger.sequence < anchored.ledger.sequence:
            ends = 0 if ledger is None else ledger.sequence
            return f"its ledger ends at entry {ends}, anchored is {anchored.ledger.sequence}"
        if ledger.sequence == anchored.ledger.sequence and ledger.digest != anchored.ledger.digest:
            return f"entry {ledger.sequence} of its ledger is not the one that is anchored"
    if held.erasures < anchored.erasures:
        return f"{held.erasures} erasures are recorded, anchored are {anchored.erasures}"
    if held.policy_version < anchored.policy_version:
        return f"its policy has version {held.policy_version}, anchored is {anchored.policy_version}"
    return _lines_behind(anchored, held)


def offsets_behind(anchored: AnchorOffsetsV1, held: AnchorOffsetsV1) -> str | None:
    """Say of which partition fewer events have had their effect than is anchored; ``None`` where of none."""
    stored = {(one.topic, one.partition): one.next_offset for one in held.offsets}
    for one in anchored.offsets:
        reached = stored.get((one.topic, one.partition), 0)
        if reached < one.next_offset:
            place = f"partition {one.partition} of {one.topic}"
            return f"{place} was consumed up to {reached}, anchored is {one.next_offset}"
    return None


def ledger_mark(anchored: LedgerAnchorV1) -> LedgerMark:
    """Return an anchored ledger as the ledger's own value."""
    return LedgerMark(
        sequence=anchored.sequence,
        digest=anchored.digest,
        accounts=tuple(
            AccountMark(
                **one.model_dump(exclude={"grid", "pico_nats", "selection_delta"}),
                spent=RdpCurve.from_document(
                    {
                        "grid": one.grid,
                        "pico_nats": list(one.pico_nats),
                        "selection_delta": one.selection_delta,
                    }
                ),
            )
            for one in anchored.accounts
        ),
    )


def line_mark(anchored: LineAnchorV1) -> LineMark:
    """Return an anchored line as the registry's own value."""
    return LineMark(**anchored.model_dump())


def _lines_behind(anchored: AnchorTenantV1, held: AnchorTenantV1) -> str | None:
    stored = {line.line_ref: line for line in held.lines}
    for line in anchored.lines:
        found = stored.get(line.line_ref)
        if found is None:
            return f"its line {line.line_ref} is not there"
        if found.epoch < line.epoch or found.last_version < line.last_version:
            return f"its line {line.line_ref} stands at epoch {found.epoch}, anchored is {line.epoch}"
        if not set(line.withdrawn) <= set(found.withdrawn):
            return f"its line {line.line_ref} has versions back that were withdrawn"
    return None


def _ledger(mark: LedgerMark) -> LedgerAnchorV1:
    return LedgerAnchorV1(
        sequence=mark.sequence,
        digest=mark.digest,
        accounts=tuple(
            AccountAnchorV1(
                **account.opened() | {"orders": account.orders},
                grid=GRID_NAME,
                pico_nats=account.spent.values,
                selection_delta=account.spent.delta,
            )
            for account in mark.accounts
        ),
    )
