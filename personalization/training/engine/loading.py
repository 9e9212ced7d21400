"""The base model of a process: loaded once, and kept for whatever comes next."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from personalization.planning.plan import PerformanceFlags
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.memory import keep_freed_memory

_loaded: dict[Path, tuple[FrozenDecoder, Encoder]] = {}
_loading = threading.Lock()


def pick_device(flags: PerformanceFlags) -> torch.device:
    """Return the device a job runs on."""
    if flags.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(flags.device)


def loaded_base(model_dir: Path, flags: PerformanceFlags) -> tuple[FrozenDecoder, Encoder]:
    """Return a base model that stays loaded for the next call.

    Raises:
        BaseModelError: the directory does not hold a loadable model.
    """
    with _loading:
        key = model_dir.resolve()
        if key not in _loaded:
            keep_freed_memory()
            _loaded.clear()  # one base at a time: they are large
            device = pick_device(flags)
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
            _loaded[key] = FrozenDecoder.load(model_dir, device, dtype), Encoder.load(model_dir)
        return _loaded[key]
