"""What a trainer process works with: the base model's directory and the training child."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from personalization.adapters import BaseFingerprint
from personalization.errors import LeaseLostError, TrainingFailedError
from personalization.training.base_models import fingerprint
from personalization.training.errors import TrainingError, TrainingStoppedError
from personalization.training.link import run_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from personalization.training.job import Progress, PublicJob, TenantResult, TrainingJob


class BaseDirectory:
    """``BaseModelCatalog`` over one local directory; the digests are computed once, at the start.

    Raises:
        BaseModelError: a file of the base model is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        found = fingerprint(directory)
        config = json.loads((directory / "config.json").read_bytes())
        self._fingerprint = BaseFingerprint(
            model_id=found.model_id,
            revision="",
            config_digest=found.config_digest,
            weights_digest=found.weights_digest,
            tokenizer_digest=found.tokenizer_digest,
            architecture=found.architecture,
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            chat_template_digest=found.chat_template_digest,
        )

    def directory(self) -> Path:
        """Return the directory."""
        return self._directory

    def fingerprint(self) -> BaseFingerprint:
        """Return the digests."""
        return self._fingerprint


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
        """Run the job; see ``trainer.AdapterTrainer``.

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
