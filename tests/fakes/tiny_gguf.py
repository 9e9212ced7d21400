"""The tiny Llama as a GGUF file with its own tokens, in float32: the real llama.cpp answers with it in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from tests.fakes.tiny_models import VOCABULARY

_PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_tiny_gguf(base: Path, target: Path) -> Path:
    """Write the tiny base in ``base`` (``write_tiny_base``) as llama.cpp reads it, embeddings tied."""
    config = json.loads((base / "config.json").read_text())
    heads, groups, hidden = (
        config[name] for name in ("num_attention_heads", "num_key_value_heads", "hidden_size")
    )
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([{" ": "Ġ", "\n": "Ċ"}.get(token, token) for token in VOCABULARY])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(VOCABULARY) - 3))
    writer.add_token_merges(["a b"])  # there must be one; its token is none of these, so it never acts
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    for name, values in load_file(base / "model.safetensors").items():
        writer.add_tensor(*_placed(name, values.astype(np.float32), {"q_proj": heads, "k_proj": groups}))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _placed(name: str, values: np.ndarray, turned: dict[str, int]) -> tuple[str, np.ndarray]:
    outside = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in outside:
        return outside[name], values
    _, _, layer, *place, _ = name.split(".")
    heads = turned.get(place[-1])
    if heads:
        rows, columns = values.shape
        values = values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return f"blk.{layer}.{_PLACES['.'.join(place)]}.weight", np.ascontiguousarray(values)
