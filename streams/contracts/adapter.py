"""Adapter events (what happened) and adapter state (what servers should hold now).

``AdapterEventV1`` is appended for audit. ``AdapterStateV1`` is the desired state of one adapter line on the
compacted topic: a server that starts reads that topic to its end and knows everything it has to hold. A
record without a value (tombstone) withdraws the line: serve the base model.

Order along a line is its ``epoch``, which grows with every event of the line and is the CloudEvents
``sequence`` of the record too, tombstones included. Whoever has acted on an epoch refuses that epoch and
every lower one. Versions cannot give the order: a roll-back returns to a lower version on purpose.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .fields import Digest, LineRef, Moment, WireModel
from .manifest import AdapterVersionV1
from .topics import (
    ADAPTER_DECLINED,
    ADAPTER_DRIFTED,
    ADAPTER_MEMORY_CHANGED,
    ADAPTER_PROMOTED,
    ADAPTER_PROMPT_MOVED,
    ADAPTER_PUBLISHED,
    ADAPTER_ROLLED_BACK,
    ADAPTER_ROLLOUT_ADVANCED,
    ADAPTER_TERMS_CHANGED,
    ADAPTER_WITHDRAWN,
)

Epoch = Annotated[int, Field(ge=0, le=2**62)]
Word = Annotated[str, Field(max_length=16, pattern="^[a-z_]*$")]


class RolloutV1(WireModel):
    """How traffic is split between the version of the line and a candidate for its succession.

    A request goes to the candidate when ``hash(salt, subject)`` falls into its percentage, so one subject
    always sees the same version. Every event of a line that was ever rolled out carries all of this, so that the
    events alone tell how each of its rollouts went.
    """

    stage: Annotated[int, Field(ge=0)] = 0
    """Which step of the plan the candidate is at, from 1 on; 0 before the first."""
    candidate_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    salt: Annotated[str, Field(max_length=64)] = ""
    state: Word = ""
    """candidate, canary, held, promoted, superseded, rolled_back, withdrawn, none; empty in records from before."""
    mode: Word = "free"
    """free, pinned (the line serves its version and no candidate) or frozen (nothing moves forward)."""
    flag: Word = "on"
    """on, canary_only (the first step at most), shadow (the candidate answers silently) or off (the base model does).
    A value that a reader does not know means off."""
    candidate_version_id: Digest | None = None
    """The version that the rollout is, or was, about."""
    steps: Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], Field(max_length=20)] = ()
    """Percentages that the candidate goes through."""
    bake_seconds: Annotated[int, Field(ge=0)] = 0
    """How long it stays at each."""


def drawn_at(salt: str, subject: str) -> float:
    """Return where a subject is drawn, 0 to below 100: it gets the candidate where this is below its percentage.

    The same for gateways, for products that route themselves, and for whoever compares the two versions.
    """
    digest = hashlib.sha256(f"{salt}\0{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64 * 100.0


class PromptVariableV1(WireModel):
    """A variable that a template declares; whoever asks may set it."""

    name: Annotated[str, Field(max_length=32, pattern="^[a-z][a-z0-9_]*$")]
    default: Annotated[str, Field(max_length=256)] = ""
    choices: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=32)] = ()
    """What it may be; empty for any short text on one line."""


class PromptTemplateV1(WireModel):
    """One version of an operator's prompt template: Jinja2 with placeholders alone.

    Put no value in by other means than a sandboxed renderer that knows nothing but text and placeholders.
    """

    version_id: Digest
    """Digest of the content."""
    number: Annotated[int, Field(ge=1)]
    source: Annotated[str, Field(min_length=1, max_length=8_192)]
    variables: Annotated[tuple[PromptVariableV1, ...], Field(max_length=8)] = ()
    when: Word = "always"
    """always, or base: where no adapter answers. A value that a reader does not know means never."""
    origin: Word = "operator"
    """operator, card (made of a released style card), or selection (drawn by a charged vote among such templates)."""


class PromptsV1(WireModel):
    """Which templates a line uses, beside its adapter; the candidate goes to subjects as an adapter's does."""

    current: PromptTemplateV1 | None = None
    candidate: PromptTemplateV1 | None = None
    candidate_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    salt: Annotated[str, Field(max_length=64)] = ""


class PromptsMovedV1(WireModel):
    """Which templates a line uses after an event, by the digests of their contents."""

    current: Digest | None = None
    candidate: Digest | None = None
    candidate_percent: Annotated[float, Field(ge=0, le=100)] = 0.0


class AdapterStateV1(WireModel):
    """Desired state of one adapter line: the version servers should hold, and who gets it."""

    line_ref: LineRef
    epoch: Epoch
    adapter: AdapterVersionV1
    """Answers all traffic that is not the candidate's."""
    candidate: AdapterVersionV1 | None = None
    rollout: RolloutV1 = RolloutV1()
    revoked_version_ids: Annotated[tuple[Digest, ...], Field(max_length=256)] = ()
    """Versions that must be unloaded at once, requests in flight included."""
    prompts: PromptsV1 | None = None
    """Operators' prompt templates of the line; absent where there never were any."""
    updated_at: Moment


