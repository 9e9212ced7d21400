"""Adapters on disk: a plain PEFT LoRA directory that every server loads, and the way back into a flat vector.

The directory holds exactly ``adapter_model.safetensors`` and ``adapter_config.json``: one rank, suffix names from the
seven linear layers, no bias, no DoRA, no extra modules (the portable profile).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from personalization.adapters.parts import has_public_part, private_entry, settle_order
from personalization.errors import ArtifactFormatError
from personalization.planning.plan import ALL_LINEAR, Family
from personalization.training.engine.families import Factors, Frozen, Geometry
from personalization.training.errors import AdapterFormatError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model.model.layers"
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
# An adapter belongs to a line when its frozen part is the line's own up to float32 rounding of another machine.
_SAME_LINE = 1e-3


def export_adapter(
    directory: Path,
    geometry: Geometry,
    vector: torch.Tensor,
    frozen: Frozen,
    base_model_name: str,
    public: Factors | None = None,
) -> None:
    """Write one tenant's adapter; the directory appears whole or not at all.

    Args:
        directory: created; replaced if it exists.
        geometry: the line's layout.
        vector: the flat vector ``(size,)``.
        frozen: the shared factors.
        base_model_name: name or directory of the base; ``base_model_name_or_path`` says the last part of it, which is
            the manifest's ``base.model_id``. Where the base lies on this machine concerns nobody.
        public: factors of the public part, of the same rank and scaling, on other modules; None where there is none.
    """
    own = geometry.factors(vector.cpu(), _on_cpu(frozen))
    tensors: dict[str, torch.Tensor] = {}
    for (layer, suffix), (down, up) in {**(public or {}), **own}.items():
        name = _module_name(layer, suffix)
        tensors[f"{name}.lora_A.weight"] = down.float().contiguous()
        tensors[f"{name}.lora_B.weight"] = up.float().contiguous()
    metadata, places = {"format": "pt"}, list(own)
    if public is not None:
        metadata |= private_entry(_module_name(*key) for key in own)
        places += list(public)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".staging-"))
    try:
        save_file(tensors, staging / WEIGHTS_FILE, metadata=metadata)
        if public is not None:
            settle_order(staging / WEIGHTS_FILE)
        text = json.dumps(adapter_config(geometry, places, base_model_name), indent=2, sort_keys=True)
        (staging / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        for path in (staging / WEIGHTS_FILE, staging / CONFIG_FILE):
            path.chmod(0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(directory, ignore_errors=True)
        staging.chmod(0o755)
        staging.rename(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def adapter_config(
    geometry: Geometry, places: Sequence[tuple[int, str]], base_model_name: str | None
) -> dict[str, object]:
    """Return the contents of ``adapter_config.json`` of an adapter on ``places``, layers and suffix names."""
    layers = sorted({layer for layer, _ in places})
    suffixes = {suffix for _, suffix in places}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None if base_model_name is None else Path(base_model_name).name,
        "revision": None,
        "inference_mode": True,
        "r": geometry.rank,
        "lora_alpha": geometry.alpha,
        "lora_dropout": 0.0,
        "target_modules": [suffix for suffix in ALL_LINEAR if suffix in suffixes],
        "layers_to_transform": layers,
        "layers_pattern": "layers",
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
    }


def read_factors(directory: Path) -> tuple[Factors, float]:
    """Read any portable adapter: its factors ``A (r, d_in)``, ``B (d_out, r)`` per layer, and its scaling.

    Raises:
        AdapterFormatError: files are missing, damaged, or not of the portable profile.
    """
    try:
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(directory / WEIGHTS_FILE)
        scaling = float(config["lora_alpha"]) / int(config["r"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise AdapterFormatError(
            f"the adapter in {directory.name} cannot be read ({type(error).__name__}); it needs {WEIGHTS_FILE} and "
            f"{CONFIG_FILE} of a plain PEFT LoRA"
        ) from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise AdapterFormatError("the adapter is not of the portable profile; only plain LoRA can be read")
    factors = {}
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name.removesuffix(".lora_A.weight")
        parts = stem.removeprefix(_PREFIX + ".").split(".")
        up = tensors.get(f"{stem}.lora_B.weight")
        if len(parts) != 3 or not parts[0].isdigit() or up is None:
            raise AdapterFormatError(
                f"the adapter holds a tensor {name} that the portable profile does not know"
            )
        factors[int(parts[0]), parts[2]] = (down, up)
    return factors, scaling


def import_adapter(directory: Path, geometry: Geometry, frozen: Frozen) -> torch.Tensor:
    """Read a released adapter of the same line back into a flat vector ``(size,)`` in float64.

    Of a combined adapter the line's own modules are read; its public part belongs to a card, not to the line.

    Raises:
        AdapterFormatError: another rank, scaling, set of layers or frozen subspace than the line's.
    """
    factors, scaling = read_factors(directory)
    own = {slot.key for slot in geometry.slots}
    if _is_combined(directory):
        factors = {key: pair for key, pair in factors.items() if key in own}
    if set(factors) != own or abs(scaling - geometry.scaling) > 1e-9:
        raise AdapterFormatError(
            "the start adapter has other layers, modules or scaling than the plan; start from one of the same line"
        )
    vector = geometry.initial(frozen)
    for slot in geometry.slots:
        down, up = (part.double() for part in factors[slot.key])
        if down.shape != (geometry.rank, slot.d_in):
            raise AdapterFormatError(
                f"the start adapter has rank {down.shape[0]}; the plan has {geometry.rank}; rank is constant in a line"
            )
        fixed_down, fixed_up = (part.cpu().double() for part in frozen[slot.key])
        trained = up.t()
        if slot.down is not None:
            vector[slot.down] = down.flatten()
        elif not torch.allclose(down, fixed_down, atol=_SAME_LINE):
            raise AdapterFormatError(
                "the start adapter was trained in another frozen subspace; start from an adapter of the same line"
            )
        if geometry.family is Family.CORE:
            core = trained @ fixed_up.t()
            if not torch.allclose(
                core @ fixed_up, trained, atol=_SAME_LINE * (1 + float(trained.abs().max()))
            ):
                raise AdapterFormatError(
                    "the start adapter is not a core of the line's subspace; start from an adapter of the same line"
                )
            trained = core
        vector[slot.up] = trained.flatten()
    return vector


def _is_combined(directory: Path) -> bool:
    try:
        return has_public_part(directory)
    except ArtifactFormatError as error:
        raise AdapterFormatError(f"the adapter in {directory.name} cannot be read: {error}") from error


def _module_name(layer: int, suffix: str) -> str:
    return f"{_PREFIX}.{layer}.{'self_attn' if suffix in _ATTENTION else 'mlp'}.{suffix}"


def _on_cpu(frozen: Frozen) -> Frozen:
    return {key: (down.cpu(), up.cpu()) for key, (down, up) in frozen.items()}
