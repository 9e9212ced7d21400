"""From a record to what ingest needs of an interaction, without the full validator for the regular case.

The contract (``streams.contracts``) alone decides what is valid and why something is not. This module recognizes
events that are certainly valid, at a sixth of the cost: plain headers, no unknown fields, texts of the right type
and length (msgspec looks at these while it decodes), the usual form of a time, and short names that the contract
accepted before. Everything else goes to the contract's validator, refusals included, so that there is one set of
rules: what is recognized here is accepted there, with the same values (a property test holds it).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import Decoder

from personalization.signals.values import OutcomeKind
from streams.contracts.codec import decode_interaction
from streams.contracts.envelope import (
    JSON_CONTENT_TYPE,
    MAX_ATTRIBUTE_CHARACTERS,
    Invalid,
    sender_digest_of,
)
from streams.contracts.fields import MAX_TEXT_CHARACTERS
from streams.contracts.interaction import Correction, Edited, Rating
from streams.contracts.topics import INTERACTION_RECORDED
from streams.ingest.parsed import Parsed

if TYPE_CHECKING:
    from streams.broker.records import SourceRecord

NAMES_REMEMBERED: Final = 65_536
_TYPE: Final = INTERACTION_RECORDED.encode()
_JSON: Final = JSON_CONTENT_TYPE.encode()
_OUTCOMES: Final = {kind.value: kind for kind in OutcomeKind}
_WITH_TEXT: Final = frozenset({OutcomeKind.EDITED, OutcomeKind.CORRECTION})
_USUAL_TIME: Final = re.compile(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z", re.ASCII).fullmatch


class Interaction(NamedTuple):
    """What ingest needs of an interaction; ``streams.contracts.interaction`` says what the fields mean.

    ``occurred_at`` is in ``datetime.UTC`` itself, whatever offset it was sent with: comparing and subtracting
    instants of the same zone object is several times cheaper.
    """

    tenant_id: str
    user_id: str
    domain: str
    prompt: str
    completion: str
    outcome: OutcomeKind
    final_text: str | None
    rating: int | None
    served_name: str | None
    occurred_at: datetime


_Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]


class _Outcome(Struct, forbid_unknown_fields=True, gc=False):
    """An outcome as it may look; the kind decides which of the others must be there."""

    kind: str
    final_text: _Text | UnsetType = UNSET
    rating: Annotated[int, Meta(ge=1, le=5)] | UnsetType = UNSET


class _Document(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of an interaction, no laxer than the contract's; what is said of them here need not be asked again."""

    tenant_id: str
    user_id: Annotated[str, Meta(min_length=1, max_length=256)]
    interaction_id: Annotated[str, Meta(min_length=1, max_length=128)]
    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
    completion: _Text
    outcome: _Outcome
    notice_version: str
    occurred_at: str
    domain: str = "default"
    served_name: str | None = None


_decoded: Final = Decoder(_Document).decode
_new: Final = tuple.__new__  # makes a named tuple at half the cost of a call of its class


class InteractionReader:
    """Reads the records of the interactions topic.

    Args:
        max_event_bytes: largest value of an event.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        # Tenants, adapter lines, versions of notices and adapters: few, and each was accepted by the contract.
        self._names: set[tuple[str, str, str, str | None]] = set()

    def read(self, record: SourceRecord) -> Parsed[Interaction] | Invalid:
        """Return the interaction of a record, or why there is none."""
        try:
            regular = self._regular(record)
        except (TypeError, ValueError, KeyError, AttributeError):
            regular = None
        return self._by_contract(record) if regular is None else regular

    def _regular(self, record: SourceRecord) -> Parsed[Interaction] | None:
        """Return the interaction if it is certainly valid.

        Raises:
            TypeError, ValueError, KeyError, AttributeError: it is not, or not for certain.
        """
        value = record.value
        headers: dict[str, Any] = dict(record.headers)  # one without a value raises below
        event_id, source = headers["ce_id"], headers["ce_source"]
        attributes = b"".join(headers.values())
        if (
            value is None
            or len(value) > self._max_event_bytes
            or headers["ce_type"] != _TYPE
            or headers["ce_specversion"] != b"1.0"
            or headers["content-type"] != _JSON
            or not event_id
            or not source
            or not attributes.isascii()
            or (
                len(attributes) > MAX_ATTRIBUTE_CHARACTERS
                and max(map(len, headers.values())) > MAX_ATTRIBUTE_CHARACTERS
            )
        ):
            return None
        data = _decoded(value)
        tenant_id, user_id, event, occurred_at = (
            data.tenant_id,
            data.user_id,
            data.interaction_id,
            data.occurred_at,
        )
        domain, served_name, outcome = data.domain, data.served_name, data.outcome
        kind = _OUTCOMES[outcome.kind]
        final_text, rating = outcome.final_text, outcome.rating
        if (
            (tenant_id, domain, data.notice_version, served_name) not in self._names
            or (final_text is UNSET) is (kind in _WITH_TEXT)
            or (rating is UNSET) is (kind is OutcomeKind.RATING)
            or not user_id.isprintable()
            or not event.isascii()
            or not event.isprintable()
            or " " in event
            or _USUAL_TIME(occurred_at) is None
            or record.key != f"{tenant_id}/{user_id}".encode()
        ):
            return None
        interaction = _new(
            Interaction,
            (
                tenant_id,
                user_id,
                domain,
                data.prompt,
                data.completion,
                kind,
                None if final_text is UNSET else final_text,
                None if rating is UNSET else rating,
                served_name,
                datetime.fromisoformat(occurred_at),
            ),
        )
        traceparent = headers.get("traceparent")
        return _new(
            Parsed,
            (
                interaction,
                INTERACTION_RECORDED,
                sender_digest_of(source, event_id),
                None if traceparent is None else traceparent.decode(),
            ),
        )

    def _by_contract(self, record: SourceRecord) -> Parsed[Interaction] | Invalid:
        decoded = decode_interaction(
            record.headers, record.value, key=record.key, max_bytes=self._max_event_bytes
        )
        if isinstance(decoded, Invalid):
            return decoded
        data, envelope = decoded
        if len(self._names) >= NAMES_REMEMBERED:
            self._names.clear()
        self._names.add((data.tenant_id, data.domain, data.notice_version, data.served_name))
        outcome = data.outcome
        interaction = Interaction(
            data.tenant_id,
            data.user_id,
            data.domain,
            data.prompt,
            data.completion,
            _OUTCOMES[outcome.kind],
            outcome.final_text if isinstance(outcome, Edited | Correction) else None,
            outcome.rating if isinstance(outcome, Rating) else None,
            data.served_name,
            data.occurred_at.astimezone(UTC),
        )
        return Parsed(interaction, envelope.type, envelope.sender_digest(), envelope.traceparent)