class AdapterEventKind(StrEnum):
    """What happened to an adapter line."""

    PUBLISHED = "published"
    ROLLOUT_ADVANCED = "rollout_advanced"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"  # revoked for privacy or by a person
    DECLINED = "declined"  # a round trained nothing; the reason says why
    DRIFTED = "drifted"  # what its users ask has changed, or how they take its answers
    PROMPT_MOVED = "prompt_moved"  # a person decided which prompt templates the line uses
    TERMS_CHANGED = "terms_changed"  # a person decided about the line's terms
    MEMORY_CHANGED = "memory_changed"  # a person changed the documents that its questions are answered from

    @property
    def event_type(self) -> str:
        """The ``ce_type`` under which this kind is reported."""
        return _EVENT_TYPES[self]


_EVENT_TYPES = {
    AdapterEventKind.PUBLISHED: ADAPTER_PUBLISHED,
    AdapterEventKind.ROLLOUT_ADVANCED: ADAPTER_ROLLOUT_ADVANCED,
    AdapterEventKind.PROMOTED: ADAPTER_PROMOTED,
    AdapterEventKind.ROLLED_BACK: ADAPTER_ROLLED_BACK,
    AdapterEventKind.WITHDRAWN: ADAPTER_WITHDRAWN,
    AdapterEventKind.DECLINED: ADAPTER_DECLINED,
    AdapterEventKind.DRIFTED: ADAPTER_DRIFTED,
    AdapterEventKind.PROMPT_MOVED: ADAPTER_PROMPT_MOVED,
    AdapterEventKind.TERMS_CHANGED: ADAPTER_TERMS_CHANGED,
    AdapterEventKind.MEMORY_CHANGED: ADAPTER_MEMORY_CHANGED,
}


class DriftV1(WireModel):
    """What drifted on a line, made of what charged readings of all its users together released, with noise."""

    family: Word
    """What changed: length, form, script or words of prompts, or edits of answers."""
    since: Moment | None = None
    """First instant of the time after the change, where it probably lies."""
    statistic: Annotated[float, Field(ge=0)]
    """Of the clearest change; chi-square distributed where nothing changed."""
    threshold: Annotated[float, Field(ge=0)]
    """Above it there is an alarm."""
    degrees: Annotated[int, Field(ge=1)]
    """Degrees of freedom of the statistic."""
    level: Annotated[float, Field(gt=0, le=1)]
    """Probability of a false alarm at one reading, at most."""
    followed: Word
    """What was done: told, round_sooner, round_open, base_answers or base_answered; there may be others later."""


class MemoryVersionV1(WireModel):
    """Which version of a collection of approved documents holds, or is tried; no document is named, nothing quoted."""

    collection: Annotated[str, Field(max_length=63, pattern="^[a-z0-9-]+$")]
    number: Annotated[int, Field(ge=1)]
    version_id: Digest
    """Digest of what stands in it."""
    decision: Word
    """added, removed, accepted, rolled_back, tried, promoted or abandoned; there may be others later."""
    restores: Annotated[int, Field(ge=1)] | None = None
    """Of a roll-back: the version that it went back to."""
    documents: Annotated[int, Field(ge=0)]
    """How many stand in it; of a candidate, how many it changes."""
    candidate_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    """Of a candidate: the share of the subjects that is answered from it, 0 once it is abandoned. Absent or null of a
    version that holds for everybody: only those say what the collection is now."""


class AdapterEventV1(WireModel):
    """One thing that happened to an adapter line."""

    kind: AdapterEventKind
    line_ref: LineRef
    epoch: Epoch
    adapter: AdapterVersionV1 | None = None
    """The version it happened to; absent for a declined round or a withdrawn line."""
    rollout: RolloutV1 | None = None
    prompts: PromptsMovedV1 | None = None
    """Which prompt templates the line uses after it; absent where there never were any."""
    left_version_id: Digest | None = None
    """The version that a roll-back or withdrawal leaves."""
    revoked_version_ids: Annotated[tuple[Digest, ...], Field(max_length=256)] = ()
    reason_code: Annotated[str, Field(max_length=64, pattern="^[a-z0-9_.-]*$")] = ""
    reason: Annotated[str, Field(max_length=1024)] = ""
    """One public sentence."""
    actor: Annotated[str, Field(max_length=128)] = ""
    """Who asked: ``schedule``, ``trainer`` or an operator."""
    round_id: Annotated[str, Field(max_length=128)] | None = None
    drift: DriftV1 | None = None
    """Of an alarm: what drifted."""
    memory: MemoryVersionV1 | None = None
    """Of a change of documents: which version of which collection holds."""
    occurred_at: Moment
