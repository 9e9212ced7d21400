"""What a rollout is: its stages, the line's mode and flag, its plan, and where it stands. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from privacy.canonical import digest_of
from privacy.mechanisms.noisy_comparison import Arms, NoisyComparison
from privacy.mechanisms.private_read import read_document
from privacy.policy.rollout import Decide, Undecided

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class Stage(StrEnum):
    """Where the rollout of a line's newest candidate stands."""

    NONE = "none"  # the line never had a candidate
    CANDIDATE = "candidate"  # registered; nobody sees it yet
    CANARY = "canary"  # a share of the subjects gets it
    HELD = "held"  # stays where it is until somebody decides; never forward by time alone
    PROMOTED = "promoted"  # it is what the line serves
    SUPERSEDED = "superseded"  # another version was published at once after it
    ROLLED_BACK = "rolled_back"  # left; never served again
    WITHDRAWN = "withdrawn"  # revoked, or the whole line was


RUNNING: Final = frozenset({Stage.CANDIDATE, Stage.CANARY, Stage.HELD})


class Mode(StrEnum):
    """What people decided about the movement of a line."""

    FREE = "free"
    PINNED = "pinned"  # it serves its version to everybody, and no candidate to anybody
    FROZEN = "frozen"  # nothing moves forward; a breached guard still rolls back


