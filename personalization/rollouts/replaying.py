"""Tell from its events alone how a line's rollouts went: for audit, and to make lost rows again.

Every event carries where the rollout stands after it, so the fold is short; what it adds is that it refuses a story
that cannot be: epochs out of order, a move that no decision makes, a promotion of something that was never a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from personalization.errors import RolloutError
from personalization.rollouts.values import Rollout, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

ALLOWED: Final[dict[Stage, frozenset[Stage]]] = {
    Stage.NONE: frozenset({Stage.CANDIDATE}),
    Stage.CANDIDATE: frozenset(
        {Stage.CANARY, Stage.HELD, Stage.PROMOTED, Stage.ROLLED_BACK, Stage.WITHDRAWN}
    ),
    Stage.CANARY: frozenset({Stage.CANARY, Stage.HELD, Stage.PROMOTED, Stage.ROLLED_BACK, Stage.WITHDRAWN}),
    Stage.HELD: frozenset(
        {Stage.CANDIDATE, Stage.CANARY, Stage.PROMOTED, Stage.ROLLED_BACK, Stage.WITHDRAWN}
    ),
    Stage.PROMOTED: frozenset({Stage.SUPERSEDED, Stage.ROLLED_BACK, Stage.WITHDRAWN}),
    Stage.SUPERSEDED: frozenset({Stage.WITHDRAWN}),
    Stage.ROLLED_BACK: frozenset({Stage.WITHDRAWN}),
    Stage.WITHDRAWN: frozenset(),
}
"""Where a candidate's rollout may go from each stage."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one event of a line says.

    Attributes:
        epoch: its place on the line.
        kind: what happened: published, rollout_advanced, promoted, rolled_back, withdrawn or declined.
        version_id: whom it is about, if anybody.
        rollout: where the rollout stands after it; ``None`` for a line that never had one.
        revoked: versions that were withdrawn by it.
    """

    epoch: int
    kind: str
    version_id: str | None
    rollout: Rollout | None
    revoked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the events of a line add up to.

    Attributes:
        epoch: of the last event.
        serving: version that the line serves; ``None``: the base model.
        states: of each version that was told of, in the registry's words.
        rollout: where the newest one stands.
    """

    epoch: int = 0
    serving: str | None = None
    states: dict[str, str] = field(default_factory=dict)
    rollout: Rollout | None = None


def replay(events: Iterable[Told]) -> Story:
    """Return what the events of one line, in order, add up to.

    Raises:
        RolloutError: no rollout goes like that.
    """
    story = Story()
    for told in events:
        if told.epoch <= story.epoch:
            raise RolloutError(f"epoch {told.epoch} follows epoch {story.epoch}; epochs of a line only rise")
        _require_move(story.rollout, told)
        story = _after(story, told)
    return story


def _require_move(before: Rollout | None, told: Told) -> None:
    after = told.rollout
    if after is None or before is None:
        return
    if after.candidate == before.candidate:
        if after.stage is not before.stage and after.stage not in ALLOWED[before.stage]:
            raise RolloutError(
                f"epoch {told.epoch} takes a rollout from {before.stage.value} to {after.stage.value}; allowed are "
                f"{', '.join(sorted(ALLOWED[before.stage])) or 'no moves'}"
            )
    elif after.stage is not Stage.CANDIDATE or before.running:
        raise RolloutError(f"epoch {told.epoch} names another candidate while one runs; a rollout ends first")


def _after(story: Story, told: Told) -> Story:
    states = dict(story.states)
    serving = story.serving
    version = told.version_id
    if told.kind == "withdrawn":
        serving = _withdrawn(told, serving, states)
    elif told.kind == "published" and version is not None:
        if told.rollout is not None and told.rollout.running and told.rollout.candidate == version:
            states[version] = "candidate"
        else:
            serving = _taken_up(version, serving, "superseded", states)
    elif told.kind == "promoted" and version is not None:
        if states.get(version) != "candidate":
            raise RolloutError(
                f"epoch {told.epoch} promotes what is no candidate; only candidates are promoted"
            )
        serving = _taken_up(version, serving, "superseded", states)
    elif told.kind == "rolled_back" and version is not None:
        if states.get(version) == "candidate":
            states[version] = "rolled_back"
        else:
            serving = _taken_up(version, serving, "rolled_back", states)
    ended = told.rollout
    if (
        ended is not None
        and ended.stage is Stage.ROLLED_BACK
        and states.get(ended.candidate or "") == "candidate"
    ):
        states[str(ended.candidate)] = "rolled_back"  # by the withdrawal of what it was compared with
    return replace(
        story, epoch=told.epoch, serving=serving, states=states, rollout=told.rollout or story.rollout
    )


def _taken_up(version: str, before: str | None, left_as: str, states: dict[str, str]) -> str:
    if before is not None:
        states[before] = left_as
    states[version] = "published"
    return version


def _withdrawn(told: Told, serving: str | None, states: dict[str, str]) -> str | None:
    order = list(states)
    states.update(dict.fromkeys(told.revoked, "withdrawn"))
    if serving not in told.revoked:
        return serving
    usable = [one for one in order if states[one] == "superseded"]
    if not usable:
        return None
    states[usable[-1]] = "published"
    return usable[-1]
