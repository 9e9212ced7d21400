"""Between the contract and the domain: interactions become signals, lifecycle events become wire events.

Nothing here reads a database or a clock; what is decided here is decided by the arguments alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.announcements import AdapterEventKind, DesiredChange
from personalization.signals import Signal
from streams.contracts import adapter as wire
from streams.contracts.manifest import AdapterVersionV1

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.adapters import AdapterVersion
    from personalization.announcements import AdapterLifecycleEvent
    from streams.interaction_reading import Interaction

_KINDS = {
    AdapterEventKind.PUBLISHED: wire.AdapterEventKind.PUBLISHED,
    AdapterEventKind.ROLLOUT_ADVANCED: wire.AdapterEventKind.ROLLOUT_ADVANCED,
    AdapterEventKind.PROMOTED: wire.AdapterEventKind.PROMOTED,
    AdapterEventKind.ROLLED_BACK: wire.AdapterEventKind.ROLLED_BACK,
    AdapterEventKind.WITHDRAWN: wire.AdapterEventKind.WITHDRAWN,
    AdapterEventKind.DECLINED: wire.AdapterEventKind.DECLINED,
}


def signal_of(interaction: Interaction, redact: Callable[[Sequence[str]], Sequence[str]]) -> Signal:
    """Return the signal of an interaction, every text of it redacted."""
    texts = [interaction.prompt, interaction.completion]
    if interaction.final_text is not None:
        texts.append(interaction.final_text)
    prompt, completion, *rest = redact(texts)
    return Signal(
        prompt,
        completion,
        interaction.outcome,
        rest[0] if rest else None,
        interaction.rating,
        interaction.served_name,
    )


def wire_kind(event: AdapterLifecycleEvent) -> wire.AdapterEventKind:
    """Return under which kind the contract reports a lifecycle event."""
    return _KINDS[event.kind]


def adapter_event(event: AdapterLifecycleEvent) -> wire.AdapterEventV1:
    """Return the wire form of a lifecycle event; of the tenant it holds the line's pseudonym only."""
    return wire.AdapterEventV1(
        kind=wire_kind(event),
        line_ref=event.line_ref,
        epoch=event.epoch,
        adapter=None if event.version is None else adapter_version(event.version),
        left_version_id=event.left_version_id,
        revoked_version_ids=event.revoked_version_ids,
        reason_code=event.reason_code,
        reason=event.reason[:1024],
        actor=event.actor[:128],
        round_id=event.round_id,
        occurred_at=event.occurred_at,
    )


def adapter_state(event: AdapterLifecycleEvent) -> wire.AdapterStateV1 | None:
    """Return the desired state that an event sets; ``None`` when it sets none."""
    if event.desired_change is not DesiredChange.SET or event.desired is None:
        return None
    return wire.AdapterStateV1(
        line_ref=event.line_ref,
        epoch=event.epoch,
        adapter=adapter_version(event.desired),
        revoked_version_ids=event.revoked_version_ids,
        updated_at=event.occurred_at,
    )


def adapter_version(version: AdapterVersion) -> AdapterVersionV1:
    """Return the wire form of a registered version: its manifest as it was signed."""
    return AdapterVersionV1.from_manifest_bytes(
        version.manifest.to_bytes(),
        uri=version.uri,
        key_id=version.signature.key_id,
        signature=version.signature.signature,
    )
