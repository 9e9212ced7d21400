"""The errors of training.

    TrainingError
    ├── BaseModelError            the base model cannot be found, read or used
    ├── AdapterFormatError        a start adapter does not belong to the line that is trained
    ├── JobInvalidError           the job or a plan in it cannot be trained as it stands
    ├── PlanViolatedError         what was observed of the mechanism differs from the plan
    ├── NotTrainedError           the weights did not move, or are not finite
    ├── ChildFailedError          the training process died or reported a failure
    └── TrainingStoppedError      the caller asked the training process to stop

Texts hold no id and no text of a person.
"""

from __future__ import annotations

from privacy.errors import DiscreetError


class TrainingError(DiscreetError):
    """Base of every error that training raises on purpose."""

    code = "training.error"


class BaseModelError(TrainingError):
    """The base model cannot be found, read or used."""

    code = "training.base.unusable"
    exit_status = 2


class AdapterFormatError(TrainingError):
    """A start adapter does not belong to the line that is trained."""

    code = "training.adapter.format"
    exit_status = 2


class JobInvalidError(TrainingError):
    """The job, or a plan in it, cannot be trained as it stands."""

    code = "training.job.invalid"
    exit_status = 2


class PlanViolatedError(TrainingError):
    """The observed sample rate, steps or noise multiplier differ from the plan."""

    code = "training.plan.violated"


class NotTrainedError(TrainingError):
    """The trained weights did not move, or are not finite."""

    code = "training.weights.unmoved"


class ChildFailedError(TrainingError):
    """The training process died or reported a failure."""

    code = "training.child.failed"
    retryable = True


class TrainingStoppedError(TrainingError):
    """The caller asked the training process to stop."""

    code = "training.child.stopped"
    retryable = True
