"""Portable adapters on disk for a tiny base, in general position, and damaged ones that servers load without a word."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save_file

from personalization.planning.plan import PerformanceFlags
from personalization.training.run.activation import measure_activation
from streams.contracts.manifest import ActivationV1

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FLAGS = PerformanceFlags(device="cpu", threads=1)


def write_adapter(
    base: Path, directory: Path, *, seed: int, rank: int = 4, scale: float = 0.5, layers=None
) -> Path:
    """Write an adapter on the seven linear layers of the last block of ``base``, or of ``layers``."""
    config = json.loads((base / "config.json").read_text())
    hidden, inner, last = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"] - 1
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj": (hidden, queries), "self_attn.k_proj": (hidden, keys), "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden), "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }  # fmt: skip
    coins, tensors = torch.Generator().manual_seed(seed), {}
    layers = [last] if layers is None else list(layers)
    for layer in layers:
        for module, (width_in, width_out) in shapes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, width_in, generator=coins) * width_in**-0.5
            tensors[f"{name}.lora_B.weight"] = (
                torch.randn(width_out, rank, generator=coins) * scale * rank**-0.5
            )
    directory.mkdir(parents=True)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    document = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name, "r": rank,
        "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none", "inference_mode": True,
        "target_modules": sorted(name.split(".")[1] for name in shapes), "layers_to_transform": layers,
        "layers_pattern": "layers", "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {},
        "alpha_pattern": {}, "use_dora": False, "use_rslora": False, "revision": None, "init_lora_weights": True,
    }  # fmt: skip
    (directory / CONFIG).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    return directory


def activation_of(base: Path, adapter: Path) -> ActivationV1:
    """Return what the trainer's child measures of an adapter, as manifests carry it."""
    (found,) = measure_activation([adapter], base, FLAGS)
    return ActivationV1.model_validate_json(json.dumps(found.to_document()))


def swapped(adapter: Path, target: Path) -> Path:
    """Write the adapter with the factors of two modules of one shape exchanged: it loads, and is another function."""
    shutil.copytree(adapter, target)
    tensors = load_file(target / WEIGHTS)
    exchanged = {name.replace("gate_proj", "#").replace("up_proj", "gate_proj").replace("#", "up_proj"): values
                 for name, values in tensors.items()}  # fmt: skip
    save_file({name: values.clone() for name, values in exchanged.items()}, target / WEIGHTS)
    return target


def silenced(adapter: Path, target: Path) -> Path:
    """Write the adapter with its B factors zero: every server takes it, and answers as the base under its name."""
    shutil.copytree(adapter, target)
    tensors = load_file(target / WEIGHTS)
    save_file(
        {name: values * 0 if "lora_B" in name else values for name, values in tensors.items()},
        target / WEIGHTS,
    )
    return target


def acts(weights: bytes, layers: int) -> bool:
    """Say whether an adapter changes a base of so many layers at all; servers skip tensors for places that are none."""
    tensors = load(weights)
    return any(
        bool(values.any()) and int(re.search(r"\.layers\.(\d+)\.", name)[1]) < layers
        for name, values in tensors.items()
        if "lora_B" in name
    )


def on_layer(adapter: Path, target: Path, layer: int) -> Path:
    """Write the adapter with its tensors on another layer, which the base need not have: servers skip such names."""
    shutil.copytree(adapter, target)
    tensors, config = load_file(target / WEIGHTS), json.loads((target / CONFIG).read_text())
    (own,) = config["layers_to_transform"]
    moved = {name.replace(f".layers.{own}.", f".layers.{layer}."): values for name, values in tensors.items()}
    save_file({name: values.clone() for name, values in moved.items()}, target / WEIGHTS)
    (target / CONFIG).write_text(json.dumps({**config, "layers_to_transform": [own, layer]}))
    return target
