"""``erasure.requested.v1`` and its answer ``erasure.completed.v1`` with a certificate."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .fields import Digest, EventId, Moment, ServedName, TenantId, UserId, WireModel
from .manifest import canonical_json


class ErasureReason(StrEnum):
    """Why a user is erased."""

    USER_REQUEST = "user-request"
    ACCOUNT_CLOSED = "account-closed"
    CONTRACT_ENDED = "contract-ended"


class ErasureRequestedV1(WireModel):
    """A user is to be erased."""

    tenant_id: TenantId
    user_id: UserId
    request_id: EventId
    """The product's id of the request, for one person alone; the certificate repeats it."""
    reason: ErasureReason = ErasureReason.USER_REQUEST
    occurred_at: Moment


class ErasureCertificateV1(WireModel):
    """What an erasure reached. It names no user: the request does."""

    issued_at: Moment
    signals_erased: Annotated[
        Annotated[int, Field(ge=0)] | None, Field(json_schema_extra={"deprecated": True})
    ] = None
    """Not given any more: how much a user had stored is personal. Certificates of 0.1.0 and before have it."""
    keys_destroyed: Annotated[int, Field(ge=0)]
    """Per-user keys destroyed in the key store. A copy of the user's text is readable for whoever holds a backup of the
    key store that has the key, and for nobody once those ended (``backups_until``)."""
    backups_until: Moment | None = None
    """When the last backup of the key store that may hold the key ends; not given by 0.1.0 and before."""
    database_backups_until: Moment | None = None
    """When the last backup of the database ends that holds the user's texts (encrypted) and, under a pseudonym, what
    the user agreed to; not given by 0.1.0 and before."""
    live_adapters: tuple[ServedName, ...] = ()
    """Served versions released before the erasure, whose (ε, δ) statement covers this user."""
    statement: Annotated[str, Field(min_length=1, max_length=4096)]
    """What the certificate does and does not say, for people."""
    audit_digest: Digest | None = None
    """Entry of the audit chain that records the erasure."""
    key_id: Annotated[str, Field(max_length=128)] | None = None
    signature: Annotated[str, Field(max_length=256)] | None = None
    """Base64 Ed25519 signature over the canonical JSON of the certificate without its two last fields."""

    def signed_bytes(self) -> bytes:
        """Return what the signature covers; the audit digest in it belongs to this erasure alone."""
        unsigned = self.model_copy(update={"key_id": None, "signature": None})
        document = json.loads(unsigned.model_dump_json())
        left_out = {"key_id", "signature"}
        # Certificates of before these existed were signed without them.
        left_out |= {name for name in ("backups_until", "database_backups_until") if document[name] is None}
        return canonical_json({name: document[name] for name in document if name not in left_out})


class ErasureCompletedV1(WireModel):
    """An erasure was carried out. The record key repeats the request's; the data name the request only."""

    tenant_id: TenantId
    request_id: EventId
    completed_at: Moment
    certificate: ErasureCertificateV1
