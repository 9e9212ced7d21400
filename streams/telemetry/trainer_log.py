"""What a trainer does, as log events: rounds taken, how far the child is, how each round ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from personalization.releases.observer import TrainerObserver
from personalization.releases.protocol import Closed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.adapters.manifest import AdapterVersion
    from personalization.releases.protocol import Prepared
    from personalization.rounds.states import Lease
    from personalization.training.jobs.job import Progress

log = structlog.get_logger(__name__)

PROGRESS_EVENT = "training_progress"
PROGRESS_SECONDS = 1.0  # between two events of one stage


class TrainerLog(TrainerObserver):
    """Logs what it hears; none of it was made from private values."""

    def __init__(self) -> None:
        self._stage = ""
        self._said = 0.0

    def leased(self, leases: Sequence[Lease]) -> None:
        """Log which rounds were taken."""
        log.info("rounds_taken", tenants=[lease.tenant_id for lease in leases])

    def progress(self, prepared: Sequence[Prepared], progress: Progress) -> None:  # noqa: ARG002  # as in the base
        """Log how far the child is, at most once a second."""
        now = time.monotonic()
        if progress.stage == self._stage and now - self._said < PROGRESS_SECONDS:
            return
        self._stage, self._said = progress.stage, now
        log.info(PROGRESS_EVENT, stage=progress.stage, done=progress.done, total=progress.total)

    def closed(self, lease: Lease, outcome: AdapterVersion | Closed) -> None:
        """Log how a round ended."""
        ended = outcome.code.value if isinstance(outcome, Closed) else outcome.manifest.served_name
        log.info("round_ended", tenant=lease.tenant_id, outcome=ended)
