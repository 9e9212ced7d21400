"""The public widths of a base model, read from its ``config.json`` without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personalization.errors import PersonalizationError

if TYPE_CHECKING:
    from pathlib import Path


class BaseModelShapeError(PersonalizationError):
    """The base model's ``config.json`` is missing or lacks a width."""

    code = "personalization.base.shape"
    exit_status = 2


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Widths of a Llama-like decoder."""

    layers: int
    hidden: int
    query: int  # heads × head size
    key_value: int  # key-value heads × head size
    intermediate: int

    def linear(self, module: str) -> tuple[int, int]:
        """Return (inputs, outputs) of a linear layer named by its suffix, such as ``q_proj``."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }[module]


def read_shape(base_model: Path) -> ModelShape:
    """Return the shape of the base model in a directory.

    Raises:
        BaseModelShapeError: there is no ``config.json``, or it is not that of a Llama-like decoder.
    """
    try:
        config = json.loads((base_model / "config.json").read_bytes())
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        head = int(config.get("head_dim") or hidden // heads)
        return ModelShape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            query=heads * head,
            key_value=int(config.get("num_key_value_heads") or heads) * head,
            intermediate=int(config["intermediate_size"]),
        )
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise BaseModelShapeError(
            "the base model's config.json is missing or not of a Llama-like decoder; point to another base"
        ) from error
