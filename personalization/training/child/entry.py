"""Entry of the training process: a job comes in over the pipe, progress and results or a failure go out.

A process of its own lets the parent renew its lease while training runs, stop at once when the lease is lost, and stay
free of torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection

from personalization.training.child.threads import WAITING
from personalization.training.jobs.job import VoteJob
from personalization.training.jobs.wire import (
    decode_job,
    encode_failure,
    encode_progress,
    encode_results,
    encode_votes,
)


def main(connection: Connection) -> None:
    """Train the one job that comes over ``connection``, then end.

    Args:
        connection: the child's end of a pipe; JSON bytes both ways.
    """
    try:
        job = decode_job(connection.recv_bytes())
        # Read when torch and transformers are imported: nothing is ever fetched.
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name, value in WAITING.items():
            os.environ.setdefault(name, value)
        from personalization.training.child.job import run, vote  # noqa: PLC0415  imports torch, after the line above

        if isinstance(job, VoteJob):
            connection.send_bytes(encode_votes(vote(job)))
            return
        results = run(job, lambda progress: connection.send_bytes(encode_progress(progress)))
        connection.send_bytes(encode_results(results))
    except BrokenPipeError:
        sys.exit(1)  # the parent is gone and with it the lease
    except Exception as error:  # noqa: BLE001  whatever failed must reach the parent, which forfeits the budget
        if os.environ.get("DISCREET_DEBUG"):
            traceback.print_exc()
        connection.send_bytes(encode_failure(error))
    finally:
        connection.close()


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
