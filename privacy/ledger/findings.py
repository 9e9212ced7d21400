"""What a verification may find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FindingCode(StrEnum):
    """Classes of findings; any of them makes `discreet budget verify` fail."""

    EXPORT = "export"  # the file itself is damaged
    GAP = "gap"  # a sequence number is missing or repeated
    CHAIN = "chain"  # a digest does not match
    HEAD = "head"  # the chain does not end where it should
    UNKNOWN_EVENT = "unknown_event"  # an entry or mechanism that this version cannot read
    CURVE = "curve"  # a stored curve is not what the events give
    LIFECYCLE = "lifecycle"  # a reservation did what its state forbids
    FENCING = "fencing"  # a lower epoch wrote after a higher one
    OVERSPEND = "overspend"  # a filter was passed
    ROW = "row"  # a row that admission trusts differs from the entries
    MANIFEST = "manifest"  # what was published is not what was charged, or its entry is not in the chain
    RECEIPT = "receipt"  # what a run measured of itself is not what was charged
    SECOND_OPINION = "second_opinion"  # dp_accounting disagrees


@dataclass(frozen=True)
class Finding:
    """One mismatch, with the tenant and entry where there is one."""

    code: FindingCode
    tenant_id: str | None
    sequence: int | None
    text: str

    def to_document(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "code": self.code.value,
            "tenant_id": self.tenant_id,
            "sequence": self.sequence,
            "text": self.text,
        }
