"""A portable adapter as a GGUF file, the form in which llama.cpp loads it, made here and always the same bytes.

Names and layout are those of llama.cpp's own converter (``convert_lora_to_gguf.py``): ``blk.N.….weight.lora_a|lora_b``,
scale = alpha ÷ rank, and of a Llama the rows of the query's and key's B in llama.cpp's order of rotary pairs. That the
file is the signed adapter's is proved by the probes; beside them it names the digest of the weights it was made of.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from personalization.adapters.files import WEIGHTS
from personalization.planning.model_shape import ModelShape
from streams.errors import AdapterMisfitError, SettingsError
from streams.serving.engines.shapes import checked_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_PLACES: Final = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_ROTATED: Final = ("llama",)  # architectures whose queries and keys llama.cpp stores in another order
_ARCHITECTURES: Final = (*_ROTATED, "qwen2", "qwen3")
WEIGHTS_DIGEST: Final = "discreet.weights_sha256"


@dataclass(frozen=True, kw_only=True)
class GgufBase:
    """What a base in GGUF says of itself.

    Attributes:
        architecture: as GGUF names it.
        shape: its widths.
        heads: attention heads.
        key_value_heads: heads of keys and values.
        precision: ``float32``, ``float16``, ``bfloat16`` or ``quantized``.
    """

    architecture: str
    shape: ModelShape
    heads: int
    key_value_heads: int
    precision: str


def read_gguf_base(path: Path) -> GgufBase:
    """Read the head of a base model in GGUF.

    Raises:
        SettingsError: it is none that adapters are made for.
    """
    gguf = _library()
    try:
        reader = gguf.GGUFReader(path)
        architecture = str(reader.fields["general.architecture"].contents())

        def number(name: str, default: int | None = None) -> int:
            field = reader.fields.get(f"{architecture}.{name}")
            return int(default if field is None and default is not None else field.contents())

        heads, hidden = number("attention.head_count"), number("embedding_length")
        head = number("attention.key_length", hidden // heads)
        key_value = number("attention.head_count_kv", heads)
        kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 2}
        found = GgufBase(
            architecture=architecture,
            shape=ModelShape(
                layers=number("block_count"),
                hidden=hidden,
                query=heads * head,
                key_value=key_value * head,
                intermediate=number("feed_forward_length"),
            ),
            heads=heads,
            key_value_heads=key_value,
            precision={"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(
                "+".join(kinds), "quantized"
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"the base {path.name} is no readable GGUF model ({type(error).__name__})"
        ) from None
    if architecture not in _ARCHITECTURES:
        raise SettingsError(
            f"the base is a {architecture!r}; adapters are converted for {', '.join(_ARCHITECTURES)}"
        )
    return found


def convert(directory: Path, target: Path, base: GgufBase, *, most_rank: int = 512) -> Path:
    """Write the adapter in ``directory`` as the GGUF file ``target``; it appears whole or not at all.

    Raises:
        AdapterMisfitError: the adapter does not fit the base.
    """
    gguf = _library()
    pairs, scaling = checked_pairs(directory, base.shape, most_rank=most_rank)
    rank = next(iter(pairs.values()))[0].shape[0]
    stage = target.with_name(f".{uuid.uuid4().hex}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        writer = gguf.GGUFWriter(stage, base.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", scaling * rank)
        writer.add_string(WEIGHTS_DIGEST, sha256((directory / WEIGHTS).read_bytes()).hexdigest())
        for (layer, module), (down, up) in pairs.items():
            place = f"blk.{layer}.{_PLACES[module]}.weight"
            writer.add_tensor(f"{place}.lora_a", np.ascontiguousarray(down.values, dtype=np.float32))
            writer.add_tensor(f"{place}.lora_b", _rows(up.values, module, base))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        stage.replace(target)
    finally:
        stage.unlink(missing_ok=True)
    return target


def _rows(values: NDArray[np.float32], module: str, base: GgufBase) -> NDArray[np.float32]:
    """Return B ``(outputs, rank)``, its rows in the order in which llama.cpp has the base's."""
    heads = {"q_proj": base.heads, "k_proj": base.key_value_heads}.get(module)
    if heads is None or base.architecture not in _ROTATED:
        return np.ascontiguousarray(values, dtype=np.float32)
    outputs, rank = values.shape
    if outputs % (2 * heads):
        raise AdapterMisfitError("the base's heads do not divide the adapter's rows")
    turned = values.reshape(heads, 2, outputs // heads // 2, rank).swapaxes(1, 2).reshape(outputs, rank)
    return np.ascontiguousarray(turned, dtype=np.float32)


def _library() -> Any:
    try:
        import gguf  # noqa: PLC0415  # an extra
    except ImportError:
        raise SettingsError("llama.cpp's files need the package gguf; install discreet[llamacpp]") from None
    return gguf
