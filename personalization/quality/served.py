"""A base model that answers as if it served one adapter: the low-rank updates are added to its weights, and taken back.

With the updates in the weights every measurement is one of a plain model, so an adapter of any shape is judged by the
same code as the base, at the base's speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.portable import read_factors


@contextmanager
def served(
    decoder: FrozenDecoder, adapter: Path | None, *, without: frozenset[tuple[int, str]] = frozenset()
) -> Iterator[FrozenDecoder]:
    """Give the decoder with an adapter in its weights; afterwards the weights are the base's own again, bit for bit.

    Args:
        decoder: a loaded base; nobody else may use it meanwhile.
        adapter: a portable LoRA directory; None gives the plain base.
        without: layers and suffix names that keep the base's weights, as if the adapter did not have them.

    Raises:
        AdapterFormatError: the directory does not hold a portable adapter.
    """
    if adapter is None:
        yield decoder
        return
    factors, scaling = read_factors(adapter)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for (layer, suffix), (down, up) in factors.items():
                if (layer, suffix) in without:
                    continue
                weight = decoder.linear(layer, suffix).weight
                kept.append((weight, weight.clone()))
                update = scaling * (up.float() @ down.float())
                weight.add_(update.to(weight.device, weight.dtype))
        yield decoder
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)
