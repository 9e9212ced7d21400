"""The check against forgetting: a candidate still knows public text. It reads nothing private, so it is free."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from personalization.adapters.manifest import GateCheck
from personalization.gates.drift import noise_check

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_FORGETTING_LIMIT = 0.01  # of the base model's loss on public text
PUBLIC_TEXT_CHECK = "public_text"


class TextLosses(Protocol):
    """Mean loss on each public text (nats per token)."""

    @property
    def base(self) -> Sequence[float]:
        """Return those of the base model."""

    @property
    def adapted(self) -> Sequence[float]:
        """Return those with the adapter that is released."""


def public_text_check(
    base: Sequence[float], adapted: Sequence[float], *, limit: float = DEFAULT_FORGETTING_LIMIT
) -> GateCheck:
    """Return the gate's check that an adapter still knows public text: mean loss at most ``limit`` above the base's.

    Args:
        base: loss of the base model on each public text, nats per token.
        adapted: loss with the adapter on the same texts.
        limit: allowed relative increase.

    Raises:
        ValueError: the two lists differ in length or are empty.
    """
    if len(base) != len(adapted) or not base:
        raise ValueError("the base and the adapter must be measured on the same public texts, at least one")
    increase = sum(adapted) / sum(base) - 1.0
    finite = math.isfinite(increase)
    return GateCheck(
        name=PUBLIC_TEXT_CHECK,
        passed=finite and increase <= limit,
        value=increase if finite else None,
        threshold=limit,
        detail="relative increase of the loss on public text",
    )


def public_checks(
    losses: TextLosses | None, noise_length: float | None, limit: float | None
) -> tuple[GateCheck, ...]:
    """Return what is known of a candidate from public text and of its own noise; all of it is free.

    Args:
        losses: on public text; None where it was not measured.
        noise_length: of what the same plan releases for nobody; None where it is not known.
        limit: allowed relative increase of the loss on public text. With a limit, a candidate that was not measured
            fails; None measures without a limit.
    """
    checks = []
    if losses is not None:
        checks.append(
            public_text_check(losses.base, losses.adapted, limit=math.inf if limit is None else limit)
        )
    elif limit is not None:
        checks.append(GateCheck(name=PUBLIC_TEXT_CHECK, passed=False, threshold=limit, detail="not measured"))
    if limit is None:  # an infinite threshold has no place in canonical JSON
        checks = [replace(check, threshold=None) for check in checks]
    if noise_length is not None:
        checks.append(noise_check(noise_length))
    return tuple(checks)
