"""Arithmetic of combined adapters touches the private part alone, and what it writes says so in equal bytes."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from personalization.adapters.factors import (
    average_versions,
    blend,
    read_config,
    split_factors,
    write_adapter,
)
from personalization.adapters.files import CONFIG, WEIGHTS
from personalization.adapters.manifest import LoraShape
from personalization.adapters.parts import has_public_part, private_entry, private_names
from personalization.adapters.tensors import read_metadata, read_tensors
from personalization.errors import ArtifactFormatError, MetaStartError

ROOT = "base_model.model.model.layers"
PRIVATE = [f"{ROOT}.1.mlp.{module}" for module in ("gate_proj", "up_proj", "down_proj")]
PUBLIC = [
    f"{ROOT}.{layer}.self_attn.{module}" for layer in (0, 1) for module in ("q_proj", "v_proj")
]  # fewer than a real one: the arithmetic does not count them
MODULES = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
DOWN = {name: np.eye(2, 3) for name in PRIVATE}


def adapter(folder, seed, *, combined):
    """An adapter in one frozen subspace whose public part is of no subspace."""
    random = np.random.default_rng(seed)
    up = {name: random.normal(size=(3, 2)) for name in PRIVATE}
    config = {
        "r": 2,
        "lora_alpha": 2.0,
        "target_modules": MODULES[2:],
        "layers_to_transform": [1],
    }
    write_adapter(folder, config, DOWN, up)
    if combined:
        tensors = load_file(folder / WEIGHTS)
        for name in PUBLIC:
            tensors[f"{name}.lora_A.weight"] = random.normal(size=(2, 3)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(size=(3, 2)).astype(np.float32)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", **private_entry(PRIVATE)})
        whole = {**config, "target_modules": MODULES, "layers_to_transform": [0, 1]}
        (folder / CONFIG).write_text(json.dumps(whole))
    return folder


@given(
    kinds=st.lists(st.booleans(), min_size=2, max_size=4),
    seed=st.integers(0, 10_000),
    share=st.floats(0, 0.99),
)
def test_averages_and_blends_mix_private_parts_and_keep_the_newest_public_part(kinds, seed, share):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [adapter(folder / str(at), seed + at, combined=kind) for at, kind in enumerate(kinds)]
        newest = made[-1]
        blend(made[0], newest, folder / "blend", share=share)
        average_versions(made, folder / "average", decay=0.5)
        plain = [
            adapter(folder / f"plain{at}", seed + at, combined=False) for at in range(len(made))
        ]  # the same private parts
        blend(plain[0], plain[-1], folder / "plain blend", share=share)
        average_versions(plain, folder / "plain average", decay=0.5)
        for one, alike in (("blend", "plain blend"), ("average", "plain average")):
            down, up = split_factors(folder / one)
            for mine, theirs in zip((down, up), split_factors(folder / alike), strict=True):
                assert set(mine) == set(theirs) == set(PRIVATE)
                assert all(np.allclose(mine[key], theirs[key], atol=1e-6) for key in mine)
            assert has_public_part(folder / one) == kinds[-1]
            assert private_names(folder / one) == private_names(newest)
            assert read_config(folder / one) == read_config(folder / alike)
            assert json.loads((folder / one / CONFIG).read_text()) == json.loads(
                (newest / CONFIG).read_text()
            )
            here, there = load_file(folder / one / WEIGHTS), load_file(newest / WEIGHTS)
            assert set(here) == set(there)
            assert all(np.array_equal(here[key], there[key]) for key in here if "self_attn" in key)


def test_a_combined_adapter_is_written_in_equal_bytes(tmp_path):
    whole = adapter(tmp_path / "one", 1, combined=True)
    other = adapter(tmp_path / "two", 2, combined=True)
    written = set()
    for attempt in range(8):  # the library that writes the file keeps its metadata in no order
        target = tmp_path / f"blend{attempt}"
        blend(other, whole, target, share=0.5)
        written.add((target / WEIGHTS).read_bytes())
    assert len(written) == 1
    assert len(read_tensors(target / WEIGHTS)) == 2 * len(PRIVATE + PUBLIC)


def test_public_parts_need_no_common_subspace_but_private_ones_do(tmp_path):
    one, two = (adapter(tmp_path / str(seed), seed, combined=True) for seed in (1, 2))
    blend(one, two, tmp_path / "blend", share=0.5)
    tensors = load_file(two / WEIGHTS)
    tensors[f"{PRIVATE[0]}.lora_A.weight"] += 1
    save_file(tensors, two / WEIGHTS, metadata={"format": "pt", **private_entry(PRIVATE)})
    with pytest.raises(MetaStartError, match="subspace"):
        blend(one, two, tmp_path / "no", share=0.5)


@pytest.mark.parametrize(
    "data",
    [b"", b"short", (1 << 40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]",
     (22).to_bytes(8, "little") + b'{"__metadata__":{"a":1}'],
)  # fmt: skip
def test_metadata_of_what_is_no_safetensors_file_is_refused(tmp_path, data):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ArtifactFormatError):
        private_names(folder)


def test_a_file_without_metadata_has_no_public_part(tmp_path):
    folder = adapter(tmp_path / "one", 1, combined=False)
    assert read_metadata(folder / WEIGHTS) == {"format": "pt"}
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)
    assert not has_public_part(folder)
    shutil.rmtree(folder)


def test_the_private_shape_is_that_of_the_last_block():
    lora = LoraShape(
        family="core", rank=2, alpha=2.0, target_modules=tuple(MODULES), layers=(0, 1),
        trainable_parameters=1, dtype="F32", tensor_digest="sha256:" + "0" * 64,
    )  # fmt: skip
    own = lora.private_part()
    assert own == replace(lora, layers=(1,), target_modules=("down_proj", "gate_proj", "up_proj"))
