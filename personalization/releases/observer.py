"""Who is told what a trainer does: logs, metrics, tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.adapters.manifest import AdapterVersion
    from personalization.releases.protocol import Closed, Prepared
    from personalization.rounds.states import Lease
    from personalization.training.jobs.job import Progress


class TrainerObserver:
    """Told what a trainer does; the default tells nobody. It hears nothing made from private values."""

    def turned(self) -> None:
        """Hear that the trainer looks for work, or waits for votes."""

    def store_answered(self, *, ready: bool) -> None:
        """Hear whether the artifact store takes files; while it does not, no round is begun and none is lost."""

    def leased(self, leases: Sequence[Lease]) -> None:
        """Hear that these rounds were taken."""

    def progress(self, prepared: Sequence[Prepared], progress: Progress) -> None:
        """Hear how far the child is."""

    def trained(self, seconds: float, *, succeeded: bool) -> None:
        """Hear how long one job took in the child."""

    def closed(self, lease: Lease, outcome: AdapterVersion | Closed) -> None:
        """Hear how a round ended."""

    def chore_failed(self, chore: str) -> None:
        """Hear that work which goes on beside the rounds failed, and is tried again."""

    def drift_read(self, outcome: str, *, family: str | None, followed: str | None) -> None:
        """Hear how a reading of drift ended; of an alarm, what drifted and what followed."""

    def choice_ended(self, outcome: str) -> None:
        """Hear how a choice among a line's prompt templates ended."""

    def given_up(self, lease: Lease) -> None:
        """Hear that another trainer may hold a round that this one had."""
