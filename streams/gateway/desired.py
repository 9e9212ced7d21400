"""What each adapter line wants served, as the signed feed says; kept as little of it as a request needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import structlog

from personalization.adapters.manifest import COMPOSED
from personalization.rollouts.values import Flag
from streams.client import UpdateKind

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from streams.client import AdapterFeed, AdapterStateV1, AdapterUpdate, AdapterVersionV1

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.2
META = "meta"  # the scope of versions that several tenants share
MOST_SNAPSHOT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version that a line wants served.

    Attributes:
        served_name: under which engines hold it; never used again.
        template: prompt template of its style card; empty where there is none.
        pattern: regular expression that answers match; empty where there is none.
        grammar: the same in llama.cpp's notation.
        meta: whether it is the shared start of several tenants.
        composed: whether it is the mean of two other lines' versions.
        card: the style card as JSON; empty where there is none.
    """

    served_name: str
    template: str = ""
    pattern: str = ""
    grammar: str = ""
    meta: bool = False
    composed: bool = False
    card: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What one line wants served.

    Attributes:
        line_ref: its pseudonym.
        adapter: for all traffic that is not the candidate's; ``None`` when it was revoked.
        candidate: its possible successor.
        candidate_percent: share of subjects that get the candidate.
        salt: of the drawing of subjects.
        first_step: share of the candidate's first step, which it never exceeds under the flag canary_only.
        flag: what the line may show at all.
    """

    line_ref: str
    adapter: Version | None
    candidate: Version | None = None
    candidate_percent: float = 0.0
    salt: str = ""
    first_step: float = 0.0
    flag: Flag = Flag.ON


class DesiredState:
    """Follows the feed; one thread writes, requests only read.

    Args:
        open_feed: opens one that begins with the full state; called again after a failure, because what a feed has
            handed out before it failed is not handed out again.
        most_seconds: for reading the full state.
    """

    def __init__(
        self, open_feed: Callable[[], AdapterFeed], *, most_seconds: float = MOST_SNAPSHOT_SECONDS
    ) -> None:
        self._open_feed = open_feed
        self._most_seconds = most_seconds
        self._lines: dict[str, Line] = {}
        self.caught_up = False

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, line_ref: str) -> Line | None:
        """Return what a line wants; ``None`` for one that was withdrawn or never published anything."""
        return self._lines.get(line_ref)

    def flag(self, line_ref: str) -> str | None:
        """Return the flag of a line; ``None`` for one that wants nothing served."""
        line = self._lines.get(line_ref)
        return None if line is None else line.flag.value

    def run(self, stop: threading.Event) -> None:
        """Read the full state, then every change, until ``stop`` is set.

        Raises:
            BrokerUnreachableError: the broker is away, or was for too long.
        """
        with self._open_feed() as feed:
            updates = feed.snapshot(timeout_seconds=self._most_seconds)
            kept = {update.line_ref for update in updates}
            for update in updates:
                self.apply(update)
            for line_ref in [line_ref for line_ref in self._lines if line_ref not in kept]:
                del self._lines[line_ref]  # withdrawn while nobody read
            self.caught_up = True
            log.info("adapter_feed_read", total=len(self._lines))
            while not stop.is_set():
                for update in feed.poll(POLL_SECONDS):
                    self.apply(update)

    def apply(self, update: AdapterUpdate) -> None:
        """Take one update in."""
        if update.kind is UpdateKind.WITHDRAWN or update.state is None:
            self._lines.pop(update.line_ref, None)
        else:
            self._lines[update.line_ref] = line_of(update.state)


def line_of(state: AdapterStateV1) -> Line:
    """Return what a state wants, without what was revoked."""
    revoked = set(state.revoked_version_ids)
    candidate = state.candidate
    if candidate is not None and candidate.version_id in revoked:
        candidate = None
    return Line(
        line_ref=state.line_ref,
        adapter=None if state.adapter.version_id in revoked else _version(state.adapter),
        candidate=None if candidate is None else _version(candidate),
        candidate_percent=state.rollout.candidate_percent,
        salt=state.rollout.salt,
        first_step=state.rollout.steps[0] if state.rollout.steps else 0.0,
        flag=Flag.read(state.rollout.flag),
    )


def _version(version: AdapterVersionV1) -> Version:
    style, meta = version.manifest.style, version.manifest.scope == META
    composed = version.manifest.lineage.start == COMPOSED
    if style is None:
        return Version(served_name=version.served_name, meta=meta, composed=composed)
    return Version(
        served_name=version.served_name,
        template=style.prompt,
        pattern=style.pattern,
        grammar=style.grammar,
        meta=meta,
        card=orjson.dumps(style.card),
    )
