"""The artifacts chore of a trainer's upkeep: the store holds the files of versions that may be served, and no others.

Two kinds of files go: the weights of withdrawn versions (an operator's withdrawal, or a meta generation and its copies
when a tenant leaves), whose manifests stay for the audit, and what a publication left behind that never committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

from personalization.registry import queries as registry
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from personalization.artifacts.store import ArtifactStore

GRACE = timedelta(
    hours=24
)  # far longer than any publication's transaction, or a job that starts from a scratch copy
WATCHED_SECONDS = 3600.0  # by this process's own counter: a clock that jumps ahead must not age a publication


@dataclass(frozen=True, kw_only=True)
class Tidied:
    """What one run removed, by version id."""

    withdrawn: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()


class ArtifactsChore:
    """Removes what no longer belongs into the store; safe to run in any number of trainers at once.

    Args:
        engine: where the registry lives; the store must belong to this registry alone.
        artifacts: the store.
        grace: how old files without a registry row must be, besides being watched for ``WATCHED_SECONDS``: a
            publication in progress has no row yet.
    """

    def __init__(self, engine: Engine, artifacts: ArtifactStore, *, grace: timedelta = GRACE) -> None:
        self._engine = engine
        self._artifacts = artifacts
        self._grace = grace
        self._emptied: set[str] = set()  # a withdrawn version is looked at once; it is never taken up again
        self._seen: dict[str, float] = {}  # what nothing names, and when this process saw that first
        self._next_sweep = 0.0

    def run(self, *, now: datetime) -> Tidied:
        """Remove the weights of withdrawn versions and, from time to time, what publications left behind.

        Raises:
            StorageError: the database is away.
            OSError: the store refuses; what is left is tried again at the next run.
        """
        with transaction(self._engine) as session:
            withdrawn = [one for one in registry.withdrawn_ids(session) if one not in self._emptied]
        removed = []
        for version_id in withdrawn:
            if self._artifacts.remove_weights(version_id):
                removed.append(version_id)
            self._emptied.add(version_id)
        orphans: tuple[str, ...] = ()
        if monotonic() >= self._next_sweep:
            orphans = self._artifacts.sweep(self._kept, older_than=(now - self._grace).timestamp())
            self._next_sweep = monotonic() + WATCHED_SECONDS
        return Tidied(withdrawn=tuple(removed), orphans=orphans)

    def _kept(self, names: Sequence[str]) -> Collection[str]:
        with transaction(self._engine) as session:
            kept = registry.registered(session, names)
        now = monotonic()
        self._seen = {name: self._seen.get(name, now) for name in names if name not in kept}
        return kept | {name for name, since in self._seen.items() if now - since < WATCHED_SECONDS}
