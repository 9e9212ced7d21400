"""The parent's side of a training process; importing it imports no torch."""

from __future__ import annotations

from collections.abc import Callable

from personalization.errors import LeaseLostError, TrainingFailedError
from personalization.training.child import process as child
from personalization.training.errors import ChildFailedError, TrainingError, TrainingStoppedError
from personalization.training.jobs.job import (
    Progress,
    PublicJob,
    SuiteJob,
    TenantResult,
    TrainingJob,
    VoteJob,
    Votes,
)
from personalization.training.jobs.wire import decode_reply, encode_job

_TRAINING = "personalization.training.child.entry"
_PROBE = "personalization.training.child.probe"
_POLL_SECONDS = 0.2
_END_SECONDS = 10.0
_PROBE_SECONDS = 120.0


def run_job(
    job: TrainingJob | PublicJob | SuiteJob,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[TenantResult, ...]:
    """Train a job in a fresh process and wait for it.

    Args:
        job: what to train; budget for a job with private data is already reserved and running.
        on_progress: called in this thread for each report.
        should_stop: asked about five times a second; when it says yes (the lease is lost) the child is killed.

    Returns:
        One result per tenant; of a public job its one result; of released adapters one for each.

    Raises:
        TrainingStoppedError: ``should_stop`` said yes.
        ChildFailedError: the process died.
        TrainingError: the child reported a failure of that class.
    """
    reply = _run(job, on_progress, should_stop)
    assert not isinstance(reply, Votes)  # of a vote alone
    return reply


def run_vote(job: VoteJob, should_stop: Callable[[], bool]) -> Votes:
    """Ask for users' votes in a fresh process and wait for them.

    Args:
        job: what to ask; budget for it is already reserved and running.
        should_stop: asked about five times a second; when it says yes the child is killed.

    Raises:
        LeaseLostError: ``should_stop`` became true and the child was ended.
        TrainingFailedError: the child died or failed.
    """
    try:
        reply = _run(job, lambda _progress: None, should_stop)
    except TrainingStoppedError as error:
        raise LeaseLostError("the vote was ended because its time is over") from error
    except TrainingError as error:
        raise TrainingFailedError(f"the vote failed with {error.code}; its charge stays") from error
    assert isinstance(reply, Votes)
    return reply


def _run(
    job: TrainingJob | PublicJob | SuiteJob | VoteJob,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Votes | tuple[TenantResult, ...]:
    process, ours = child.start(_TRAINING)
    stopped = False
    try:
        ours.send_bytes(encode_job(job))
        while True:
            if should_stop():
                stopped = True
                raise TrainingStoppedError("training was stopped because its lease is no longer held")
            if not ours.poll(_POLL_SECONDS):
                continue
            reply = decode_reply(ours.recv_bytes())
            if not isinstance(reply, Progress):
                return reply
            on_progress(reply)
    except (EOFError, ConnectionError) as error:
        child.end(process, _END_SECONDS)
        raise ChildFailedError(
            f"the training process ended without a result (exit status {process.returncode}); "
            "memory may have run out; the round's budget is forfeited"
        ) from error
    finally:
        ours.close()
        child.end(process, 0 if stopped else 1.0)


def run_public_job(job: PublicJob) -> TenantResult:
    """Run a public job in a fresh process and return its one result.

    Raises:
        TrainingError: the child died or failed; nothing was charged, so nothing is lost.
    """
    (result,) = run_job(job)
    return result


def gpu_name() -> str | None:
    """Return the name of the GPU that a training process would use; None where torch finds none or does not answer."""
    process, ours = child.start(_PROBE)
    try:
        return ours.recv_bytes().decode() or None if ours.poll(_PROBE_SECONDS) else None
    except EOFError:
        return None
    finally:
        ours.close()
        child.end(process, 0)


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
