"""What everything that makes versions works with, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.artifacts.store import ArtifactStore
    from personalization.planning.model_shape import ModelShape
    from personalization.registry.announcements import AdapterEvents
    from personalization.registry.publishing import Publisher
    from personalization.training.base.directory import BaseModelCatalog
    from privacy.clock import Clock

    Position = tuple[str, int, int]
    """Topic, partition, and the offset of the next event that had no effect yet."""


def unknown_positions(_session: Session) -> tuple[Position, ...]:
    """Say nothing of how far topics were consumed: signals came from elsewhere."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The same for every round and every start of a process.

    Attributes:
        engine: where rounds, ledger and registry live.
        clock: the public clock.
        base: the frozen base model.
        shape: its widths.
        artifacts: the files of versions.
        events: the outbox.
        publisher: writes versions.
        positions: says how far the topics that signals come from were consumed.
    """

    engine: Engine
    clock: Clock
    base: BaseModelCatalog
    shape: ModelShape
    artifacts: ArtifactStore
    events: AdapterEvents
    publisher: Publisher
    positions: Callable[[Session], Sequence[Position]] = unknown_positions
