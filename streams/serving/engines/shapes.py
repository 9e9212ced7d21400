"""Check an adapter against the base that an engine serves, because engines do not: vLLM takes a layer 99 silently."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

import numpy as np

from personalization.adapters.files import CONFIG, WEIGHTS
from personalization.adapters.tensors import StoredTensor, read_tensors
from personalization.errors import ArtifactFormatError
from personalization.planning.plan import ALL_LINEAR
from streams.errors import AdapterMisfitError

if TYPE_CHECKING:
    from pathlib import Path

    from personalization.planning.model_shape import ModelShape

_KEY: Final = re.compile(
    r"^base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.([a-z]+_proj)\.lora_([AB])\.weight$"
)
Pairs = dict[tuple[int, str], tuple[StoredTensor, StoredTensor]]


def checked_pairs(directory: Path, shape: ModelShape, *, most_rank: int) -> tuple[Pairs, float]:
    """Return an adapter's factors by layer and module, and its scaling, if it fits the base.

    Args:
        directory: a portable adapter.
        shape: of the base.
        most_rank: what the engine reserves.

    Raises:
        AdapterMisfitError: it has another form than the portable profile, or does not fit.
    """
    try:
        config = json.loads((directory / CONFIG).read_bytes())
        tensors = read_tensors(directory / WEIGHTS)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, ArtifactFormatError) as error:
        raise AdapterMisfitError(f"the adapter's files cannot be read ({type(error).__name__})") from None
    plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    special = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern")
    if not plain or any(config.get(name) for name in special):
        raise AdapterMisfitError("only plain LoRA adapters of one rank are loaded")
    if not 1 <= rank <= most_rank:
        raise AdapterMisfitError(f"the adapter's rank is {rank}; the engine reserves {most_rank}")
    factors: dict[tuple[int, str], dict[str, StoredTensor]] = {}
    for tensor in tensors:
        match = _KEY.match(tensor.name)
        if match is None or match[2] not in ALL_LINEAR or int(match[1]) >= shape.layers:
            raise AdapterMisfitError("the adapter has a tensor for a place that the base does not have")
        factors.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    pairs: Pairs = {}
    for (layer, module), pair in sorted(factors.items()):
        inputs, outputs = shape.linear(module)
        if set(pair) != {"A", "B"} or (pair["A"].shape, pair["B"].shape) != ((rank, inputs), (outputs, rank)):
            raise AdapterMisfitError(
                f"the adapter's {module} of layer {layer} has other widths than the base"
            )
        if not all(bool(np.isfinite(tensor.values).all()) for tensor in pair.values()):
            raise AdapterMisfitError("the adapter's weights are not finite")
        pairs[layer, module] = (pair["A"], pair["B"])
    if not pairs:
        raise AdapterMisfitError("the adapter holds no weights")
    return pairs, alpha / rank
