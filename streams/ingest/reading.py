"""From a record to what ingest needs of an interaction, without the full validator for the regular case.

The contract (``streams.contracts``) alone decides what is valid and why something is not. This module recognizes
events that are certainly valid, at a quarter of the cost: plain headers, no unknown fields, texts of the right type
and length, the usual form of a time, and short names that the contract accepted before. Everything else goes to the
contract's validator, refusals included, so that there is one set of rules: what is recognized here is accepted there,
with the same values (a property test holds it).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from personalization.signals.values import OutcomeKind
from streams.contracts.codec import decode_interaction
from streams.contracts.envelope import (
    JSON_CONTENT_TYPE,
    MAX_ATTRIBUTE_CHARACTERS,
    Invalid,
    sender_digest_of,
)
from streams.contracts.fields import MAX_TEXT_CHARACTERS
from streams.contracts.interaction import Correction, Edited, InteractionV1, Rating
from streams.contracts.topics import INTERACTION_RECORDED
from streams.ingest.parsed import Parsed

if TYPE_CHECKING:
    from streams.broker.records import SourceRecord

NAMES_REMEMBERED: Final = 65_536
_TYPE: Final = INTERACTION_RECORDED.encode()
_JSON: Final = JSON_CONTENT_TYPE.encode()
_FIELDS: Final = frozenset(InteractionV1.model_fields)
_OUTCOMES: Final = {kind.value: kind for kind in OutcomeKind}
_BARE: Final = frozenset({OutcomeKind.ACCEPTED, OutcomeKind.REJECTED})
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
        interaction = self._regular_data(orjson.loads(value))
        if interaction is None or record.key != f"{interaction.tenant_id}/{interaction.user_id}".encode():
            return None
        traceparent = headers.get("traceparent")
        return Parsed(
            interaction,
            INTERACTION_RECORDED,
            sender_digest_of(source, event_id),
            None if traceparent is None else traceparent.decode(),
        )

    def _regular_data(self, data: dict[str, Any]) -> Interaction | None:
        tenant_id, user_id, event_id = data["tenant_id"], data["user_id"], data["interaction_id"]
        prompt, completion, occurred_at = data["prompt"], data["completion"], data["occurred_at"]
        domain, served_name = data.get("domain", "default"), data.get("served_name")
        outcome = data["outcome"]
        kind = _OUTCOMES[outcome["kind"]]
        final_text = rating = None
        if kind not in _BARE:
            if kind is OutcomeKind.RATING:
                rating = outcome["rating"]
                if type(rating) is not int or not 1 <= rating <= 5:
                    return None
            else:
                final_text = outcome["final_text"]
                if type(final_text) is not str or len(final_text) > MAX_TEXT_CHARACTERS:
                    return None
        if (
            (tenant_id, domain, data["notice_version"], served_name) not in self._names
            or len(outcome) != (1 if kind in _BARE else 2)
            or not data.keys() <= _FIELDS
            or type(user_id) is not str
            or not 0 < len(user_id) <= 256
            or not user_id.isprintable()
            or type(event_id) is not str
            or not 0 < len(event_id) <= 128
            or not event_id.isascii()
            or not event_id.isprintable()
            or " " in event_id
            or type(prompt) is not str
            or not 0 < len(prompt) <= MAX_TEXT_CHARACTERS
            or type(completion) is not str
            or len(completion) > MAX_TEXT_CHARACTERS
            or _USUAL_TIME(occurred_at) is None
        ):
            return None
        return Interaction(
            tenant_id,
            user_id,
            domain,
            prompt,
            completion,
            kind,
            final_text,
            rating,
            served_name,
            datetime.fromisoformat(occurred_at),
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
