"""Measure a base model with and without an adapter: loss per user, and greedy answers.

These functions read raw texts and return exact numbers. On users of a tenant's private data each result is a release
that must be charged; on users who were never stored, or on public texts, it is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from personalization.planning.plan import Family, Objective, PerformanceFlags
from personalization.training.engine.batches import Member, assemble, split_users
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import TokenUser
from personalization.training.engine.families import Geometry, Slot
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.low_rank import Binding
from personalization.training.engine.portable import read_factors
from personalization.training.jobs.job import UserExamples

_TOKENS_PER_PASS = 2048


def nll_per_user(
    model_dir: Path,
    adapter: Path | None,
    users: Sequence[UserExamples],
    *,
    max_tokens: int = 96,
    flags: PerformanceFlags | None = None,
) -> list[float]:
    """Return each user's mean negative log-likelihood per token.

    Args:
        model_dir: a local base model.
        adapter: a portable LoRA directory, or None for the plain base.
        users: users with at least one example each; a user's value is the mean over examples of the mean over labels.
        max_tokens: truncation length, as in the plan.
        flags: device to run on.

    Returns:
        One number in nats per token for each user; their mean is the macro average.
    """
    decoder, encoder = loaded_base(model_dir, flags or PerformanceFlags())
    binding = adapter_binding(decoder, adapter) if adapter is not None else None
    encoded = [
        encoder.user(user, bound=len(user.examples), objective=Objective.SFT, max_tokens=max_tokens)
        for user in users
    ]
    order = sorted(range(len(users)), key=lambda number: _longest(encoded[number]))
    losses = [0.0] * len(users)
    at = 0
    for run in split_users([Member(0, encoded[number], ()) for number in order], _TOKENS_PER_PASS):
        micro = assemble(run, decoder.device, torch.promote_types(decoder.dtype, torch.float32))
        with torch.no_grad():
            hidden = decoder.embed(micro.tokens)
            out = decoder.run(hidden, micro.batch, range(decoder.layer_count), binding, labels_only=True)
            weighted = micro.terms.sft * decoder.head.label_nll(out, micro.batch.targets)
        owner = micro.batch.label_groups.users.of_token
        sums = torch.zeros(len(run), dtype=weighted.dtype, device=weighted.device).index_add_(
            0, owner, weighted
        )
        for value in sums.tolist():
            losses[order[at]] = value
            at += 1
    return losses


def generate(
    model_dir: Path,
    adapter: Path | None,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    flags: PerformanceFlags | None = None,
) -> list[str]:
    """Return greedy answers, computed by transformers and plain ``peft`` as a serving system would.

    Args:
        model_dir: a local base model.
        adapter: a portable LoRA directory, or None.
        prompts: user turns.
        max_new_tokens: longest answer.
        flags: device to run on.
    """
    decoder, encoder = loaded_base(model_dir, flags or PerformanceFlags())
    tokenizer, model = encoder.tokenizer, decoder.model
    encoded = [encoder.prompt(prompt) for prompt in prompts]
    longest = max(len(tokens) for tokens in encoded)
    fill = [[encoder.end_token] * (longest - len(tokens)) for tokens in encoded]
    ids = torch.tensor(
        [[*pad, *tokens] for pad, tokens in zip(fill, encoded, strict=True)], device=decoder.device
    )
    seen = torch.tensor(
        [[0] * len(pad) + [1] * len(tokens) for pad, tokens in zip(fill, encoded, strict=True)],
        device=decoder.device,
    )

    def answer(runner: Any) -> list[str]:
        out = runner.generate(
            input_ids=ids,
            attention_mask=seen,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=encoder.end_token,
            eos_token_id=encoder.end_token,
        )
        texts: list[str] = tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    if adapter is None:
        return answer(model)
    from peft import PeftModel  # noqa: PLC0415  seconds to import, and only needed here

    wrapped = PeftModel.from_pretrained(model, str(adapter))
    try:
        return answer(wrapped)
    finally:
        wrapped.unload()  # puts the plain linear layers back


def adapter_binding(decoder: FrozenDecoder, directory: Path) -> Binding:
    """Bind any portable LoRA to the decoder as one tenant."""
    factors, scaling = read_factors(directory)
    slots, parts, at = [], [], 0
    rank = next(iter(factors.values()))[0].shape[0]
    for (layer, suffix), (down, up) in factors.items():
        d_in, d_out = down.shape[1], up.shape[0]
        first, second = slice(at, at + rank * d_in), slice(at + rank * d_in, at + rank * (d_in + d_out))
        slots.append(Slot(layer, suffix, d_in, d_out, first, second))
        parts += [down.flatten(), up.t().flatten()]
        at = second.stop
    layers = tuple(sorted({slot.layer for slot in slots}))
    geometry = Geometry(Family.FULL, rank, scaling * rank, layers, tuple(slots), at)
    vector = torch.cat(parts).to(decoder.device, torch.promote_types(decoder.dtype, torch.float32))
    return Binding(geometry, {}, vector[None], None)


def _longest(user: TokenUser) -> int:
    return max(row.length for example in user.examples for row in example.rows)
