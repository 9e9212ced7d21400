"""Measure on public text what an adapter changes, token by token, so that a server can prove that it applies it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from personalization.adapters.activation import Activation, ProbePoint, TokenProbe
from personalization.planning.plan import PerformanceFlags
from personalization.training.engine.batches import Member, assemble
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder, TokenExample, TokenRow, TokenUser
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.low_rank import Binding
from personalization.training.jobs.job import ExampleKind
from personalization.training.public.texts import PUBLIC_PAIRS
from personalization.training.run.measure import adapter_binding

PROBES = 7
POINTS = 3  # before the first tokens of the answer: where styles differ most
WATCHED = 5  # next tokens at each point
TOLD = (
    15  # only tokens among so many likeliest ones, without and with the adapter: servers tell no more than 20
)
_DECIMALS = 5
_PRECISIONS = {
    torch.float32: "float32",
    torch.float64: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def measure_activation(
    adapters: Sequence[Path], base_model: Path, flags: PerformanceFlags
) -> tuple[Activation, ...]:
    """Return what each adapter changes on public text; the base is measured once.

    Args:
        adapters: portable adapters of the base.
        base_model: a local base model.
        flags: device to run on.
    """
    decoder, encoder = loaded_base(base_model, flags)
    rows = [_row(encoder, prompt, answer) for prompt, answer in PUBLIC_PAIRS[:PROBES]]
    base = _log_probabilities(decoder, rows, None)
    return tuple(
        _activation(
            decoder, encoder, rows, base, _log_probabilities(decoder, rows, adapter_binding(decoder, adapter))
        )
        for adapter in adapters
    )


def _row(encoder: Encoder, prompt: str, answer: str) -> TokenRow:
    before = encoder.prompt(prompt)
    after = list(encoder.tokenizer(answer, add_special_tokens=False)["input_ids"])[:POINTS]
    return TokenRow((*before, *after), len(before))


@torch.no_grad()
def _log_probabilities(
    decoder: FrozenDecoder, rows: Sequence[TokenRow], binding: Binding | None
) -> torch.Tensor:
    """Return ``(points of all rows, vocabulary)``."""
    users = [TokenUser((TokenExample((row,), ExampleKind.SFT, 1.0),)) for row in rows]
    wide = torch.promote_types(decoder.dtype, torch.float32)
    micro = assemble([Member(0, user, ()) for user in users], decoder.device, wide)
    hidden = decoder.embed(micro.tokens)
    out = decoder.run(hidden, micro.batch, range(decoder.layer_count), binding, labels_only=True)
    return decoder.head.log_probabilities(out).to("cpu", torch.float64)


def _activation(
    decoder: FrozenDecoder,
    encoder: Encoder,
    rows: Sequence[TokenRow],
    base: torch.Tensor,
    adapted: torch.Tensor,
) -> Activation:
    told = (base >= _least_told(base)) & (adapted >= _least_told(adapted))
    score = torch.where(told, base + adapted, float("-inf"))
    likeliest = score.topk(min(WATCHED, base.shape[1]), dim=1)
    watched = [
        sorted(token for token, value in zip(*row, strict=True) if value > float("-inf"))
        for row in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    ]
    at, probes = 0, []
    for (prompt, _), row in zip(PUBLIC_PAIRS[:PROBES], rows, strict=True):
        points = []
        for after in range(row.first_label, len(row.tokens)):
            without, with_it = (
                tuple(round(float(values[at, token]), _DECIMALS) for token in watched[at])
                for values in (base, adapted)
            )
            if watched[at]:
                points.append(
                    ProbePoint(after=after, tokens=tuple(watched[at]), base=without, adapter=with_it)
                )
            at += 1
        if not points:
            continue
        read = row.tokens[: len(row.tokens) - 1]
        probes.append(
            TokenProbe(
                prompt=prompt,
                completion=str(encoder.tokenizer.decode(read[row.first_label :])),
                tokens=read,
                points=tuple(points),
            )
        )
    return Activation.measured(tuple(probes), _PRECISIONS[decoder.dtype])


def _least_told(values: torch.Tensor) -> torch.Tensor:
    return values.topk(min(TOLD, values.shape[1]), dim=1).values[:, -1:]
