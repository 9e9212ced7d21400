"""Lifecycle events of adapters become wire events, written to the outbox in the transaction of their cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.registry.announcements import AdapterEventKind, DesiredChange
from privacy.boundary.marks import Kind
from streams.contracts import adapter as wire
from streams.contracts.codec import encode, tombstone
from streams.contracts.envelope import new_envelope
from streams.contracts.manifest import AdapterVersionV1
from streams.contracts.signed_record import KEY_ID_HEADER, SIGNATURE_HEADER, signed_bytes
from streams.contracts.topics import ADAPTER_STATE
from streams.errors import SettingsError
from streams.outbox.released import released_record
from streams.outbox.rows import SOURCE, add_record
from streams.telemetry.tracing import traceparent_of

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion
    from personalization.adapters.signing import ManifestSigner
    from personalization.prompts.rows import Standing
    from personalization.prompts.values import SignedTemplate
    from personalization.registry.announcements import AdapterLifecycleEvent
    from personalization.rollouts.values import Rollout
    from streams.contracts.codec import Record

_KINDS = {
    AdapterEventKind.PUBLISHED: wire.AdapterEventKind.PUBLISHED,
    AdapterEventKind.ROLLOUT_ADVANCED: wire.AdapterEventKind.ROLLOUT_ADVANCED,
    AdapterEventKind.PROMOTED: wire.AdapterEventKind.PROMOTED,
    AdapterEventKind.ROLLED_BACK: wire.AdapterEventKind.ROLLED_BACK,
    AdapterEventKind.WITHDRAWN: wire.AdapterEventKind.WITHDRAWN,
    AdapterEventKind.DECLINED: wire.AdapterEventKind.DECLINED,
    AdapterEventKind.DRIFTED: wire.AdapterEventKind.DRIFTED,
    AdapterEventKind.PROMPT_MOVED: wire.AdapterEventKind.PROMPT_MOVED,
    AdapterEventKind.TERMS_CHANGED: wire.AdapterEventKind.TERMS_CHANGED,
    AdapterEventKind.MEMORY_CHANGED: wire.AdapterEventKind.MEMORY_CHANGED,
}


class OutboxAdapterEvents:
    """``AdapterEvents`` of the registry over the outbox: the event, and the state it brings about.

    Args:
        signer: signs desired states and tombstones, since servers refuse those that nobody signed. A process that
            only tells what happened (a worker that declines a round) needs none.
    """

    def __init__(self, signer: ManifestSigner | None = None) -> None:
        self._signer = signer

    def append(self, session: Session, event: AdapterLifecycleEvent) -> None:
        """Add the event and, where it changes the desired state, the new state (or a tombstone)."""
        happened = new_envelope(
            event_id=event.event_id,
            source=SOURCE,
            event_type=wire_kind(event).event_type,
            time=event.occurred_at,
            subject=event.line_ref,
            traceparent=traceparent_of(event.round_id),
            sequence=event.epoch,
        )
        data = adapter_event(event)
        record = released_record(Kind.ADAPTER_EVENT, encode(data, happened), data)
        add_record(session, record, event.occurred_at)
        self.restate(session, event)

    def restate(self, session: Session, event: AdapterLifecycleEvent) -> None:
        """Add the desired state that an event implies (or a tombstone), and not the event itself."""
        if event.desired_change is DesiredChange.CLEAR:
            withdrawal = tombstone(
                event.line_ref,
                event.epoch,
                event_id=f"{event.event_id}.state",
                source=SOURCE,
                time=event.occurred_at,
            )
            withdrawal = self._signed(withdrawal)
            add_record(session, released_record(Kind.ADAPTER_STATE, withdrawal), event.occurred_at)
        state = adapter_state(event)
        if state is None:
            return
        envelope = new_envelope(
            event_id=f"{event.event_id}.state",
            source=SOURCE,
            event_type=ADAPTER_STATE,
            time=event.occurred_at,
            subject=event.line_ref,
            traceparent=traceparent_of(event.round_id),
            sequence=event.epoch,
        )
        record = released_record(Kind.ADAPTER_STATE, self._signed(encode(state, envelope)), state)
        add_record(session, record, event.occurred_at)

    def _signed(self, record: Record) -> Record:
        if self._signer is None:
            raise SettingsError(
                "this process has no signing key, so it may not say what servers hold; nothing was changed"
            )
        covered = signed_bytes(record.topic, record.key, record.headers, record.value)
        signature = self._signer.sign_bytes(covered)
        headers = [
            *record.headers,
            (KEY_ID_HEADER, signature.key_id.encode()),
            (SIGNATURE_HEADER, signature.signature.encode()),
        ]
        return record._replace(headers=headers)


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
        rollout=None if event.rollout is None else rollout(event.rollout),
        drift=None if event.drift is None else wire.DriftV1(**vars(event.drift)),
        prompts=None if event.prompts is None else _prompts_moved(event.prompts),
        memory=None if event.memory is None else wire.MemoryVersionV1(**vars(event.memory)),
        occurred_at=event.occurred_at,
    )


def rollout(stands: Rollout) -> wire.RolloutV1:
    """Return the wire form of where a rollout stands."""
    return wire.RolloutV1(
        stage=stands.step + 1,
        candidate_percent=stands.percent,
        salt=stands.salt,
        state=stands.stage.value,
        mode=stands.mode.value,
        flag=stands.flag.value,
        candidate_version_id=stands.candidate,
        steps=stands.plan.steps,
        bake_seconds=stands.plan.bake_seconds,
    )


def prompts(stands: Standing) -> wire.PromptsV1:
    """Return the wire form of which prompt templates a line uses."""
    return wire.PromptsV1(
        current=None if stands.current is None else _template(stands.current),
        candidate=None if stands.candidate is None else _template(stands.candidate),
        candidate_percent=stands.candidate_percent,
        salt=stands.salt,
    )


def _prompts_moved(stands: Standing) -> wire.PromptsMovedV1:
    return wire.PromptsMovedV1(
        current=None if stands.current is None else stands.current.template.version_id,
        candidate=None if stands.candidate is None else stands.candidate.template.version_id,
        candidate_percent=stands.candidate_percent,
    )


def _template(signed: SignedTemplate) -> wire.PromptTemplateV1:
    template = signed.template
    return wire.PromptTemplateV1(
        version_id=template.version_id,
        number=signed.number,
        source=template.source,
        variables=tuple(
            wire.PromptVariableV1(name=one.name, default=one.default, choices=one.choices)
            for one in template.variables
        ),
        when=template.when.value,
        origin=template.origin.value,
    )


def adapter_state(event: AdapterLifecycleEvent) -> wire.AdapterStateV1 | None:
    """Return the desired state that an event sets; ``None`` when it sets none."""
    if event.desired_change is not DesiredChange.SET or event.desired is None:
        return None
    return wire.AdapterStateV1(
        line_ref=event.line_ref,
        epoch=event.epoch,
        adapter=adapter_version(event.desired),
        candidate=None if event.candidate is None else adapter_version(event.candidate),
        rollout=wire.RolloutV1() if event.rollout is None else rollout(event.rollout),
        revoked_version_ids=event.revoked_version_ids,
        prompts=None if event.prompts is None else prompts(event.prompts),
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
