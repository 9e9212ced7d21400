"""What can happen to an adapter line, and how that is told."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from personalization.errors import RegistryError
from personalization.prompts import rows as prompts
from personalization.registry import queries as registry
from personalization.rollouts import rows as rollouts
from privacy.anchor.due import mark_due

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from personalization.adapters.manifest import AdapterVersion
    from personalization.prompts.rows import Standing
    from personalization.registry.tables import AdapterLineRow
    from personalization.rollouts.values import Rollout


class AdapterEventKind(StrEnum):
    """What can happen to an adapter line."""

    PUBLISHED = "published"
    ROLLOUT_ADVANCED = "rollout_advanced"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"
    DECLINED = "declined"
    DRIFTED = "drifted"
    PROMPT_MOVED = "prompt_moved"
    TERMS_CHANGED = "terms_changed"
    MEMORY_CHANGED = "memory_changed"


class DesiredChange(StrEnum):
    """What the event does to the line's desired state (the compacted topic)."""

    UNCHANGED = "unchanged"
    SET = "set"  # serve ``desired``
    CLEAR = "clear"  # serve the base model: a tombstone


@dataclass(frozen=True, kw_only=True)
class DriftFacts:
    """What a charged reading of a line showed that drifted; made of released numbers alone.

    Attributes:
        family: what changed.
        since: first instant of the time after the change, where it probably lies.
        statistic: chi-square distributed where nothing changed.
        threshold: above which it is an alarm.
        degrees: of freedom.
        level: probability of a false alarm at a reading.
        followed: what was done about it.
    """

    family: str
    since: datetime | None
    statistic: float
    threshold: float
    degrees: int
    level: float
    followed: str


@dataclass(frozen=True, kw_only=True)
class MemoryFacts:
    """Which version of a collection of approved documents holds, or is tried; it names no document.

    Attributes:
        collection: which list of documents.
        number: of the version.
        version_id: digest of what stands in it.
        decision: what made it, in a word.
        restores: the number of the version that a roll-back went back to.
        documents: how many stand in it; of a candidate, how many it changes.
        candidate_percent: of a candidate, the share of the subjects that is answered from it, and 0 once it is
            abandoned; ``None`` of a version that holds for everybody.
    """

    collection: str
    number: int
    version_id: str
    decision: str
    restores: int | None
    documents: int
    candidate_percent: float | None = None


@dataclass(frozen=True, kw_only=True)
class AdapterLifecycleEvent:
    """One thing that happened to an adapter line, with all a server or an auditor needs.

    Attributes:
        event_id: unique; the CloudEvents ``id``.
        occurred_at: aware UTC; for what comes of a round the public instant of its slot. It is not sent before.
        epoch: grows by one with every event of the line; a consumer refuses an epoch at or below one it has acted on.
        line_ref: the line's public pseudonym (message key).
        tenant_id: for our own stores and routing of the record; the wire carries ``line_ref`` alone.
        version: the version the event is about, with all field groups (artifact, base, lora, privacy, evaluation,
            lineage, trust); ``None`` for a decline or a withdrawn line.
        desired_change: what happens to the desired state of the line.
        desired: the version to hold when ``desired_change`` is SET (on a roll-back: the earlier one).
        left_version_id: the version that a roll-back or withdrawal leaves.
        revoked_version_ids: every version that must be unloaded (a withdrawal reaches descendants).
        reason_code: stable machine-readable reason (decline reason, "operator", "erasure", …).
        reason: one public sentence.
        actor: who asked: "schedule", "trainer", or an operator's name.
        round_id: the round that led here, if any.
        rollout: where the rollout of the line stands after it; ``None`` for a line that never had one.
        candidate: the version that a share of the subjects gets, when ``desired_change`` is SET.
        drift: what drifted, of an alarm.
        prompts: which prompt templates the line uses after it; ``None`` where nothing was ever decided about them.
        memory: which version of a collection holds, of a change to what the line's questions are answered from.
    """

    event_id: str
    kind: AdapterEventKind
    occurred_at: datetime
    tenant_id: str
    domain: str
    line_ref: str
    epoch: int
    version: AdapterVersion | None = None
    desired_change: DesiredChange = DesiredChange.UNCHANGED
    desired: AdapterVersion | None = None
    left_version_id: str | None = None
    revoked_version_ids: tuple[str, ...] = ()
    reason_code: str = ""
    reason: str = ""
    actor: str = ""
    round_id: str | None = None
    rollout: Rollout | None = None
    candidate: AdapterVersion | None = None
    drift: DriftFacts | None = None
    prompts: Standing | None = None
    memory: MemoryFacts | None = None


class AdapterEvents(Protocol):
    """The outbox: adds rows to the caller's transaction, so an event exists exactly when its cause does."""

    def append(self, session: Session, event: AdapterLifecycleEvent) -> None:
        """Add the event (and the desired state it implies) to ``session``; never commits."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """Who did something to a line, why and when.

    Attributes:
        actor: "schedule", "trainer", or an operator's name.
        reason: one public sentence.
        code: the reason, stable and machine-readable.
        now: the public clock; for what comes of a round the public instant of its slot.
    """

    actor: str
    reason: str
    code: str = "operator"
    now: datetime


def announce(
    session: Session,
    events: AdapterEvents,
    line: AdapterLineRow,
    kind: AdapterEventKind,
    act: Act,
    *,
    version: AdapterVersion | None = None,
    change: DesiredChange = DesiredChange.UNCHANGED,
    desired: AdapterVersion | None = None,
    left_version_id: str | None = None,
    revoked_version_ids: tuple[str, ...] = (),
    round_id: str | None = None,
    drift: DriftFacts | None = None,
    memory: MemoryFacts | None = None,
) -> None:
    """Raise the epoch of a locked line and tell its readers what happened, in the caller's transaction.

    How the line's rollout and its prompts stand is read here, so no event and no desired state forgets them.
    """
    line.epoch += 1
    session.add(line)
    mark_due(session, line.tenant_id)
    rollout, candidate = standing(session, line)
    events.append(
        session,
        AdapterLifecycleEvent(
            event_id=str(uuid.uuid4()),
            kind=kind,
            occurred_at=act.now,
            tenant_id=line.tenant_id,
            domain=line.domain,
            line_ref=line.line_ref,
            epoch=line.epoch,
            version=version,
            desired_change=change,
            desired=desired,
            left_version_id=left_version_id,
            revoked_version_ids=revoked_version_ids,
            reason_code=act.code,
            reason=act.reason,
            actor=act.actor,
            round_id=round_id,
            rollout=rollout,
            candidate=candidate if change is DesiredChange.SET else None,
            drift=drift,
            prompts=prompts.standing_of(session, line.line_ref),
            memory=memory,
        ),
    )


def standing(session: Session, line: AdapterLineRow) -> tuple[Rollout | None, AdapterVersion | None]:
    """Return where the rollout of a locked line stands and, while one runs, its candidate.

    Raises:
        RegistryError: the candidate is not registered.
    """
    row = rollouts.find(session, line.line_ref)
    if row is None:
        return None, None
    rollout = rollouts.value_of(row)
    if not rollout.running:
        return rollout, None
    found = registry.get_version(session, rollout.candidate or "")
    if found is None:
        raise RegistryError(f"the candidate of line {line.line_ref!r} is not registered; check the database")
    return rollout, registry.read_version(found)
