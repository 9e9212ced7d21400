"""What a trainer process works with: the base model's directory and the training child."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.errors import LeaseLostError, TrainingFailedError
from personalization.training.errors import TrainingError, TrainingStoppedError
from personalization.training.link import run_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from personalization.training.job import Progress, PublicJob, TenantResult, TrainingJob


def run_public_job(job: PublicJob) -> TenantResult:
    """Run a public job in a fresh process and return its one result.

    Raises:
        TrainingError: the child died or failed; nothing was charged, so nothing is lost.
    """
    (result,) = run_job(job)
    return result


class ChildProcessTrainer:
    """``AdapterTrainer`` in a fresh process per job, so that a crash or full memory ends the child alone."""

    def train(
        self, job: TrainingJob, *, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> tuple[TenantResult, ...]:
        """Run the job; see the port.

        Raises:
            TrainingFailedError: the child died or failed.
            LeaseLostError: ``should_stop`` became true and the child was ended.
        """
        try:
            return run_job(job, on_progress=on_progress, should_stop=should_stop)
        except TrainingStoppedError as error:
            raise LeaseLostError("the training process was ended because its lease is gone") from error
        except TrainingError as error:
            raise TrainingFailedError(f"training failed with {error.code}; its charge stays") from error
