"""The erasure of one user as a value: its states, its legal deadline, its certificate. Pure.

    requested → erasing → completed

``erasing`` means that the key is destroyed and that later interactions are refused; ``completed`` that the
stored rows are gone too and the certificate stands. An erasure that stops in between is taken up again from
its state.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class ErasureState(StrEnum):
    """How far an erasure has come."""

    REQUESTED = "requested"
    ERASING = "erasing"
    COMPLETED = "completed"


_NEXT = {ErasureState.REQUESTED: ErasureState.ERASING, ErasureState.ERASING: ErasureState.COMPLETED}


def deadline(requested_at: datetime) -> datetime:
    """Return the same day one month later (GDPR Article 12(3)), or that month's last day."""
    at = requested_at.astimezone(UTC)
    year, month = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
    return at.replace(year=year, month=month, day=min(at.day, calendar.monthrange(year, month)[1]))


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """One request to erase a user; ``erasure_id`` is the product's id of it, which other users' requests may share."""

    tenant_id: str
    erasure_id: str
    requested_at: datetime
    state: ErasureState = ErasureState.REQUESTED
    completed_at: datetime | None = None

    @property
    def deadline_at(self) -> datetime:
        """When the erasure must be completed at the latest."""
        return deadline(self.requested_at)

    def advanced(self, now: datetime) -> Erasure:
        """Return the erasure one state further.

        Raises:
            ValueError: it is completed already.
        """
        following = _NEXT.get(self.state)
        if following is None:
            raise ValueError("the erasure is completed; there is no state after that")
        completed_at = now if following is ErasureState.COMPLETED else None
        return replace(self, state=following, completed_at=completed_at)


@dataclass(frozen=True, kw_only=True)
class ErasureCertificate:
    """What an erasure reached and what remains. It names the request and never the user.

    Attributes:
        tenant_id: the tenant.
        erasure_id: the product's id of the request.
        requested_at: when the user asked.
        issued_at: when everything below was true.
        keys_destroyed: 1 when the user had a key, else 0. How many signals or consents were deleted is personal and
            stands nowhere.
        live_adapters: served names of versions released before, which the user may have contributed to.
        audit_digest: digest of the audit record of this erasure.
    """

    tenant_id: str
    erasure_id: str
    requested_at: datetime
    issued_at: datetime
    keys_destroyed: int
    live_adapters: tuple[str, ...] = ()
    audit_digest: str | None = None

    @property
    def statement(self) -> str:
        """What the certificate says and does not say, for people."""
        done = (
            "The user's key was destroyed and all stored signals and consent statements of the user were deleted, "
            "if there were any; copies in backups are encrypted with "
            "the destroyed key and cannot be read. Records that were refused lie on the dead-letter topic until its "
            "retention ends; an erasure does not reach them. A training round that was open at the time may still use "
            "the copy of the texts that it sealed under a key of its own when its randomness was fixed; copy and key "
            "are destroyed when the round closes, at the latest at the end of its public slot (a copy in a backup "
            "stays readable with the master key). Later interactions of the user are refused; for that, a "
            "keyed pseudonym of the user is kept."
        )
        if not self.live_adapters:
            return f"{done} No released adapter of the tenant is live."
        return (
            f"{done} {len(self.live_adapters)} adapter versions released before remain live; what they may "
            "hold of the user is bounded by the (ε, δ) of the tenant's privacy statement, and no release "
            "of a later round uses the user's data."
        )

    def with_adapters(self, served_names: Sequence[str]) -> ErasureCertificate:
        """Return the certificate with the live adapter versions filled in, in a fixed order."""
        return replace(self, live_adapters=tuple(sorted(served_names)))

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal certificate."""
        return {
            "tenant_id": self.tenant_id,
            "erasure_id": self.erasure_id,
            "requested_at": self.requested_at.astimezone(UTC).isoformat(),
            "issued_at": self.issued_at.astimezone(UTC).isoformat(),
            "keys_destroyed": self.keys_destroyed,
            "live_adapters": list(self.live_adapters),
            "audit_digest": self.audit_digest,
            "statement": self.statement,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ErasureCertificate:
        """Read a certificate back from ``to_document``'s form; the statement is derived again."""
        # Certificates of earlier versions also told counts, which are not shown any more.
        left_out = {"statement", "signals_erased", "consents_erased"}
        fields = {name: value for name, value in document.items() if name not in left_out}
        fields["requested_at"] = datetime.fromisoformat(fields["requested_at"])
        fields["issued_at"] = datetime.fromisoformat(fields["issued_at"])
        fields["live_adapters"] = tuple(fields["live_adapters"])
        return cls(**fields)
