"""The two files of a portable LoRA adapter, and what servers take without being told otherwise."""

from __future__ import annotations

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_SERVER_RANK = 16  # what servers allow by default (vLLM, max_lora_rank)
