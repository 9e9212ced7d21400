"""Why an event could not be accepted, and the headers under which it is kept for an operator to look at.

The dead-letter record keeps the key, value and headers of the original; these headers come on top. They
never hold text or ids of a person: ``detail`` names fields and rules, not values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .fields import utc_text

PREFIX = "discreet_dlq_"


class DeadLetterReason(StrEnum):
    """Stable reason codes; new ones may be added, none is ever renamed."""

    OVERSIZED = "oversized"
    EMPTY = "empty"
    ENVELOPE_INVALID = "envelope_invalid"
    TYPE_UNKNOWN = "type_unknown"
    JSON_INVALID = "json_invalid"
    SCHEMA_VIOLATION = "schema_violation"
    KEY_MISMATCH = "key_mismatch"
    TENANT_UNKNOWN = "tenant_unknown"
    CONSENT_MISSING = "consent_missing"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    USER_ERASED = "user_erased"
    TOO_LATE = "too_late"
    IN_THE_FUTURE = "in_the_future"
    PROCESSING_FAILED = "processing_failed"


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """Where a dead-lettered record came from and why it was refused.

    Attributes:
        reason: stable code.
        detail: the field and rule that failed; no value.
        topic: topic the record was read from.
        partition: partition it was read from.
        offset: its offset there; (topic, partition, offset) tells a duplicate left by a crash from a second
            event.
        timestamp_milliseconds: the original record's timestamp.
        group: the consumer group that refused it.
        attempts: how often it was tried.
        refused_at: when it was refused.
    """

    reason: DeadLetterReason
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp_milliseconds: int
    group: str
    attempts: int
    refused_at: datetime

    def headers(self, original: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Return the headers of the dead-letter record: those of the original, then ours."""
        kept = [(name, value) for name, value in original if not name.startswith(PREFIX)]
        ours = {
            "reason": self.reason.value,
            "detail": self.detail,
            "topic": self.topic,
            "partition": str(self.partition),
            "offset": str(self.offset),
            "timestamp": str(self.timestamp_milliseconds),
            "group": self.group,
            "attempts": str(self.attempts),
            "at": utc_text(self.refused_at),
        }
        return kept + [(PREFIX + name, value.encode()) for name, value in ours.items()]

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes]]) -> DeadLetter:
        """Read back what ``headers`` wrote.

        Raises:
            ValueError: if one of our headers is missing or cannot be read.
        """
        ours: Mapping[str, str] = {
            name.removeprefix(PREFIX): value.decode() for name, value in headers if name.startswith(PREFIX)
        }
        try:
            return cls(
                reason=DeadLetterReason(ours["reason"]),
                detail=ours["detail"],
                topic=ours["topic"],
                partition=int(ours["partition"]),
                offset=int(ours["offset"]),
                timestamp_milliseconds=int(ours["timestamp"]),
                group=ours["group"],
                attempts=int(ours["attempts"]),
                refused_at=datetime.fromisoformat(ours["at"]),
            )
        except KeyError as missing:
            raise ValueError(f"the dead-letter header {PREFIX}{missing.args[0]} is missing") from missing


def original_headers(headers: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the headers of the original record, for a replay."""
    return [(name, value) for name, value in headers if not name.startswith(PREFIX)]
