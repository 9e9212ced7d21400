"""What a training run computes on, found before it is started: a repeat on other hardware is another sample.

No torch here. Where no device of a GPU driver exists the answer is the processor; otherwise a process of its own asks
torch, so that the parent stays free of it.
"""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from personalization.planning.plan import PerformanceFlags

if TYPE_CHECKING:
    from collections.abc import Callable

_GPU_NODES: Final = ("nvidia[0-9]*", "nvidiactl", "dxg")


def resolved(flags: PerformanceFlags, probe: Callable[[], str | None]) -> tuple[PerformanceFlags, str]:
    """Return the flags with a device and a number of threads instead of "auto" and none, and the hardware's name.

    Args:
        flags: as they were set.
        probe: asks for the name of the GPU that torch would use; None where there is none.
    """
    threads = flags.threads if flags.threads is not None else _threads()
    gpu = None if flags.device == "cpu" or not _may_have_gpu() else probe()
    if flags.device == "auto":
        flags = replace(flags, device="cpu" if gpu is None else "cuda")
    name = gpu if flags.device != "cpu" and gpu is not None else _processor()
    return replace(flags, threads=threads), f"{flags.device}: {name}"


def _threads() -> int:
    """Return how many threads torch takes when it is told nothing: OpenMP's setting, or the cores we may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_have_gpu() -> bool:
    return any(next(Path("/dev").glob(pattern), None) is not None for pattern in _GPU_NODES)


def _processor() -> str:
    """Return the processor's model and instructions, on which the last bits of float sums depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {name.strip(): value.strip() for name, value in facts.items()}
    return " ".join(
        (platform.machine(), named.get("model name", platform.processor()), named.get("flags", ""))
    )
