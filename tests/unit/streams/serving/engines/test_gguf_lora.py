"""The GGUF file of an adapter: llama.cpp's names and layout, the same bytes every time, nothing that does not fit."""

from __future__ import annotations

import json
from hashlib import sha256

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from personalization.planning.model_shape import read_shape
from streams.errors import AdapterMisfitError, SettingsError
from streams.serving.engines.gguf_lora import WEIGHTS_DIGEST, GgufBase, convert, read_gguf_base
from tests.fakes.adapters_on_disk import CONFIG, WEIGHTS, on_layer, write_adapter
from tests.fakes.tiny_models import write_tiny_base

NAME = "base_model.model.model.layers.2.{}.lora_{}.weight"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def tiny(root):
    return write_tiny_base(root / "base")


@pytest.fixture(scope="module")
def base(tiny):
    return GgufBase(
        architecture="llama", shape=read_shape(tiny), heads=4, key_value_heads=2, precision="float32"
    )


@pytest.fixture(scope="module")
def adapter(tiny, root):
    return write_adapter(tiny, root / "adapter", seed=1)


def test_the_file_has_llamacpps_names_scale_and_rows(adapter, base, tmp_path):
    reader = gguf.GGUFReader(convert(adapter, tmp_path / "a.gguf", base))
    told = {name: field.contents() for name, field in reader.fields.items()}
    assert told["general.architecture"] == "llama"
    assert (told["general.type"], told["adapter.type"]) == ("adapter", "lora")
    assert told["adapter.lora.alpha"] == 4.0
    assert told[WEIGHTS_DIGEST] == sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
    stored = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    given = load_file(adapter / WEIGHTS)
    assert len(stored) == len(given) == 14
    for place, module in (("ffn_down", "mlp.down_proj"), ("attn_v", "self_attn.v_proj")):
        for factor in "AB":
            same = given[NAME.format(module, factor)]
            assert np.array_equal(stored[f"blk.2.{place}.weight.lora_{factor.lower()}"], same)
    # Rotary pairs: row h·8 + 2·i + s of llama.cpp's is row h·8 + 4·s + i of the checkpoint's (head size 8).
    turned, plain = stored["blk.2.attn_q.weight.lora_b"], given[NAME.format("self_attn.q_proj", "B")]
    for head in range(4):
        for i in range(4):
            for s in range(2):
                assert np.array_equal(turned[head * 8 + 2 * i + s], plain[head * 8 + 4 * s + i])
    assert np.array_equal(stored["blk.2.attn_q.weight.lora_a"], given[NAME.format("self_attn.q_proj", "A")])


def test_equal_adapters_are_equal_bytes(adapter, base, tmp_path):
    first, second = (convert(adapter, tmp_path / name, base).read_bytes() for name in ("1.gguf", "2.gguf"))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.gguf", "2.gguf"]


def _changed(adapter, target, *, config=None, weights=None):
    target.mkdir()
    document = {**json.loads((adapter / CONFIG).read_text()), **(config or {})}
    (target / CONFIG).write_text(json.dumps(document))
    tensors = load_file(adapter / WEIGHTS)
    save_file(weights(tensors) if weights else tensors, target / WEIGHTS)
    return target


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        ({"r": 64}, None),
        ({"use_dora": True}, None),
        ({"modules_to_save": ["lm_head"]}, None),
        ({"peft_type": "IA3"}, None),
        (None, lambda t: {k: v for k, v in t.items() if "q_proj.lora_A" not in k}),
        (None, lambda t: {k: v[:, :-1].copy() if "down_proj.lora_A" in k else v for k, v in t.items()}),
        (None, lambda t: {k: v * np.nan if "up_proj.lora_B" in k else v for k, v in t.items()}),
        (None, lambda t: {k.replace("mlp.up_proj", "embed_tokens"): v for k, v in t.items()}),
        (None, lambda _: {}),
    ],
)
def test_what_does_not_fit_the_base_is_refused(adapter, base, tmp_path, config, weights):
    bad = _changed(adapter, tmp_path / "bad", config=config, weights=weights)
    with pytest.raises(AdapterMisfitError):
        convert(bad, tmp_path / "bad.gguf", base, most_rank=16)
    assert not (tmp_path / "bad.gguf").exists()


def test_a_layer_that_the_base_does_not_have_is_refused(adapter, base, tmp_path):
    with pytest.raises(AdapterMisfitError, match="does not have"):
        convert(on_layer(adapter, tmp_path / "nowhere", 99), tmp_path / "x.gguf", base)


def test_a_base_that_is_no_gguf_model_is_refused(tmp_path):
    (tmp_path / "base.gguf").write_bytes(b"no model at all, but some bytes of it")
    with pytest.raises(SettingsError, match="no readable GGUF"):
        read_gguf_base(tmp_path / "base.gguf")
