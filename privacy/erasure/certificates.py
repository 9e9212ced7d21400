"""The erasure of one user as a value: its states, its legal deadline, its certificate. Pure.

    requested → erasing → completed

``erasing`` means that the key is destroyed and that later interactions are refused; ``completed`` that the
stored rows are gone too and the certificate stands. An erasure that stops in between is taken up again from
its state.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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
class BackupRetention:
    """How long backups are kept at most: what the operator says of them, for certificates to repeat.

    A replica that lags and an archive of a database's log are backups too.

    Attributes:
        keys: of the key store; zero where there are none.
        database: of the database that holds the texts, encrypted.
    """

    keys: timedelta
    database: timedelta


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
        backups_until: the last instant at which a backup of the key store may still hold the user's key; ``None`` in
            certificates of before it was stated.
        database_backups_until: the same of backups of the database and what of the user lies in it.
    """

    tenant_id: str
    erasure_id: str
    requested_at: datetime
    issued_at: datetime
    keys_destroyed: int
    live_adapters: tuple[str, ...] = ()
    audit_digest: str | None = None
    backups_until: datetime | None = None
    database_backups_until: datetime | None = None

    @property
    def statement(self) -> str:
        """What the certificate says and does not say, for people."""
        done = (
            "The user's key was destroyed in the key store, and all stored signals and consent statements of the user "
            f"were deleted, if there were any. {self._of_backups()} Records that the product sent lie on the topics of "
            "the broker, refused ones on the dead-letter topic, until the retention of these topics ends; an erasure "
            "does not reach them. A training round that was open at the time may still use the copy of the texts that "
            "it sealed under a key of its own when its randomness was fixed; copy and key are destroyed when the round "
            "closes, at the latest soon after the end of its public slot, and what holds of backups holds of them from "
            "then on. Later interactions of the user are refused; for that, a keyed pseudonym of the user is kept."
        )
        if not self.live_adapters:
            return f"{done} No released adapter of the tenant is live."
        return (
            f"{done} {len(self.live_adapters)} adapter versions released before remain live; what they may "
            "hold of the user is bounded by the (ε, δ) of the tenant's privacy statement, and no release "
            "of a later round uses the user's data."
        )

    def _of_backups(self) -> str:
        if self.backups_until is None or self.database_backups_until is None:
            return (
                "Copies in backups are encrypted with the destroyed key; how long backups that hold the key itself are "
                "kept was not recorded when this certificate was issued."
            )
        keys, rows = (_moment(at) for at in (self.backups_until, self.database_backups_until))
        if self.backups_until <= self.issued_at:
            readable = "The key store has no backups, so nobody can read the user's texts any more, in whatever copy."
        else:
            readable = (
                f"Backups of the key store end by {keys}: until then, whoever holds such a backup, one of the "
                "database and "
                "the master key can still read the user's texts of that time; afterwards nobody can, in whatever copy."
            )
        return (
            f"{readable} Backups of the database end by {rows}: until then they hold the texts, encrypted, and "
            "in the clear "
            "what the user agreed to and when interactions took place, under the keyed pseudonym."
        )

    def with_backups(self, retention: BackupRetention) -> ErasureCertificate:
        """Return the certificate with what backups may hold, and until when."""
        return replace(
            self,
            backups_until=self.issued_at + retention.keys,
            database_backups_until=self.issued_at + retention.database,
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
            "backups_until": _moment(self.backups_until),
            "database_backups_until": _moment(self.database_backups_until),
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
        for name in ("backups_until", "database_backups_until"):
            at = fields.get(name)
            fields[name] = None if at is None else datetime.fromisoformat(at)
        fields["live_adapters"] = tuple(fields["live_adapters"])
        return cls(**fields)


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()
