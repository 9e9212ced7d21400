"""What an installation anchors outside its database, so that a restored backup cannot rewind anything unnoticed.

``AnchorTenantV1`` holds of one tenant what only grows: the head of its ledger's chain with what is spent of each
account, how many users were erased, the epoch and last number of each of its lines. ``AnchorOffsetsV1`` holds up to
where each partition has had its effects in the database. Both are compared part by part within a *timeline*; a restore
begins the next one, which counts whatever the parts are. ``ErasedV1`` is one entry of the register of erasures.

Written and read by one installation alone, which the consumer group of its workers names, and signed with a key that is
derived from its master key.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .fields import Digest, LineRef, Moment, WireModel

Count = Annotated[int, Field(ge=0)]
Owner = Annotated[str, Field(min_length=1, max_length=63)]
"""A tenant, or the owner of a chain or line that is no tenant (the fleet, a meta start)."""


Group = Annotated[str, Field(min_length=1, max_length=255)]
"""Consumer group of an installation's workers."""


class AccountAnchorV1(WireModel):
    """One account of the ledger: the filter it was opened with, and what was charged to it."""

    account_id: Annotated[str, Field(min_length=1, max_length=128)]
    scope: Annotated[str, Field(max_length=16)]
    tenant_id: Owner | None = None
    period_index: Count | None = None
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    rule: Annotated[str, Field(max_length=16)]
    orders: tuple[Annotated[float, Field(gt=1)], ...]
    selection_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    grid: Annotated[str, Field(max_length=32)]
    pico_nats: tuple[Count, ...]
    """Rényi divergence charged at each order of the grid, in 10⁻¹² nats."""
    selection_delta: Count = 0
    """δ charged to selections, in units of 10⁻²⁴."""


class LedgerAnchorV1(WireModel):
    """The end of a tenant's chain."""

    sequence: Count
    digest: Digest
    accounts: tuple[AccountAnchorV1, ...] = ()


class LineAnchorV1(WireModel):
    """What of one adapter line never goes back."""

    line_ref: LineRef
    domain: Annotated[str, Field(max_length=63)]
    epoch: Count
    last_version: Count
    withdrawn: tuple[Digest, ...] = ()


class AnchorTenantV1(WireModel):
    """One tenant, or another owner of a chain or of lines."""

    group: Group
    owner: Owner
    timeline: Count
    ledger: LedgerAnchorV1 | None = None
    erasures: Count = 0
    """How often a user key of the tenant was destroyed."""
    policy_version: Count = 0
    lines: tuple[LineAnchorV1, ...] = ()


class ConsumedV1(WireModel):
    """One partition: everything before ``next_offset`` has had its effect."""

    topic: Annotated[str, Field(max_length=249)]
    partition: Count
    next_offset: Count


class AnchorOffsetsV1(WireModel):
    """Up to where the database of a group of workers has consumed its topics."""

    group: Group
    timeline: Count
    offsets: tuple[ConsumedV1, ...] = ()


class ErasedV1(WireModel):
    """A user was erased, named by the keyed pseudonym that replaces the user id in every store."""

    group: Group
    tenant_id: Owner
    pseudonym: Annotated[str, Field(pattern="^[0-9a-z][0-9a-f]{63}$")]
    erased_at: Moment
