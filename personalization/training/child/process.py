"""A Python process with a pipe to it and an environment in which no secret of the parent's is.

The parent holds the master key, passwords of the database and the broker, and the key that adapters are signed with.
The child computes with texts and noise that come over the pipe; a library in it that is taken over must find nothing
else. So it is given by name what it needs of the environment, and no open file but the pipe.
"""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEPT: Final = frozenset(
    {
        "DISCREET_DEBUG", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HOME", "LANG", "LD_LIBRARY_PATH",
        "PATH", "TMPDIR", "TRITON_CACHE_DIR", "TZ", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    }
)  # fmt: skip
_KEPT_BEGINNINGS: Final = (
    "CUBLAS_", "CUDA_", "CUDNN_", "GOMP_", "KMP_", "LC_", "MKL_", "NUMEXPR_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON",
    "PYTORCH_", "TORCH",
)  # fmt: skip


def environment_of_child(given: Mapping[str, str]) -> dict[str, str]:
    """Return what of the environment ``given`` a training process gets: where to find programs, and how to compute."""
    kept = {
        name: value for name, value in given.items() if name in _KEPT or name.startswith(_KEPT_BEGINNINGS)
    }
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def start(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Run ``module`` in a new process, with its end of a pipe as its one argument, and return our end."""
    ours, theirs = Pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", module, str(theirs.fileno())],
            env=environment_of_child(os.environ),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait so long for the end of the process, then kill it."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
