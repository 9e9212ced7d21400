"""What a bridge knows of one version: how far it is, and when it was used or not wanted any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.client import AdapterVersionV1
    from streams.serving.engines.proving import Alone

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0


class Stage(StrEnum):
    """How far a version is."""

    WAITING = "waiting"  # not in the engine: new, failed and to be tried again, or no place
    LOADED = "loaded"  # in the engine; not proved, or it cannot be
    VERIFIED = "verified"  # in the engine, and the model showed it
    LEAVING = "leaving"  # nobody is sent there any more; requests in progress end
    FORGOTTEN = "forgotten"  # the engine was told to forget it; its files may still be read
    REFUSED = "refused"  # for good


@dataclass
class Life:
    """One version in one bridge.

    Attributes:
        version: what it is.
        epoch: of the desired state that named it last.
        share: whose share of the engine's places it takes: its tenant's pseudonym, or its line where none was given.
        candidate: whether it is a line's possible successor only.
        stage: how far it is.
        proved_in: the engine's generation in which it was verified.
        alone: what the engine answered when it was proved; to be repeated beside others.
        used_at: when somebody was last seen to use or to want it, by the bridge's own counter.
        loaded_at: when it came into the engine.
        left_at: since when it is not wanted; None while it is.
        at_once: whether it was revoked: it leaves now, requests in progress or not.
        hurried: whether it may not linger for requests to come, because another waits for its place.
        refused: whether it is never tried again.
        attempts: how often in a row it failed.
        try_at: when it is tried again.
        code: of the last failure.
        told: codes that were reported.
    """

    version: AdapterVersionV1
    epoch: int
    share: str
    candidate: bool = False
    stage: Stage = Stage.WAITING
    proved_in: int = -1
    alone: Alone | None = None
    used_at: float = float("-inf")
    loaded_at: float = 0.0
    left_at: float | None = None
    at_once: bool = False
    hurried: bool = False
    refused: bool = False
    attempts: int = 0
    try_at: float = float("-inf")
    code: str = ""
    told: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its served name."""
        return self.version.served_name

    @property
    def inside(self) -> bool:
        """Whether the engine holds it."""
        return self.stage in {Stage.LOADED, Stage.VERIFIED, Stage.LEAVING}

    def failed(self, code: str, *, retryable: bool, now: float) -> bool:
        """Note a failure; return whether it is another one than the last that was reported."""
        self.code = code
        self.refused = not retryable
        if not self.inside:
            self.out()
        self.try_at = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self.attempts, 30))
        self.attempts += 1
        new = code not in self.told
        self.told.add(code)
        return new

    def out(self) -> None:
        """Note that neither the engine nor a request has anything to do with it any more."""
        self.stage = Stage.REFUSED if self.refused else Stage.WAITING

    def succeeded(self) -> None:
        """Note that it is in service."""
        self.code, self.attempts = "", 0
        self.told.clear()