class Flag(StrEnum):
    """What a tenant's line may show at all, from least to most."""

    OFF = "off"  # the base model answers
    SHADOW = "shadow"  # the candidate answers silently, and nobody sees it
    CANARY_ONLY = "canary_only"  # the candidate gets the share of its first step, and no more
    ON = "on"

    @classmethod
    def read(cls, text: str) -> Flag:
        """Return the flag that a text says; one that nobody here knows is off."""
        try:
            return cls(text)
        except ValueError:
            return cls.OFF

    def lesser(self, other: Flag) -> Flag:
        """Return the one of both that shows less."""
        order = list(Flag)
        return min(self, other, key=order.index)


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """How users' reactions to a candidate and to the version are compared; frozen with the plan that holds it.

    Attributes:
        mechanism: what is charged and run.
        share: of the subjects that get the candidate meanwhile.
        look_seconds: time between two looks; the first is one such time after the comparison began.
        reactions_per_user: most reactions of one user that count, the first ones.
        reacting_users: public guess of how many users react in all.
        undecided: what becomes of the candidate where nothing is found.
    """

    mechanism: NoisyComparison
    share: float
    look_seconds: int
    reactions_per_user: int
    reacting_users: int
    undecided: Undecided = Undecided.HOLD

    @property
    def arms(self) -> Arms:
        """The public numbers of the two arms, counted from an acceptance of one half."""
        return Arms(share=self.share)

    def look_at(self, begun_at: datetime, now: datetime) -> int:
        """Return the number of the look that whoever reacts ``now`` first belongs to; it may be past the last."""
        return int((now - begun_at) / timedelta(seconds=self.look_seconds))

    def due_at(self, begun_at: datetime, look: int) -> datetime:
        """Return the public instant of a look."""
        return begun_at + timedelta(seconds=self.look_seconds) * (look + 1)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {
            "mechanism": self.mechanism.to_document(),
            "share": self.share,
            "look_seconds": self.look_seconds,
            "reactions_per_user": self.reactions_per_user,
            "reacting_users": self.reacting_users,
            "undecided": self.undecided.value,
        }

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the canonical JSON."""
        return digest_of(self.to_document(), ascii_only=True)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read ``to_document``'s form."""
        return cls(
            **{
                **document,
                "mechanism": read_document(document["mechanism"], {NoisyComparison.kind: NoisyComparison}),
                "undecided": Undecided(document["undecided"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a candidate is rolled out; taken from the policy when the rollout begins, and never changed.

    Attributes:
        steps: percentages, rising; the candidate is promoted after the last.
        bake_seconds: how long it stays at each step, and how long servers have to load it before the first.
        guards: of each reading that must be there, the most that it may be.
        served: whether a server must have verified the candidate before anybody gets it.
        hold_seconds: how long a held rollout waits before it is rolled back.
        comparison: of users' reactions, which decides at the last step; ``None`` where checks, guards and people do.
    """

    steps: tuple[float, ...]
    bake_seconds: int
    guards: tuple[tuple[str, float], ...] = ()
    served: bool = True
    hold_seconds: int = 7 * 86_400
    comparison: ComparisonPlan | None = None

    @property
    def decide(self) -> Decide:
        """What may decide."""
        return Decide.CHECKS if self.comparison is None else Decide.REACTIONS

    @property
    def bake(self) -> timedelta:
        """How long the candidate stays at a step."""
        return timedelta(seconds=self.bake_seconds)

    def breached_by(self, name: str, value: float) -> bool:
        """Say whether a reading of a guard is above the most that it may be; what is no guard of the plan never is."""
        return any(guard == name and not value <= most for guard, most in self.guards)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {
            "steps": list(self.steps),
            "bake_seconds": self.bake_seconds,
            "guards": dict(self.guards),
            "served": self.served,
            "hold_seconds": self.hold_seconds,
            "decide": self.decide.value,
            **({} if self.comparison is None else {"comparison": self.comparison.to_document()}),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read ``to_document``'s form."""
        return cls(
            steps=tuple(float(step) for step in document["steps"]),
            bake_seconds=document["bake_seconds"],
            guards=tuple(sorted(document["guards"].items())),
            served=document["served"],
            hold_seconds=document["hold_seconds"],
            comparison=ComparisonPlan.from_document(document["comparison"])
            if "comparison" in document
            else None,
        )


NO_PLAN: Final = Plan(steps=(), bake_seconds=0)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Where a line's rollout stands.

    Attributes:
        stage: of the newest candidate.
        step: index into the plan's steps, −1 before the first.
        candidate: its version id; kept when the rollout has ended.
        salt: of the draw of subjects; a new one for each rollout, so that not the same people are always first.
        entered_at: since when it stands so; the bake time counts from here. ``None`` before the first candidate.
        mode: of the line.
        flag: of the line.
        plan: of the rollout.
    """

    stage: Stage = Stage.NONE
    step: int = -1
    candidate: str | None = None
    salt: str = ""
    entered_at: datetime | None = None
    mode: Mode = Mode.FREE
    flag: Flag = Flag.ON
    plan: Plan = field(default=NO_PLAN)

    @property
    def running(self) -> bool:
        """Whether a candidate may still succeed."""
        return self.stage in RUNNING

    @property
    def percent(self) -> float:
        """The share of subjects that get the candidate, 0 to 100."""
        if not self.running or self.step < 0 or self.mode is Mode.PINNED:
            return 0.0
        if self.flag in {Flag.OFF, Flag.SHADOW}:
            return 0.0
        share = self.plan.steps[self.step]
        return min(share, self.plan.steps[0]) if self.flag is Flag.CANARY_ONLY else share

    @property
    def may_advance(self) -> bool:
        """Whether mode and flag let the candidate get a larger share."""
        if self.mode is not Mode.FREE or self.flag in {Flag.OFF, Flag.SHADOW}:
            return False
        return self.flag is Flag.ON or self.step < 0

    @property
    def comparing(self) -> bool:
        """Whether users' reactions are compared now: at the last step, while the candidate gets its share."""
        comparison = self.plan.comparison
        return (
            comparison is not None
            and self.stage in {Stage.CANARY, Stage.HELD}
            and self.step == len(self.plan.steps) - 1
            and self.percent == self.plan.steps[-1]
        )

    def entering(self, stage: Stage, now: datetime, *, step: int | None = None) -> Rollout:
        """Return the rollout as it enters a stage, or a step of one."""
        return replace(self, stage=stage, step=self.step if step is None else step, entered_at=now)
